// Softmax, its logarithm and their gradients as the definitions say: a thread per group of channels, three passes over it one channel after another.
// The kernel to read first, and the baseline: where channels lie side by side, neighbouring threads read addresses a whole row apart.
#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/element.cuh"
#include "falconet/ops/softmax/cuda/algorithms.h"

namespace falconet {
namespace {

constexpr int threads = 128;

template <class E, class A>
__global__ void __launch_bounds__(threads) softmax(std::int64_t groups, std::int64_t channels, std::int64_t places, std::int64_t stride, bool log_,
                                                   bool gradient, E const* in, E const* dy, E* out) {
  std::int64_t const group = blockIdx.x * std::int64_t(threads) + threadIdx.x;
  if (group >= groups) return;
  std::int64_t const n = group / places, place = group % places, first = n * channels * places + place * (stride == 1 ? channels : 1);
  A sum = 0;
  if (!gradient) {
    A largest = load(in[first]);
    for (std::int64_t c = 1; c < channels; ++c) {
      A const v = load(in[first + c * stride]);
      largest = v > largest || v != v ? v : largest;
    }
    for (std::int64_t c = 0; c < channels; ++c) sum += exp(A(load(in[first + c * stride])) - largest);
    for (std::int64_t c = 0; c < channels; ++c) {
      A const v = A(load(in[first + c * stride])) - largest;
      put(out[first + c * stride], log_ ? v - log(sum) : exp(v) / sum);
    }
  } else {
    for (std::int64_t c = 0; c < channels; ++c) {
      A const d = load(dy[first + c * stride]);
      sum += log_ ? d : d * A(load(in[first + c * stride]));
    }
    for (std::int64_t c = 0; c < channels; ++c) {
      A const y = load(in[first + c * stride]), d = load(dy[first + c * stride]);
      put(out[first + c * stride], log_ ? d - exp(y) * sum : y * (d - sum));
    }
  }
}

std::string reject(SoftmaxProblem const& p, DeviceFacts const&) {
  return p.x.dtype == DType::u8 || p.x.dtype == DType::i32 ? "f64, f32 and bf16 only" : "";
}
double seconds(SoftmaxProblem const& p, DeviceFacts const&) { return 3e-6 + double(p.channels()) * 1e-7 + bytes_of(p.operands()) / 0.5e12; }

template <class E, class A>
void launch(SoftmaxProblem const& p, SoftmaxArgs const& a, cudaStream_t stream) {
  std::int64_t const groups = p.n() * p.places();
  softmax<E, A><<<unsigned((groups + threads - 1) / threads), threads, 0, stream>>>(groups, p.channels(), p.places(), p.stride(), p.log, p.gradient,
                                                                                    (p.gradient ? a.y : a.x).as<E>(), a.dy.as<E>(),
                                                                                    (p.gradient ? a.dx : a.y).as<E>());
  check_launch("softmax naive", p, stream);
}

void run(SoftmaxProblem const& p, Config const&, SoftmaxArgs const& a, View, Stream& stream) {
  auto const s = static_cast<cudaStream_t>(stream.cuda());
  if (p.x.dtype == DType::f64) launch<double, double>(p, a, s);
  else if (p.x.dtype == DType::f32) launch<float, float>(p, a, s);
  else launch<bf16, float>(p, a, s);
}

}  // namespace

Algorithm<SoftmaxProblem> const softmax_cuda_naive{
    .name = "naive", .target = DeviceKind::cuda, .reject = reject, .seconds = seconds, .run = run, .baseline = true};

}  // namespace falconet
