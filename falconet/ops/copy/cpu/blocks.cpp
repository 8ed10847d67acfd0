// Copies between NHWC images and row-major tensors (flatten, its gradient, changes of layout), and between f32 and bf16.
// An NHWC image is a matrix of h*w pixels by c channels, its row-major form the transpose: it is moved in blocks of 4 x 4, which
// in f32 are transposed in registers (Eklundh 1972: swap off-diagonal halves of ever smaller squares).
// Limits: equal element types, or f32 and bf16; n images of one size. Cost: every element read once and written once.
#include <cstdint>

namespace falconet {

struct CopyBlocks {
  // out[c * out_stride + r] = in[r * columns + c] for r < rows, c < columns; element types by their codes below.
  void (*transpose)(int from, int to, void const* in, long rows, long columns, void* out, long out_stride);
  // out[i] = in[i]
  void (*convert)(int from, int to, void const* in, void* out, long count);
};
enum CopyElement : int { copy_bytes1, copy_bytes2, copy_f32, copy_bytes8, copy_bf16 };   // bytes: moved as they are

}  // namespace falconet

#ifdef FALCONET_ISA
#include "falconet/device/cpu/simd.h"
#include "falconet/device/cpu/simd_load.h"

namespace falconet::FALCONET_ISA {
namespace {

HWY_INLINE void put(float v, float& to) { to = v; }
HWY_INLINE void put(float v, bf16& to) { to = to_bf16(v); }
HWY_INLINE void put(bf16 v, float& to) { to = to_float(v); }
template <class T>
HWY_INLINE void put(T v, T& to) { to = v; }

template <class From, class To>
void transpose_scalar(From const* in, long rows, long columns, long in_stride, To* out, long out_stride) {
  for (long r = 0; r < rows; r += 8)
    for (long c = 0; c < columns; ++c)
      for (long i = r; i < rows && i < r + 8; ++i) put(in[i * in_stride + c], out[c * out_stride + i]);
}

#if HWY_TARGET != HWY_SCALAR
// Both f32 (or any four-byte elements: they pass through registers unchanged).
void transpose_f32(float const* in, long rows, long columns, float* out, long out_stride) {
  hn::CappedTag<float, 4> const d;
  hn::Repartition<double, decltype(d)> const dd;
  long const full_rows = rows & ~3L, full_columns = columns & ~3L;
  for (long r = 0; r < full_rows; r += 4)
    for (long c = 0; c < full_columns; c += 4) {
      float const* const from = in + r * columns + c;
      auto const a0 = hn::LoadU(d, from), a1 = hn::LoadU(d, from + columns);
      auto const a2 = hn::LoadU(d, from + 2 * columns), a3 = hn::LoadU(d, from + 3 * columns);
      auto const low01 = hn::BitCast(dd, hn::InterleaveLower(d, a0, a1)), low23 = hn::BitCast(dd, hn::InterleaveLower(d, a2, a3));
      auto const high01 = hn::BitCast(dd, hn::InterleaveUpper(d, a0, a1)), high23 = hn::BitCast(dd, hn::InterleaveUpper(d, a2, a3));
      float* const to = out + c * out_stride + r;
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(dd, low01, low23)), d, to);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(dd, low01, low23)), d, to + out_stride);
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(dd, high01, high23)), d, to + 2 * out_stride);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(dd, high01, high23)), d, to + 3 * out_stride);
    }
  transpose_scalar(in + full_columns, full_rows, columns - full_columns, columns, out + full_columns * out_stride, out_stride);
  transpose_scalar(in + full_rows * columns, rows - full_rows, columns, columns, out + full_rows, out_stride);
}
#else
void transpose_f32(float const* in, long rows, long columns, float* out, long out_stride) {
  transpose_scalar(in, rows, columns, columns, out, out_stride);
}
#endif

template <class From, class To>
void transpose_as(void const* in, long rows, long columns, void* out, long out_stride) {
  transpose_scalar(static_cast<From const*>(in), rows, columns, columns, static_cast<To*>(out), out_stride);
}
void transpose(int from, int to, void const* in, long rows, long columns, void* out, long out_stride) {
  if (from == copy_f32 && to == copy_bf16) transpose_as<float, bf16>(in, rows, columns, out, out_stride);
  else if (from == copy_bf16 && to == copy_f32) transpose_as<bf16, float>(in, rows, columns, out, out_stride);
  else if (from == copy_f32) transpose_f32(static_cast<float const*>(in), rows, columns, static_cast<float*>(out), out_stride);
  else if (from == copy_bytes1) transpose_as<std::uint8_t, std::uint8_t>(in, rows, columns, out, out_stride);
  else if (from == copy_bytes8) transpose_as<std::uint64_t, std::uint64_t>(in, rows, columns, out, out_stride);
  else transpose_as<std::uint16_t, std::uint16_t>(in, rows, columns, out, out_stride);
}

