// Dropout on an NVIDIA GPU: a thread per four neighbouring elements of a sample in the order that the definition counts (channels
// innermost), which share one draw.
#include "falconet/base/random.h"
#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/element.cuh"
#include "falconet/ops/dropout/algorithms.h"

namespace falconet {
namespace {

constexpr int threads = 256;

template <class E, class A>
__global__ void __launch_bounds__(threads) dropout(std::int64_t n, std::int64_t c, std::int64_t hw, bool nhwc, double p, std::uint64_t layer, StepState const* step,
                                                   E const* x, E* y) {
  std::int64_t const sample = c * hw, quads = (sample + 3) / 4, index = blockIdx.x * std::int64_t(threads) + threadIdx.x;
  if (index >= n * quads) return;
  std::int64_t const image = index / quads, quad = index - image * quads;
  RandomBits const bits = draw(random_key(step->seed, layer), std::uint64_t(step->sample + image), std::uint64_t(quad));
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    std::int64_t const e = quad * 4 + k;
    if (e >= sample) break;
    std::int64_t const i = image * sample + (nhwc ? e : e % c * hw + e / c);
    bool const kept = !(uniform(bits.word[k]) < float(p));
    put(y[i], kept ? A(double(load(x[i])) / (1 - p)) : A(0));
  }
}

std::string reject(DropoutProblem const& p, DeviceFacts const&) {
  return p.type == DType::f64 || p.type == DType::f32 || p.type == DType::bf16 ? "" : "f64, f32 and bf16 only";
}
double seconds(DropoutProblem const& p, DeviceFacts const&) { return 2e-6 + bytes_of(p.operands()) / 2e12; }

template <class E, class A>
void launch(DropoutProblem const& p, DropoutArgs const& a, cudaStream_t stream) {
  std::int64_t const work = p.n * ((p.c * p.hw + 3) / 4);
  dropout<E, A><<<unsigned((work + threads - 1) / threads), threads, 0, stream>>>(p.n, p.c, p.hw, p.layout == Layout::nhwc, p.p, p.key, a.step, a.x.as<E>(), a.y.as<E>());
  check_launch("dropout elements", p, stream);
}

void run(DropoutProblem const& p, Config const&, DropoutArgs const& a, View, Stream& stream) {
  auto const s = static_cast<cudaStream_t>(stream.cuda());
  if (p.type == DType::f64) launch<double, double>(p, a, s);
  else if (p.type == DType::f32) launch<float, float>(p, a, s);
  else launch<bf16, float>(p, a, s);
}

}  // namespace

std::vector<Algorithm<DropoutProblem>> dropout_cuda_algorithms() {
  return {{.name = "elements", .target = DeviceKind::cuda, .reject = reject, .seconds = seconds, .run = run}};
}

}  // namespace falconet
