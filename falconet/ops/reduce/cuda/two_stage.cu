// Reductions on an NVIDIA GPU in two stages: blocks sum shares of the pixels (f32, f64 for f64), then the blocks' sums are added in a fixed
// order in f64, by the block that comes last where they are few, else by a second kernel. The shares depend on the problem alone, so the
// same bytes come every time. Bound by memory: every operand once.
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
// partial[block][2][c]. With y, the block that comes last adds the partials: y[first `elements` of 2 c].
template <F f, class E, class A, int v>
__global__ void __launch_bounds__(threads)
    sum_channels_last(Work<E> const w, std::int64_t share, int across, A* partial, A* y, int elements, unsigned* arrivals) {
  extern __shared__ __align__(16) char memory[];
  A* const shared = reinterpret_cast<A*>(memory);            // [threads][2 v]
  __shared__ bool last;
  std::int64_t const pixels = (w.reads_step ? std::int64_t(w.step->valid_count) : w.n) * w.hw;
  int const down = threads / across, column = threadIdx.x % across, row = threadIdx.x / across;
  std::int64_t const begin = blockIdx.x * share, end = min(pixels, begin + share);
  for (int c0 = blockIdx.y * across * v; c0 < w.channels; c0 += gridDim.y * across * v) {
    int const c = c0 + column * v;
    A first[v] = {}, second[v] = {};
    if (c < w.channels && row < down) {
#pragma unroll 8
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
    // Rows of one warp by shuffles (across is a power of two), then the warps' sums: a thread per sum.
    for (int step = across; step < 32; step *= 2)
#pragma unroll
      for (int e = 0; e < v; ++e) first[e] += __shfl_xor_sync(~0u, first[e], step), second[e] += __shfl_xor_sync(~0u, second[e], step);
    int const lines = down * across / max(across, 32), width = min(across, 32);   // what is left: lines x across sets of 2 v sums
    bool const keeps = across >= 32 || int(threadIdx.x) % 32 < across;
    int const kept = across >= 32 ? threadIdx.x : threadIdx.x / 32 * width + threadIdx.x % 32;
    if (keeps)
#pragma unroll
      for (int e = 0; e < v; ++e) shared[kept * 2 * v + e] = first[e], shared[kept * 2 * v + v + e] = second[e];
    __syncthreads();
    for (int i = threadIdx.x; i < across * 2 * v; i += threads) {
      int const set = i / (2 * v), e = i % (2 * v), channel = c0 + set * v + e % v;
      if (channel >= w.channels) continue;
      A sum = 0;
      for (int r = 0; r < lines; ++r) sum += shared[(r * across + set) * 2 * v + e];
      partial[(std::int64_t(blockIdx.x) * 2 + e / v) * w.channels + channel] = sum;
    }
    __syncthreads();
  }
  if (!y) return;
  unsigned const blocks = gridDim.x * gridDim.y;
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicInc(arrivals, blocks - 1) == blocks - 1;
  }
  __syncthreads();
  if (!last) return;
  __threadfence();
  // Groups of threads add every groups-th partial of an element, then the groups are added in order.
  double* const table = reinterpret_cast<double*>(memory);
  int const wide = 2 * w.channels, groups = max(1, threads / wide);
  for (int from = 0; from < elements; from += threads) {
    int const group = threadIdx.x / wide, i = groups > 1 ? int(threadIdx.x) % wide : from + int(threadIdx.x);
    double sum = 0;
    if (group < groups && i < elements) {
      for (int b0 = group; b0 < int(gridDim.x); b0 += 16 * groups) {
        A loaded[16];                               // all under way before the first is added
#pragma unroll
        for (int k = 0; k < 16; ++k)
          loaded[k] = b0 + k * groups < int(gridDim.x) ? __ldcg(partial + std::int64_t(b0 + k * groups) * wide + i) : A(0);
#pragma unroll
        for (int k = 0; k < 16; ++k) sum += double(loaded[k]);
      }
    }
    if (groups == 1) {
      if (i < elements) y[i] = A(sum);
      continue;
    }
    if (group < groups) table[group * wide + i] = sum;
    __syncthreads();
    if (int(threadIdx.x) < elements) {
      double all = 0;
      for (int g = 0; g < groups; ++g) all += table[g * wide + threadIdx.x];
      y[threadIdx.x] = A(all);
    }
    return;
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
  return int(std::clamp<std::int64_t>(pixels * p.c / 16384, 1, 264));   // 8 vectors of a bf16 tensor per thread
}

std::string reject(ReduceProblem const& p, DeviceFacts const&) {
  if (p.type != DType::f64 && p.type != DType::f32 && p.type != DType::bf16) return "f64, f32 and bf16 only";
  if (p.c > 65535) return "more than 65535 channels";
  return {};
}
std::size_t scratch(ReduceProblem const& p, Config const&) { return std::size_t(blocks_of(p)) * 2 * std::size_t(p.c) * sizeof(double); }
double seconds(ReduceProblem const& p, DeviceFacts const&) { return 5e-6 + bytes_of(p.operands()) / 3.8e12; }

template <class E, class A>
void launch(ReduceProblem const& p, ReduceArgs const& a, View memory, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  bool const nhwc = p.layout == Layout::nhwc;
  Work<E> const w{a.x.as<E>(), a.b.as<E>(), p.mask ? a.mask.as<E>() : nullptr, a.step, p.n, p.hw, int(p.c), nhwc, p.reads_step()};
  A* const partial = memory.as<A>();
  int const blocks = blocks_of(p);
  auto const channels = [&](auto function) {
    constexpr F f = decltype(function)::value;
    int const elements = int(f == F::channel_sum ? p.c : 2 * p.c);
    bool const at_once = nhwc && std::int64_t(blocks) * p.c <= 1 << 16 && on.arrivals();
    A* const y = at_once ? a.y.as<A>() : nullptr;
    if (nhwc) {
      std::int64_t const share = (p.n * p.hw + blocks - 1) / blocks;
      constexpr int most = 16 / sizeof(E);
      bool const wide = p.c % most == 0;
      int const v = wide ? most : 1, vectors = int((p.c + v - 1) / v);
      int across = 1;
      while (across < vectors && across < threads) across *= 2;
      dim3 const grid(unsigned(blocks), unsigned(std::max(1, (vectors + across - 1) / across)));
      std::size_t const shared = std::max(std::size_t(threads) * 2 * std::size_t(v) * sizeof(A), std::size_t(threads) * sizeof(double));
      if (wide) sum_channels_last<f, E, A, most><<<grid, threads, shared, stream>>>(w, share, across, partial, y, elements, on.arrivals());
      else sum_channels_last<f, E, A, 1><<<grid, threads, shared, stream>>>(w, share, across, partial, y, elements, on.arrivals());
    } else {
      sum_channels_first<f, E, A><<<dim3(unsigned(blocks), unsigned(p.c)), threads, 0, stream>>>(w, partial);
    }
    if (!at_once) add_blocks<A><<<(elements + 7) / 8, threads, 0, stream>>>(partial, blocks, elements, int(2 * p.c), a.y.as<A>());
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
  if (p.type == DType::f64) launch<double, double>(p, a, memory, stream);
  else if (p.type == DType::f32) launch<float, float>(p, a, memory, stream);
  else launch<bf16, float>(p, a, memory, stream);
}

}  // namespace

std::vector<Algorithm<ReduceProblem>> reduce_cuda_algorithms() {
  return {{.name = "one_launch", .target = DeviceKind::cuda, .reject = reject_few, .seconds = seconds_few, .run = run_few},
          {.name = "two_stage", .target = DeviceKind::cuda, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run}};
}

}  // namespace falconet
