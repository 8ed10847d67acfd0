// Reductions on an NVIDIA GPU in two stages: blocks sum shares of the pixels (f32, f64 for f64), then the blocks' sums are added in a fixed
// order in f64. The shares depend on the problem alone, so the same bytes come every time. Bound by memory: every operand once.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/element.cuh"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/ops/reduce/algorithms.h"

namespace falconet {
namespace {

using F = ReduceFunction;
constexpr int threads = 256;

template <class E>
struct Work {
  E const *x, *b, *mask;
  StepState const* step;
  std::int64_t n, hw;
  int channels;
  bool nhwc, reads_step;
};

// first, second += the element's contribution to the function's sums.
template <F f, class A>
__device__ void take(A x, A b, bool counts, A& first, A& second) {
  if constexpr (f == F::channel_dot) {
    if (counts) first += x * b, second += x;
  } else {
    first += x;
    if constexpr (f == F::channel_sums) second += x * x;
  }
}

// Channels last: a block takes `share` pixels; a thread v neighbouring channels of every few pixels. Channels first: see below.
// partial[block][2][c].
template <F f, class E, class A, int v>
__global__ void __launch_bounds__(threads) sum_channels_last(Work<E> const w, std::int64_t share, int across, A* partial) {
  extern __shared__ __align__(16) char memory[];
  A* const shared = reinterpret_cast<A*>(memory);            // [threads][2 v]
  std::int64_t const pixels = (w.reads_step ? std::int64_t(w.step->valid_count) : w.n) * w.hw;
  int const down = threads / across, column = threadIdx.x % across, row = threadIdx.x / across;
  std::int64_t const begin = blockIdx.x * share, end = min(pixels, begin + share);
  for (int c0 = blockIdx.y * across * v; c0 < w.channels; c0 += gridDim.y * across * v) {
    int const c = c0 + column * v;
    A first[v] = {}, second[v] = {};
    if (c < w.channels && row < down) {
#pragma unroll 4
      for (std::int64_t pixel = begin + row; pixel < end; pixel += down) {
        std::int64_t const i = pixel * w.channels + c;
        Pack<E, v> const x = *reinterpret_cast<Pack<E, v> const*>(w.x + i);
        Pack<E, v> b = x, mask = x;
        if constexpr (f == F::channel_dot) {
          b = *reinterpret_cast<Pack<E, v> const*>(w.b + i);
          if (w.mask) mask = *reinterpret_cast<Pack<E, v> const*>(w.mask + i);
        }
#pragma unroll
        for (int e = 0; e < v; ++e) take<f, A>(load(x.e[e]), load(b.e[e]), !w.mask || load(mask.e[e]) > 0, first[e], second[e]);
      }
    }
#pragma unroll
    for (int e = 0; e < v; ++e) shared[threadIdx.x * 2 * v + e] = first[e], shared[threadIdx.x * 2 * v + v + e] = second[e];
    __syncthreads();
    if (row == 0 && c < w.channels)
      for (int e = 0; e < v; ++e) {
        A a = first[e], s = second[e];
        for (int r = 1; r < down; ++r) a += shared[(r * across + column) * 2 * v + e], s += shared[(r * across + column) * 2 * v + v + e];
        partial[(std::int64_t(blockIdx.x) * 2) * w.channels + c + e] = a;
        partial[(std::int64_t(blockIdx.x) * 2 + 1) * w.channels + c + e] = s;
      }
    __syncthreads();
  }
}

template <class A>
__device__ A block_sum(A v) {
  __shared__ A sums[threads];
  __syncthreads();
  sums[threadIdx.x] = v;
  for (int half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  return sums[0];
}

// Channels first: block (b, c) takes every gridDim.x-th image of channel c.
template <F f, class E, class A>
__global__ void __launch_bounds__(threads) sum_channels_first(Work<E> const w, A* partial) {
  std::int64_t const images = w.reads_step ? w.step->valid_count : w.n;
  int const c = blockIdx.y;
  A first = 0, second = 0;
  for (std::int64_t n = blockIdx.x; n < images; n += gridDim.x)
    for (std::int64_t at = threadIdx.x; at < w.hw; at += threads) {
      std::int64_t const i = (n * w.channels + c) * w.hw + at;
      A const x = load(w.x[i]);
      take<f, A>(x, f == F::channel_dot ? A(load(w.b[i])) : x, f != F::channel_dot || !w.mask || load(w.mask[i]) > 0, first, second);
    }
  first = block_sum(first);
  second = block_sum(second);
  if (threadIdx.x == 0) partial[std::int64_t(blockIdx.x) * 2 * w.channels + c] = first, partial[(std::int64_t(blockIdx.x) * 2 + 1) * w.channels + c] = second;
}

// out[i] = sum over the blocks of partial[block][i]; a warp per element.
template <class A>
__global__ void __launch_bounds__(threads) add_blocks(A const* partial, int blocks, int elements, int stride, A* out) {
  int const i = blockIdx.x * (threads / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (i >= elements) return;
  double sum = 0;
  for (int b = lane; b < blocks; b += 32) sum += double(partial[std::int64_t(b) * stride + i]);
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  if (lane == 0) out[i] = A(sum);
}

// The mean of all elements of the rows that count, from the blocks' sums.
template <class E, class A>
__global__ void __launch_bounds__(threads) sum_all(E const* x, StepState const* step, std::int64_t rows, std::int64_t row, std::int64_t share, A* partial) {
  std::int64_t const elements = (step ? std::int64_t(step->valid_count) : rows) * row, begin = blockIdx.x * share, end = min(elements, begin + share);
  A sum = 0;
  for (std::int64_t i = begin + threadIdx.x; i < end; i += threads) sum += load(x[i]);
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}
template <class A>
__global__ void __launch_bounds__(threads) finish_mean(A const* partial, int blocks, StepState const* step, std::int64_t rows, std::int64_t row, A* y) {
  double sum = 0;
  for (int i = threadIdx.x; i < blocks; i += threads) sum += double(partial[i]);
  sum = block_sum(sum);
  if (threadIdx.x == 0) *y = A(sum / double((step ? std::int64_t(step->valid_count) : rows) * row));
}

// y[n][c] = sum over the image of a*b: a thread per channel (channels last) or a warp per image and channel (channels first).
template <class E, class A>
__global__ void __launch_bounds__(threads) image_dot(Work<E> const w, E* y) {
  if (w.nhwc) {
    std::int64_t const i = blockIdx.x * std::int64_t(threads) + threadIdx.x;
    if (i >= w.n * w.channels) return;
    std::int64_t const first = i / w.channels * w.hw * w.channels + i % w.channels;
    A sum = 0;
    for (std::int64_t at = 0; at < w.hw; ++at) sum += A(load(w.x[first + at * w.channels])) * A(load(w.b[first + at * w.channels]));
    put(y[i], double(sum));
  } else {
    std::int64_t const i = blockIdx.x * std::int64_t(threads / 32) + threadIdx.x / 32;
    if (i >= w.n * w.channels) return;
    A sum = 0;
    for (std::int64_t at = threadIdx.x % 32; at < w.hw; at += 32) sum += A(load(w.x[i * w.hw + at])) * A(load(w.b[i * w.hw + at]));
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (threadIdx.x % 32 == 0) put(y[i], double(sum));
  }
}

// channel_sum of few pixels in one launch: a block takes 32 channels, a warp every eighth pixel of them, then the warps' sums are added in order.
template <class E, class A>
__global__ void __launch_bounds__(threads) one_launch(E const* x, int pixels, int channels, A* y) {
  __shared__ A sums[threads / 32][32];
  int const lane = threadIdx.x % 32, warp = threadIdx.x / 32, c = blockIdx.x * 32 + lane;
  wait_for_work_ahead();
  A sum = 0;
  if (c < channels) {
#pragma unroll 8
    for (int i = warp; i < pixels; i += threads / 32) sum += A(load(x[std::int64_t(i) * channels + c]));
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || c >= channels) return;
  double total = 0;
  for (int i = 0; i < threads / 32; ++i) total += double(sums[i][lane]);
  y[c] = A(total);
}

int blocks_of(ReduceProblem const& p) {
  std::int64_t const pixels = p.n * p.hw;
  if (p.function == F::mean) return int(std::clamp<std::int64_t>(pixels * p.c / 4096, 1, 264));
  if (p.layout == Layout::nchw) return int(std::clamp<std::int64_t>(std::min<std::int64_t>(p.n, 1056 / p.c), 1, 264));
  return int(std::clamp<std::int64_t>(pixels / 64, 1, 528));
}

std::string reject(ReduceProblem const& p, DeviceFacts const&) {
  if (p.type != DType::f64 && p.type != DType::f32 && p.type != DType::bf16) return "f64, f32 and bf16 only";
  if (p.c > 65535) return "more than 65535 channels";
  return {};
}
std::size_t scratch(ReduceProblem const& p, Config const&) { return std::size_t(blocks_of(p)) * 2 * std::size_t(p.c) * sizeof(double); }
double seconds(ReduceProblem const& p, DeviceFacts const&) { return 5e-6 + bytes_of(p.operands()) / 3.8e12; }

template <class E, class A>
void launch(ReduceProblem const& p, ReduceArgs const& a, View memory, cudaStream_t stream) {
  bool const nhwc = p.layout == Layout::nhwc;
  Work<E> const w{a.x.as<E>(), a.b.as<E>(), p.mask ? a.mask.as<E>() : nullptr, a.step, p.n, p.hw, int(p.c), nhwc, p.reads_step()};
  A* const partial = memory.as<A>();
  int const blocks = blocks_of(p);
  auto const channels = [&](auto function) {
    constexpr F f = decltype(function)::value;
    if (nhwc) {
      std::int64_t const share = (p.n * p.hw + blocks - 1) / blocks;
      constexpr int most = 16 / sizeof(E);
      bool const wide = p.c % most == 0;
      int const v = wide ? most : 1, vectors = int((p.c + v - 1) / v);
      int across = 1;
      while (across < vectors && across < threads) across *= 2;
      dim3 const grid(unsigned(blocks), unsigned(std::max(1, (vectors + across - 1) / across)));
      std::size_t const shared = std::size_t(threads) * 2 * std::size_t(v) * sizeof(A);
      if (wide) sum_channels_last<f, E, A, most><<<grid, threads, shared, stream>>>(w, share, across, partial);
      else sum_channels_last<f, E, A, 1><<<grid, threads, shared, stream>>>(w, share, across, partial);
    } else {
      sum_channels_first<f, E, A><<<dim3(unsigned(blocks), unsigned(p.c)), threads, 0, stream>>>(w, partial);
    }
    int const elements = int(f == F::channel_sum ? p.c : 2 * p.c);
    add_blocks<A><<<(elements + 7) / 8, threads, 0, stream>>>(partial, blocks, elements, int(2 * p.c), a.y.as<A>());
  };
  switch (p.function) {
    case F::channel_sum: channels(std::integral_constant<F, F::channel_sum>{}); break;
    case F::channel_sums: channels(std::integral_constant<F, F::channel_sums>{}); break;
    case F::channel_dot: channels(std::integral_constant<F, F::channel_dot>{}); break;
    case F::image_dot: {
      std::int64_t const outputs = p.n * p.c, per_block = nhwc ? threads : threads / 32;
      image_dot<E, A><<<unsigned((outputs + per_block - 1) / per_block), threads, 0, stream>>>(w, a.y.as<E>());
      break;
    }
    case F::mean: {
      std::int64_t const row = p.c * p.hw, share = (p.n * row + blocks - 1) / blocks;
      StepState const* const step = p.valid_only ? a.step : nullptr;
      sum_all<E, A><<<unsigned(blocks), threads, 0, stream>>>(w.x, step, p.n, row, share, partial);
      finish_mean<A><<<1, threads, 0, stream>>>(partial, blocks, step, p.n, row, a.y.as<A>());
      break;
    }
  }
  check_launch("reduce two_stage", p, stream);
}

std::string reject_few(ReduceProblem const& p, DeviceFacts const& facts) {
  if (p.function != F::channel_sum) return "channel_sum only";
  if (p.layout != Layout::nhwc && p.hw != 1) return "channels that do not lie side by side";
  if (p.n * p.hw > 4096) return "more than 4096 pixels";
  return reject(p, facts);
}
double seconds_few(ReduceProblem const& p, DeviceFacts const&) { return 2.5e-6 + std::ceil(double(p.n * p.hw) / 64) * 0.4e-6; }
template <class E, class A>
void launch_few(ReduceProblem const& p, ReduceArgs const& a, cudaStream_t stream) {
  launch_ahead(one_launch<E, A>, dim3(unsigned((p.c + 31) / 32)), dim3(threads), 0, 1, stream, static_cast<E const*>(a.x.as<E>()), int(p.n * p.hw), int(p.c), a.y.as<A>());
  check_launch("reduce one_launch", p, stream);
}
void run_few(ReduceProblem const& p, Config const&, ReduceArgs const& a, View, Stream& stream) {
  auto const s = static_cast<cudaStream_t>(stream.cuda());
  if (p.type == DType::f64) launch_few<double, double>(p, a, s);
  else if (p.type == DType::f32) launch_few<float, float>(p, a, s);
  else launch_few<bf16, float>(p, a, s);
}

void run(ReduceProblem const& p, Config const&, ReduceArgs const& a, View memory, Stream& stream) {
  auto const s = static_cast<cudaStream_t>(stream.cuda());
  if (p.type == DType::f64) launch<double, double>(p, a, memory, s);
  else if (p.type == DType::f32) launch<float, float>(p, a, memory, s);
  else launch<bf16, float>(p, a, memory, s);
}

}  // namespace

std::vector<Algorithm<ReduceProblem>> reduce_cuda_algorithms() {
  return {{.name = "one_launch", .target = DeviceKind::cuda, .reject = reject_few, .seconds = seconds_few, .run = run_few},
          {.name = "two_stage", .target = DeviceKind::cuda, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run}};
}

}  // namespace falconet
