// Softmax, its logarithm and their gradients on an NVIDIA GPU: a warp per group of channels, three passes over it (the later ones come from
// the caches), arithmetic in f32 (f64 for f64).
#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/element.cuh"
#include "falconet/ops/softmax/cuda/algorithms.h"

namespace falconet {
namespace {

constexpr int threads = 256;

template <class A>
__device__ A warp_sum(A v) {
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
  return v;
}
template <class A>
__device__ A warp_max(A v) {
  for (int step = 16; step > 0; step /= 2) {
    A const other = __shfl_xor_sync(~0u, v, step);
    v = other > v || other != other ? other : v;
  }
  return v;
}

template <class E, class A>
__global__ void __launch_bounds__(threads) softmax(std::int64_t groups, std::int64_t channels, std::int64_t places, bool last, bool log_, bool gradient, E const* in,
                                                   E const* dy, E* out) {
  std::int64_t const group = blockIdx.x * std::int64_t(threads / 32) + threadIdx.x / 32;
  if (group >= groups) return;
  int const lane = threadIdx.x % 32;
  std::int64_t const n = group / places, place = group % places, stride = last ? 1 : places;
  std::int64_t const first = n * channels * places + (last ? place * channels : place);
  if (!gradient) {
    A largest = load(in[first]), sum = 0;
    for (std::int64_t c = lane; c < channels; c += 32) {
      A const v = load(in[first + c * stride]);
      largest = v > largest || v != v ? v : largest;
    }
    largest = warp_max(largest);
    for (std::int64_t c = lane; c < channels; c += 32) sum += exp(A(load(in[first + c * stride])) - largest);
    sum = warp_sum(sum);
    A const log_sum = log(sum);
    for (std::int64_t c = lane; c < channels; c += 32) {
      A const v = A(load(in[first + c * stride])) - largest;
      put(out[first + c * stride], log_ ? v - log_sum : exp(v) / sum);
    }
  } else {
    A sum = 0;
    for (std::int64_t c = lane; c < channels; c += 32) {
      A const d = load(dy[first + c * stride]);
      sum += log_ ? d : d * A(load(in[first + c * stride]));
    }
    sum = warp_sum(sum);
    for (std::int64_t c = lane; c < channels; c += 32) {
      A const y = load(in[first + c * stride]), d = load(dy[first + c * stride]);
      put(out[first + c * stride], log_ ? d - exp(y) * sum : y * (d - sum));
    }
  }
}

std::string reject(SoftmaxProblem const& p, DeviceFacts const&) {
  return p.x.dtype == DType::u8 || p.x.dtype == DType::i32 ? "f64, f32 and bf16 only" : "";
}
double seconds(SoftmaxProblem const& p, DeviceFacts const&) { return 3e-6 + bytes_of(p.operands()) / 2e12; }

template <class E, class A>
void launch(SoftmaxProblem const& p, SoftmaxArgs const& a, cudaStream_t stream) {
  std::int64_t const groups = p.n() * p.places();
  softmax<E, A><<<unsigned((groups + threads / 32 - 1) / (threads / 32)), threads, 0, stream>>>(groups, p.channels(), p.places(), p.stride() == 1, p.log, p.gradient,
                                                                                                (p.gradient ? a.y : a.x).as<E>(), a.dy.as<E>(),
                                                                                                (p.gradient ? a.dx : a.y).as<E>());
  check_launch("softmax warp", p, stream);
}

void run(SoftmaxProblem const& p, Config const&, SoftmaxArgs const& a, View, Stream& stream) {
  auto const s = static_cast<cudaStream_t>(stream.cuda());
  if (p.x.dtype == DType::f64) launch<double, double>(p, a, s);
  else if (p.x.dtype == DType::f32) launch<float, float>(p, a, s);
  else launch<bf16, float>(p, a, s);
}

}  // namespace

Algorithm<SoftmaxProblem> const softmax_cuda_warp{.name = "warp", .target = DeviceKind::cuda, .reject = reject, .seconds = seconds, .run = run};

}  // namespace falconet