template <class From, class To>
void convert_as(void const* in, void* out, long count) {
  auto const* const from = static_cast<From const*>(in);
  auto* const to = static_cast<To*>(out);
  with_lanes(count, [&](auto d) { for_lanes(d, count, [&](long at) HWY_ATTR { store_f32(load_f32(d, from + at), d, to + at); }); });
}
void convert(int from, int, void const* in, void* out, long count) {
  if (from == copy_f32) convert_as<float, bf16>(in, out, count);
  else convert_as<bf16, float>(in, out, count);
}

}  // namespace

extern CopyBlocks const copy_blocks_kernels;
CopyBlocks const copy_blocks_kernels = {transpose, convert};

}  // namespace falconet::FALCONET_ISA

#else
#include <algorithm>

#include "falconet/ops/copy/algorithms.h"

namespace falconet {
FALCONET_DECLARE_KERNELS(CopyBlocks, copy_blocks_kernels)
namespace {

CopyElement element(DType own, DType other) {
  if (own != other) return own == DType::f32 ? copy_f32 : copy_bf16;
  switch (size_of(own)) {
    case 1: return copy_bytes1;
    case 2: return copy_bytes2;
    case 4: return copy_f32;
    default: return copy_bytes8;
  }
}

std::string reject(CopyProblem const& p, DeviceFacts const&) {
  if (p.kind != CopyKind::copy) return "needs a copy";
  bool const converts = (p.from.dtype == DType::f32 && p.to.dtype == DType::bf16) || (p.from.dtype == DType::bf16 && p.to.dtype == DType::f32);
  if (p.from.dtype != p.to.dtype && !converts) return "needs equal element types, or f32 and bf16";
  bool const from_nhwc = p.from.layout == Layout::nhwc, to_nhwc = p.to.layout == Layout::nhwc;
  if (from_nhwc && to_nhwc && p.from.shape != p.to.shape) return "needs equal shapes between nhwc images";
  if (from_nhwc == to_nhwc && !converts) return "needs a change of layout or element type";
  return {};
}

double seconds(CopyProblem const& p, DeviceFacts const& facts) {
  bool const transposes = p.from.layout != p.to.layout;
  bool const registers = transposes && p.from.dtype == p.to.dtype && size_of(p.from.dtype) == 4 && facts.isa != Isa::plain;
  return double(p.from.bytes() + p.to.bytes()) / 10e9 + double(p.to.shape.elements()) * (transposes && !registers ? 5e-10 : 1e-10);
}

void run(CopyProblem const& p, Config const&, CopyArgs const& args, View, Stream& stream) {
  auto const elements = p.to.shape.elements();
  if (elements == 0) return;
  auto const& kernels = FALCONET_KERNELS(stream.isa(), copy_blocks_kernels);
  int const from_code = element(p.from.dtype, p.to.dtype), to_code = element(p.to.dtype, p.from.dtype);
  auto const from_size = std::int64_t(size_of(p.from.dtype)), to_size = std::int64_t(size_of(p.to.dtype));
  auto const* const in = args.from.as<char const>();
  auto* const out = args.to.as<char>();
  constexpr std::int64_t task_elements = 32768;
  if (p.from.layout == p.to.layout) {
    int const tasks = int((elements + task_elements - 1) / task_elements);
    stream.threads().run(tasks, [&](int task) {
      std::int64_t const begin = elements * task / tasks, end = elements * (task + 1) / tasks;
      kernels.convert(from_code, to_code, in + begin * from_size, out + begin * to_size, end - begin);
    });
    return;
  }
  // A task is a range of images, or of one image's rows of the matrix that is read.
  Shape const& s = p.from.layout == Layout::nhwc ? p.from.shape : p.to.shape;
  std::int64_t const pixels = s[2] * s[3], image = s[1] * pixels;
  std::int64_t const rows = p.from.layout == Layout::nhwc ? pixels : s[1], columns = image / rows;
  std::int64_t const parts = std::clamp<std::int64_t>(image / task_elements, 1, rows);   // of one image
  std::int64_t const units = s[0] * parts;
  int const tasks = int(std::clamp<std::int64_t>(elements / task_elements, 1, units));
  stream.threads().run(tasks, [&](int task) {
    for (std::int64_t unit = units * task / tasks; unit < units * (task + 1) / tasks; ++unit) {
      std::int64_t const begin = rows * (unit % parts) / parts, end = rows * (unit % parts + 1) / parts, first = unit / parts * image;
      kernels.transpose(from_code, to_code, in + (first + begin * columns) * from_size, end - begin, columns, out + (first + begin) * to_size, rows);
    }
  });
}

}  // namespace

Algorithm<CopyProblem> copy_blocks() {
  return {.name = "blocks", .target = DeviceKind::cpu, .reject = reject, .seconds = seconds, .run = run};
}

}  // namespace falconet
#endif
