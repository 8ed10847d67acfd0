// Copies between element types and layouts, concatenation and slices on an NVIDIA GPU: a thread per element of the result, in the order in
// which the result lies in memory; equal types and layouts go to the copy engine.
#include "falconet/base/error.h"
#include "falconet/device/cuda/check.h"
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
__device__ void logical_of(Side const& to, std::int64_t j, std::int64_t& n, std::int64_t& c, std::int64_t& r) {
  if (to.last) c = j % to.channels, r = j / to.channels % to.rest, n = j / to.channels / to.rest;
  else r = j % to.rest, c = j / to.rest % to.channels, n = j / to.rest / to.channels;
}

__global__ void __launch_bounds__(threads) copy_elements(Side from, Side to, std::int64_t elements) {
  wait_for_work_ahead();
  std::int64_t const j = blockIdx.x * std::int64_t(threads) + threadIdx.x;
  if (j >= elements) return;
  std::int64_t n, c, r;
  logical_of(to, j, n, c, r);
  std::int64_t const i = (n * to.channels + c) * to.rest + r;   // its number in the logical order, the same on both sides
  std::int64_t const rest = i % from.rest, channel = i / from.rest % from.channels;
  move(from, from.at(i / from.rest / from.channels, channel, rest), to, j);
}

// `count` channels from channel `source` on go to channel `target` on.
__global__ void __launch_bounds__(threads) copy_channels(Side from, std::int64_t source, Side to, std::int64_t target, std::int64_t count, std::int64_t elements) {
  std::int64_t const j = blockIdx.x * std::int64_t(threads) + threadIdx.x;
  if (j >= elements) return;
  Side part = to;
  part.channels = count;
  std::int64_t n, c, r;
  logical_of(part, j, n, c, r);
  move(from, from.at(n, source + c, r), to, to.at(n, target + c, r));
}

std::string reject(CopyProblem const& p, DeviceFacts const&) {
  return p.to.shape.elements() >= std::int64_t(1) << 38 ? "2^38 elements or more" : "";
}
double seconds(CopyProblem const& p, DeviceFacts const&) { return 2e-6 + bytes_of(p.operands()) / 2e12; }

unsigned blocks_for(std::int64_t elements) { return unsigned((elements + threads - 1) / threads); }

void run(CopyProblem const& p, Config const&, CopyArgs const& a, View, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  std::int64_t const elements = p.to.shape.elements();
  if (elements == 0) return;
  Side const to = side_of(a.to);
  auto const channels = [&](View const& from, std::int64_t source, std::int64_t target, std::int64_t count) {
    std::int64_t const moved = elements / to.channels * count;
    if (moved) copy_channels<<<blocks_for(moved), threads, 0, stream>>>(side_of(from), source, to, target, count, moved);
  };
  if (p.kind == CopyKind::copy) {
    bool const alike = p.from.dtype == p.to.dtype && (p.from == p.to || (p.from.layout == Layout::nchw && p.to.layout == Layout::nchw));
    if (alike) check_cuda(cudaMemcpyAsync(a.to.data, a.from.data, p.to.bytes(), cudaMemcpyDeviceToDevice, stream), "cudaMemcpyAsync", p.text());
    else launch_ahead(copy_elements, dim3(blocks_for(elements)), dim3(threads), 0, 1, stream, side_of(a.from), to, elements);
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
