// Softmax, its logarithm and their gradients over long rows of channels side by side, a block per row: the maximum m and the sum s of exp(x - m) in one
// pass, by rescaling the sum whenever the maximum grows (Milakov and Gimelshein, "Online normalizer calculation for softmax", arXiv:1805.02867), and a
// second pass that writes. Any length. Bytes: x read twice, the second time from the caches where rows of all blocks under way fit (50 MB); y written.
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/ops/softmax/cuda/algorithms.h"
#include "falconet/ops/softmax/cuda/rows.cuh"

namespace falconet {
namespace {

using namespace softmax_rows;

constexpr int threads = 512;

template <class E, int v, bool gradient>
__global__ void __launch_bounds__(threads) softmax(std::int64_t row_vectors, bool log_, E const* in, E const* dy, E* out) {
  __shared__ float memory[threads / 32];
  auto const* const x = reinterpret_cast<Pack<E, v> const*>(in) + blockIdx.x * row_vectors;
  auto const* const d = gradient ? reinterpret_cast<Pack<E, v> const*>(dy) + blockIdx.x * row_vectors : nullptr;
  auto* const to = reinterpret_cast<Pack<E, v>*>(out) + blockIdx.x * row_vectors;
  float sum = 0, largest = -INFINITY;
#pragma unroll 4
  for (std::int64_t i = threadIdx.x; i < row_vectors; i += threads) {
    Pack<E, v> const a = x[i];
    if constexpr (!gradient) {
      float most = largest;
#pragma unroll
      for (int e = 0; e < v; ++e) most = larger(most, load(a.e[e]));
      if (most != largest) sum = largest == -INFINITY ? 0 : sum * expf(largest - most), largest = most;
      if (largest == -INFINITY) continue;
#pragma unroll
      for (int e = 0; e < v; ++e) sum += expf(load(a.e[e]) - largest);
    } else {
      Pack<E, v> const b = d[i];
#pragma unroll
      for (int e = 0; e < v; ++e) sum += log_ ? load(b.e[e]) : load(b.e[e]) * load(a.e[e]);
    }
  }
  if constexpr (!gradient) {
    float const all = over_block(largest, memory, larger);
    sum = over_block(largest == -INFINITY ? 0 : sum * expf(largest - all), memory, add);
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
      else put(y.e[e], log_ ? (u - largest) - shift : expf(u - largest) * scale);
    }
    to[i] = y;
  }
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
void launch(SoftmaxProblem const& p, SoftmaxArgs const& a, cudaStream_t stream) {
  auto const kernel = p.gradient ? softmax<E, v, true> : softmax<E, v, false>;
  kernel<<<unsigned(p.n() * p.places()), threads, 0, stream>>>(p.channels() / v, p.log, (p.gradient ? a.y : a.x).as<E>(), a.dy.as<E>(),
                                                               (p.gradient ? a.dx : a.y).as<E>());
}
void run(SoftmaxProblem const& p, Config const&, SoftmaxArgs const& a, View, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  bool const whole = vector_of(p.channels(), p.x.dtype) > 1;
  if (p.x.dtype == DType::f32) whole ? launch<float, 4>(p, a, stream) : launch<float, 1>(p, a, stream);
  else whole ? launch<bf16, 8>(p, a, stream) : launch<bf16, 1>(p, a, stream);
  check_launch("softmax online", p, stream);
}

}  // namespace

Algorithm<SoftmaxProblem> const softmax_cuda_online{.name = "online", .target = DeviceKind::cuda, .reject = reject, .seconds = seconds, .run = run};

}  // namespace falconet
