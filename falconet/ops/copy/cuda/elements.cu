// Copies between element types and layouts, concatenation and slices on an NVIDIA GPU: a thread per element of the result, in the order in
// which the result lies in memory; equal types and layouts go to the copy engine, f32 and bf16 in the same order are converted 8 at a time.
#include <algorithm>

#include "falconet/base/error.h"
#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/element.cuh"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/ops/copy/algorithms.h"
#include "falconet/tensor/bf16.h"

namespace falconet {
namespace {

constexpr int threads = 256;

struct Side {
  void* data;
  DType type;
  bool last;                       // nhwc
  std::int64_t channels, rest;     // c, and everything past the channels
  // Where logical element (n, c, r) lies.
  __host__ __device__ std::int64_t at(std::int64_t n, std::int64_t c, std::int64_t r) const {
    return last ? (n * rest + r) * channels + c : (n * channels + c) * rest + r;
  }
};
Side side_of(View const& v) {
  auto const& s = v.type.shape;
  std::int64_t const n = s.rank() > 0 ? s[0] : 1, c = s.rank() > 1 ? s[1] : 1;
  return {v.data, v.type.dtype, v.type.layout == Layout::nhwc, c, n > 0 && c > 0 ? s.elements() / (n * c) : 0};
}

__device__ double get(void const* data, DType t, std::int64_t i) {
  switch (t) {
    case DType::f64: return static_cast<double const*>(data)[i];
    case DType::f32: return double(static_cast<float const*>(data)[i]);
    case DType::bf16: return double(to_float(static_cast<bf16 const*>(data)[i]));
    case DType::u8: return double(static_cast<std::uint8_t const*>(data)[i]);
    case DType::i32: return double(static_cast<std::int32_t const*>(data)[i]);
  }
  return 0;
}
__device__ void set(void* data, DType t, std::int64_t i, double v) {
  switch (t) {
    case DType::f64: static_cast<double*>(data)[i] = v; break;
    case DType::f32: static_cast<float*>(data)[i] = float(v); break;
    case DType::bf16: static_cast<bf16*>(data)[i] = to_bf16(float(v)); break;
    case DType::u8: static_cast<std::uint8_t*>(data)[i] = std::uint8_t(v); break;
    case DType::i32: static_cast<std::int32_t*>(data)[i] = std::int32_t(v); break;
  }
}
__device__ void move(Side const& from, std::int64_t i, Side const& to, std::int64_t j) {
  if (from.type == to.type && from.type == DType::bf16) static_cast<bf16*>(to.data)[j] = static_cast<bf16 const*>(from.data)[i];
  else if (from.type == to.type && from.type == DType::f32) static_cast<float*>(to.data)[j] = static_cast<float const*>(from.data)[i];
  else set(to.data, to.type, j, get(from.data, from.type, i));
}

// Element j of `to` as it lies is logical element (n, c, r).
template <class Index>
__device__ void logical_of(bool last, Index channels, Index rest, Index j, Index& n, Index& c, Index& r) {
  Index const inner = last ? channels : rest, outer = last ? rest : channels, line = j / inner, a = j - line * inner;
  n = line / outer;
  Index const b = line - n * outer;
  c = last ? a : b, r = last ? b : a;
}

// Index: 32 bits wherever they do, since the six divisions are most of the work.
template <class Index>
__global__ void __launch_bounds__(threads) copy_elements(Side from, Side to, Index elements) {
  wait_for_work_ahead();
  Index const j = blockIdx.x * Index(threads) + threadIdx.x;
  if (j >= elements) return;
  Index const to_channels = Index(to.channels), to_rest = Index(to.rest), from_channels = Index(from.channels), from_rest = Index(from.rest);
  Index n, c, r;
  logical_of(to.last, to_channels, to_rest, j, n, c, r);
  Index const i = (n * to_channels + c) * to_rest + r;   // its number in the logical order, the same on both sides
  Index const in = i / from_rest, rest = i - in * from_rest, image = in / from_channels, channel = in - image * from_channels;
  move(from, from.at(image, channel, rest), to, j);
}

// Between channels-last images and the logical order (flattening): image by image a matrix [rows][columns] becomes [columns][rows], by squares of
// 32 in shared memory, so that both sides are read and written along their lines. blockIdx: columns, rows, image.
template <class E>
__global__ void __launch_bounds__(threads) transpose_images(E const* from, E* to, int rows, int columns) {
  __shared__ E square[32][33];
  wait_for_work_ahead();
  std::int64_t const image = std::int64_t(blockIdx.z) * rows * columns;
  int const x = threadIdx.x % 32, y = threadIdx.x / 32, column = blockIdx.x * 32, row = blockIdx.y * 32;
#pragma unroll
  for (int i = y; i < 32; i += threads / 32)
    if (row + i < rows && column + x < columns) square[i][x] = from[image + std::int64_t(row + i) * columns + column + x];
  __syncthreads();
#pragma unroll
  for (int i = y; i < 32; i += threads / 32)
    if (column + i < columns && row + x < rows) to[image + std::int64_t(column + i) * rows + row + x] = square[x][i];
}
// Whether the copy is such a one; does it.
bool transposed(Side const& from, Side const& to, std::int64_t elements, cudaStream_t stream) {
  bool const straight = !from.last || from.rest == 1, flat = !to.last || to.rest == 1;   // lies in the logical order
  if (straight == flat || from.type != to.type || (from.type != DType::bf16 && from.type != DType::f32)) return false;
  Side const& images = straight ? to : from;
  std::int64_t const count = elements / (images.channels * images.rest), rows = straight ? images.channels : images.rest, columns = straight ? images.rest : images.channels;
  dim3 const grid(unsigned((columns + 31) / 32), unsigned((rows + 31) / 32), unsigned(count));
  if (count > 65535 || std::min(rows, columns) < 8 || std::max(rows, columns) > 1 << 20) return false;
  if (from.type == DType::bf16) launch_ahead(transpose_images<bf16>, grid, dim3(threads), 0, 1, stream, static_cast<bf16 const*>(from.data), static_cast<bf16*>(to.data), int(rows), int(columns));
  else launch_ahead(transpose_images<float>, grid, dim3(threads), 0, 1, stream, static_cast<float const*>(from.data), static_cast<float*>(to.data), int(rows), int(columns));
  return true;
}

// Conversion alone, in the order in which both lie: 8 elements per thread, 16 bytes at a time.
template <class From, class To>
__global__ void __launch_bounds__(threads) convert_vectors(From const* from, To* to, std::int64_t vectors) {
  wait_for_work_ahead();
  std::int64_t const first = blockIdx.x * std::int64_t(2 * threads) + threadIdx.x;
  Pack<From, 8> in[2];
#pragma unroll
  for (int t = 0; t < 2; ++t)
    if (first + t * threads < vectors) in[t] = reinterpret_cast<Pack<From, 8> const*>(from)[first + t * threads];
#pragma unroll
  for (int t = 0; t < 2; ++t) {
    if (first + t * threads >= vectors) continue;
    Pack<To, 8> out;
#pragma unroll
    for (int e = 0; e < 8; ++e) put(out.e[e], load(in[t].e[e]));
    reinterpret_cast<Pack<To, 8>*>(to)[first + t * threads] = out;
  }
}
template <class From, class To>
bool convert_in_order(CopyArgs const& a, std::int64_t elements, cudaStream_t stream) {
  auto const aligned = [](void const* p) { return reinterpret_cast<std::uintptr_t>(p) % 32 == 0; };
  if (elements % 8 || !aligned(a.from.data) || !aligned(a.to.data)) return false;
  unsigned const blocks = unsigned((elements / 8 + 2 * threads - 1) / (2 * threads));
  launch_ahead(convert_vectors<From, To>, dim3(blocks), dim3(threads), 0, 1, stream, static_cast<From const*>(a.from.data), static_cast<To*>(a.to.data), elements / 8);
  return true;
}

// Many tensors from f32 to bf16: a block takes 2048 elements of one of them.
constexpr int each_chunk = 8 * threads, most_tensors = 96;
struct Each {
  struct Tensor {
    float const* from;
    bf16* to;
    std::int64_t size;
    int first_block;
  } tensor[most_tensors];
  int count;
};
__global__ void __launch_bounds__(threads) convert_each(const __grid_constant__ Each w) {
  wait_for_work_ahead();
  int low = 0, high = w.count - 1;   // the tensor of this block
  while (low < high) {
    int const middle = (low + high + 1) / 2;
    if (int(blockIdx.x) >= w.tensor[middle].first_block) low = middle;
    else high = middle - 1;
  }
  auto const& t = w.tensor[low];
  std::int64_t const begin = std::int64_t(blockIdx.x - t.first_block) * each_chunk;
  bool const whole = begin + each_chunk <= t.size && reinterpret_cast<std::uintptr_t>(t.from) % 32 == 0 && reinterpret_cast<std::uintptr_t>(t.to) % 16 == 0;
  if (whole) {
    Pack<float, 8> const in = reinterpret_cast<Pack<float, 8> const*>(t.from + begin)[threadIdx.x];
    Pack<bf16, 8> out;
#pragma unroll
    for (int e = 0; e < 8; ++e) put(out.e[e], in.e[e]);
    reinterpret_cast<Pack<bf16, 8>*>(t.to + begin)[threadIdx.x] = out;
    return;
  }
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    std::int64_t const i = begin + e * threads + threadIdx.x;
    if (i < t.size) put(t.to[i], t.from[i]);
  }
}
void convert_all(CopyProblem const& p, CopyArgs const& a, cudaStream_t stream) {
  for (std::size_t from = 0; from < a.parts.size(); from += most_tensors) {
    Each w;
    w.count = int(std::min<std::size_t>(most_tensors, a.parts.size() - from));
    std::int64_t blocks = 0;
    for (int i = 0; i < w.count; ++i) {
      std::size_t const at = from + std::size_t(i);
      w.tensor[i] = {a.parts[at].as<float>(), a.results[at].as<bf16>(), p.channels[at], int(blocks)};
      blocks += (p.channels[at] + each_chunk - 1) / each_chunk;
    }
    if (blocks) launch_ahead(convert_each, dim3(unsigned(blocks)), dim3(threads), 0, 1, stream, w);
  }
}

// `count` channels from channel `source` on go to channel `target` on.
__global__ void __launch_bounds__(threads) copy_channels(Side from, std::int64_t source, Side to, std::int64_t target, std::int64_t count, std::int64_t elements) {
  std::int64_t const j = blockIdx.x * std::int64_t(threads) + threadIdx.x;
  if (j >= elements) return;
  Side part = to;
  part.channels = count;
  std::int64_t n, c, r;
  logical_of(part.last, part.channels, part.rest, j, n, c, r);
  move(from, from.at(n, source + c, r), to, to.at(n, target + c, r));
}

std::string reject(CopyProblem const& p, DeviceFacts const&) {
  if (p.kind == CopyKind::each && (p.from.dtype != DType::f32 || p.to.dtype != DType::bf16)) return "many tensors at once from f32 to bf16 only";
  return p.to.shape.elements() >= std::int64_t(1) << 38 ? "2^38 elements or more" : "";
}
double seconds(CopyProblem const& p, DeviceFacts const&) { return 2e-6 + bytes_of(p.operands()) / 2e12; }

unsigned blocks_for(std::int64_t elements) { return unsigned((elements + threads - 1) / threads); }

void run(CopyProblem const& p, Config const&, CopyArgs const& a, View, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  std::int64_t const elements = p.to.shape.elements();
  if (elements == 0) return;
  if (p.kind == CopyKind::each) {
    convert_all(p, a, stream);
    return check_launch("copy elements", p, stream);
  }
  Side const to = side_of(a.to);
  auto const channels = [&](View const& from, std::int64_t source, std::int64_t target, std::int64_t count) {
    std::int64_t const moved = elements / to.channels * count;
    if (moved) copy_channels<<<blocks_for(moved), threads, 0, stream>>>(side_of(from), source, to, target, count, moved);
  };
  if (p.kind == CopyKind::copy) {
    bool const in_order = (p.from.layout == p.to.layout && p.from.shape == p.to.shape) || (p.from.layout == Layout::nchw && p.to.layout == Layout::nchw);
    bool const alike = in_order && p.from.dtype == p.to.dtype, rounds = in_order && p.from.dtype == DType::f32 && p.to.dtype == DType::bf16,
               widens = in_order && p.from.dtype == DType::bf16 && p.to.dtype == DType::f32;
    if ((rounds && convert_in_order<float, bf16>(a, elements, stream)) || (widens && convert_in_order<bf16, float>(a, elements, stream))) return check_launch("copy elements", p, stream);
    if (alike) check_cuda(cudaMemcpyAsync(a.to.data, a.from.data, p.to.bytes(), cudaMemcpyDeviceToDevice, stream), "cudaMemcpyAsync", p.text());
    else if (transposed(side_of(a.from), to, elements, stream)) return check_launch("copy elements", p, stream);
    else if (elements < std::int64_t(1) << 31)
      launch_ahead(copy_elements<unsigned>, dim3(blocks_for(elements)), dim3(threads), 0, 1, stream, side_of(a.from), to, unsigned(elements));
    else launch_ahead(copy_elements<std::int64_t>, dim3(blocks_for(elements)), dim3(threads), 0, 1, stream, side_of(a.from), to, elements);
  } else if (p.kind == CopyKind::slice) {
    channels(a.from, p.begin, 0, p.to.shape[1]);
  } else {
    std::int64_t target = 0;
    for (auto const& part : a.parts) {
      channels(part, 0, target, part.type.shape[1]);
      target += part.type.shape[1];
    }
  }
  check_launch("copy elements", p, stream);
}

}  // namespace

std::vector<Algorithm<CopyProblem>> copy_cuda_algorithms() {
  return {{.name = "elements", .target = DeviceKind::cuda, .reject = reject, .seconds = seconds, .run = run}};
}

}  // namespace falconet
