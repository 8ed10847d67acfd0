// Pooling and its gradients as the definitions say: a thread per element of the result, which walks over its window, or over all windows that
// might hold its pixel, an element at a time. The kernel to read first, and the baseline. Sums in f32, f64 for f64. Bytes: x (or dy and the winner)
// once per window that holds an element, from the caches; neighbouring threads read neighbouring channels with nhwc, neighbouring columns with nchw.
#include <algorithm>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/element.cuh"
#include "falconet/ops/pool/cuda/algorithms.h"

namespace falconet {
namespace {

constexpr int threads = 256;

struct Place {
  std::int64_t n;
  int c, row, column;
};
// Element `index` of an image batch of p.c channels, `rows` x `columns`, in its layout; and the other way round.
__device__ Place place_of(PoolProblem const& p, std::int64_t index, int rows, int columns) {
  if (p.layout == Layout::nhwc)
    return {index / p.c / columns / rows, int(index % p.c), int(index / p.c / columns % rows), int(index / p.c % columns)};
  return {index / columns / rows / p.c, int(index / columns / rows % p.c), int(index / columns % rows), int(index % columns)};
}
__device__ std::int64_t at(PoolProblem const& p, Place const& i, int row, int column, int rows, int columns) {
  return p.layout == Layout::nhwc ? ((i.n * rows + row) * columns + column) * p.c + i.c : ((i.n * p.c + i.c) * rows + row) * columns + column;
}
__device__ int divisor(PoolProblem const& p, int row, int column) {
  auto const clip = [&](int start, int size, int window, int after) {
    int const end = start + window;
    return p.count_include_pad ? min(end, size + after) - start : min(end, size) - max(start, 0);
  };
  return clip(row * p.stride_h - p.pad_top, p.h, p.r, p.pad_bottom) * clip(column * p.stride_w - p.pad_left, p.w, p.s, p.pad_right);
}

template <class E, class A, class W>
__global__ void __launch_bounds__(threads) pool(PoolProblem const p, std::int64_t elements, E const* x, E* y, W* winner) {
  std::int64_t const index = blockIdx.x * std::int64_t(threads) + threadIdx.x;
  if (index >= elements) return;
  Place const i = place_of(p, index, p.p, p.q);
  A best = 0;
  int which = -1;
  for (int r = 0; r < p.r; ++r)
    for (int s = 0; s < p.s; ++s) {
      int const h = i.row * p.stride_h - p.pad_top + r, w = i.column * p.stride_w - p.pad_left + s;
      if (h < 0 || w < 0 || h >= p.h || w >= p.w) continue;
      A const v = load(x[at(p, i, h, w, p.h, p.w)]);
      if (p.kind == PoolKind::average) best += v;
      else if (which < 0 || v > best || v != v) best = v, which = r * p.s + s;
    }
  put(y[index], p.kind == PoolKind::average ? best / A(divisor(p, i.row, i.column)) : best);
  if (winner) winner[index] = W(which);
}

template <class E, class A, class W>
__global__ void __launch_bounds__(threads) pool_gradient(PoolProblem const p, std::int64_t elements, E const* dy, W const* winner, E* dx) {
  std::int64_t const index = blockIdx.x * std::int64_t(threads) + threadIdx.x;
  if (index >= elements) return;
  Place const i = place_of(p, index, p.h, p.w);
  A sum = 0;
  for (int row = max(0, (i.row + p.pad_top - p.r + p.stride_h) / p.stride_h); row < p.p && row * p.stride_h - p.pad_top <= i.row; ++row)
    for (int column = max(0, (i.column + p.pad_left - p.s + p.stride_w) / p.stride_w); column < p.q && column * p.stride_w - p.pad_left <= i.column;
         ++column) {
      int const r = i.row + p.pad_top - row * p.stride_h, s = i.column + p.pad_left - column * p.stride_w;
      if (r >= p.r || s >= p.s) continue;
      std::int64_t const from = at(p, i, row, column, p.p, p.q);
      if (p.kind == PoolKind::average) sum += A(load(dy[from])) / A(divisor(p, row, column));
      else if (int(winner[from]) == r * p.s + s) sum += A(load(dy[from]));
    }
  put(dx[index], sum);
}

std::string reject(PoolProblem const& p, DeviceFacts const&) {
  if (p.load_x != OnLoad{} || p.result != PoolResult::plain) return "a batch norm in the same launch";
  if (p.type != DType::f64 && p.type != DType::f32 && p.type != DType::bf16) return "f64, f32 and bf16 only";
  return {};
}
double seconds(PoolProblem const& p, DeviceFacts const&) { return 3e-6 + bytes_of(p.operands()) / 0.7e12; }

void run(PoolProblem const& p, Config const&, PoolArgs const& a, View, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  auto const typed = [&](auto e, auto acc, auto w) {
    using E = decltype(e);
    using A = decltype(acc);
    using W = decltype(w);
    std::int64_t const elements = std::int64_t(p.n) * p.c * (p.gradient ? std::int64_t(p.h) * p.w : std::int64_t(p.p) * p.q);
    unsigned const blocks = unsigned((elements + threads - 1) / threads);
    if (p.gradient) pool_gradient<E, A, W><<<blocks, threads, 0, stream>>>(p, elements, a.y.as<E>(), a.winner.as<W>(), a.x.as<E>());
    else pool<E, A, W><<<blocks, threads, 0, stream>>>(p, elements, a.x.as<E>(), a.y.as<E>(), a.winner.as<W>());
  };
  bool const small = PoolProblem::winner_type(p.r, p.s) == DType::u8;
  if (p.type == DType::f64) small ? typed(double{}, double{}, std::uint8_t{}) : typed(double{}, double{}, std::int32_t{});
  else if (p.type == DType::f32) small ? typed(float{}, float{}, std::uint8_t{}) : typed(float{}, float{}, std::int32_t{});
  else small ? typed(bf16{}, float{}, std::uint8_t{}) : typed(bf16{}, float{}, std::int32_t{});
  check_launch("pool naive", p, stream);
}

}  // namespace

Algorithm<PoolProblem> const pool_cuda_naive{
    .name = "naive", .target = DeviceKind::cuda, .reject = reject, .seconds = seconds, .run = run, .baseline = true};

}  // namespace falconet
