// Softmax, its logarithm and their gradients over long rows of channels side by side, a row at a time by a block: the maximum m and the sum s of exp(x - m)
// in one pass, by rescaling the sum whenever the maximum grows (Milakov and Gimelshein, "Online normalizer calculation for softmax", arXiv:1805.02867), and a
// second pass that writes. Any length. Bytes: x read twice, the second time from L2: so many blocks a multiprocessor (config) that the rows under way
// fit there, and results are written past it; y written.
#include <algorithm>
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/ops/softmax/cuda/algorithms.h"
#include "falconet/ops/softmax/cuda/rows.cuh"

namespace falconet {
namespace {

using namespace softmax_rows;

constexpr int most_threads = 1024, multiprocessors = 132;   // of the H100 and H200; a block more or less changes no result
constexpr double rows_in_cache = 40e6;                      // bytes of L2 for rows under way

// Results, which nobody reads soon.
template <class E, int v>
__device__ __forceinline__ void put_aside(Pack<E, v>* to, Pack<E, v> const& y) {
  if constexpr (sizeof(Pack<E, v>) == 16) __stcs(reinterpret_cast<uint4*>(to), *reinterpret_cast<uint4 const*>(&y));
  else *to = y;
}

template <class E, int v, bool gradient>
__device__ __forceinline__ void softmax_of_row(float* memory, std::int64_t row_vectors, bool log_, Pack<E, v> const* x, Pack<E, v> const* d, Pack<E, v>* to) {
  int const threads = int(blockDim.x);
  float sum = 0, largest = -INFINITY;
#pragma unroll 4
  for (std::int64_t i = threadIdx.x; i < row_vectors; i += threads) {
    Pack<E, v> const a = x[i];
    if constexpr (!gradient) {
      float most = largest;
#pragma unroll
      for (int e = 0; e < v; ++e) most = larger(most, load(a.e[e]));
      if (most != largest) sum = largest == -INFINITY ? 0 : sum * fast_exp(largest - most), largest = most;
      if (largest == -INFINITY) continue;
#pragma unroll
      for (int e = 0; e < v; ++e) sum += fast_exp(load(a.e[e]) - largest);
    } else {
      Pack<E, v> const b = d[i];
#pragma unroll
      for (int e = 0; e < v; ++e) sum += log_ ? load(b.e[e]) : load(b.e[e]) * load(a.e[e]);
    }
  }
  if constexpr (!gradient) {
    float const all = over_block(largest, memory, larger);
    sum = over_block(largest == -INFINITY ? 0 : sum * fast_exp(largest - all), memory, add);
    largest = all;
  } else {
    sum = over_block(sum, memory, add);
  }
  float const shift = log_ ? logf(sum) : 0, scale = 1 / sum;
#pragma unroll 4
  for (std::int64_t i = threadIdx.x; i < row_vectors; i += threads) {
    Pack<E, v> const a = x[i];
    Pack<E, v> b{};
    if constexpr (gradient) b = d[i];
    Pack<E, v> y;
#pragma unroll
    for (int e = 0; e < v; ++e) {
      float const u = load(a.e[e]), w = load(b.e[e]);
      if constexpr (gradient) put(y.e[e], log_ ? w - expf(u) * sum : u * (w - sum));
      else put(y.e[e], log_ ? (u - largest) - shift : fast_exp(u - largest) * scale);
    }
    put_aside(to + i, y);
  }
}
template <class E, int v, bool gradient>
__global__ void __launch_bounds__(most_threads) softmax(std::int64_t rows, std::int64_t row_vectors, bool log_, E const* in, E const* dy, E* out) {
  __shared__ float memory[most_threads / 32];
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x)
    softmax_of_row<E, v, gradient>(memory, row_vectors, log_, reinterpret_cast<Pack<E, v> const*>(in) + row * row_vectors,
                                   gradient ? reinterpret_cast<Pack<E, v> const*>(dy) + row * row_vectors : nullptr,
                                   reinterpret_cast<Pack<E, v>*>(out) + row * row_vectors);
}

// blocks: of a multiprocessor at a time. Their rows lie in L2 until they have been read twice.
std::vector<Config> configs(SoftmaxProblem const& p, DeviceFacts const&) {
  double const row = double(p.channels()) * double(size_of(p.x.dtype)) * (p.gradient ? 2 : 1);
  int const threads = p.channels() * std::int64_t(size_of(p.x.dtype)) >= 2048 * 16 ? 1024 : 512, best = std::clamp(int(rows_in_cache / multiprocessors / row), 1, 2048 / threads);
  std::vector<Config> out{{{"threads", threads}, {"blocks", best}}};
  for (int t : {512, 1024})
    for (int blocks : {1, 2, 4})
      if (t * blocks <= 2048 && !(out[0] == Config{{"threads", t}, {"blocks", blocks}})) out.push_back({{"threads", t}, {"blocks", blocks}});
  return out;
}

std::string reject(SoftmaxProblem const& p, DeviceFacts const&) {
  if (p.x.dtype != DType::f32 && p.x.dtype != DType::bf16) return "f32 and bf16 only";
  if (p.stride() != 1) return "channels that lie side by side only";
  return {};
}
double seconds(SoftmaxProblem const& p, DeviceFacts const&) {
  double const rows = double(p.n() * p.places());
  return 3e-6 + bytes_of(p.operands()) / 2.4e12 + std::ceil(rows / 528) * 2e-6;
}

template <class E, int v>
void launch(SoftmaxProblem const& p, Config const& config, SoftmaxArgs const& a, cudaStream_t stream) {
  auto const kernel = p.gradient ? softmax<E, v, true> : softmax<E, v, false>;
  std::int64_t const rows = p.n() * p.places(), blocks = std::min<std::int64_t>(rows, std::int64_t(multiprocessors) * config.get("blocks", 4));
  kernel<<<unsigned(blocks), config.get("threads", 512), 0, stream>>>(rows, p.channels() / v, p.log, (p.gradient ? a.y : a.x).as<E>(), a.dy.as<E>(),
                                                               (p.gradient ? a.dx : a.y).as<E>());
}
void run(SoftmaxProblem const& p, Config const& config, SoftmaxArgs const& a, View, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  bool const whole = vector_of(p.channels(), p.x.dtype) > 1;
  if (p.x.dtype == DType::f32) whole ? launch<float, 4>(p, config, a, stream) : launch<float, 1>(p, config, a, stream);
  else whole ? launch<bf16, 8>(p, config, a, stream) : launch<bf16, 1>(p, config, a, stream);
  check_launch("softmax online", p, stream);
}

}  // namespace

Algorithm<SoftmaxProblem> const softmax_cuda_online{.name = "online", .target = DeviceKind::cuda, .reject = reject, .configs = configs, .seconds = seconds, .run = run};

}  // namespace falconet
