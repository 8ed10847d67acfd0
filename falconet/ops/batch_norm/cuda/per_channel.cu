// The vectors of batch norm on an NVIDIA GPU: a thread per channel, in f64; the formulas stand in reference.cpp.
#include <type_traits>

#include "falconet/device/cuda/check.h"
#include "falconet/ops/batch_norm/algorithms.h"

namespace falconet {
namespace {

using F = BatchNormFunction;

template <class T>
struct Vectors {
  T const *sums, *gamma, *beta;
  T *running_mean, *running_var, *scale_shift, *dscale_shift, *dsums, *dgamma, *dbeta, *two_operand;
};

template <class T>
__global__ void __launch_bounds__(128) per_channel(F f, int C, double per_sample, double eps, double momentum, StepState const* step, Vectors<T> v) {
  int const c = blockIdx.x * 128 + threadIdx.x;
  if (c >= C) return;
  // Everything that is read, at once: these launches are bound by latency.
  bool const batch = f == F::coefficients || f == F::gradient || f == F::gradient_two_operand, forward = f == F::coefficients;
  double count = 1, per = 1, mean = 0, var = 0, inverse = 0, gamma = 0, beta = 0, old_mean = 0, old_var = 0, dscale = 0, dshift = 0;
  if (batch) {
    int const valid = step->valid_count;
    double const sum = double(v.sums[c]), squares = double(v.sums[C + c]);
    gamma = double(v.gamma[c]);
    if (forward) beta = double(v.beta[c]), old_mean = double(v.running_mean[c]), old_var = double(v.running_var[c]);
    else dscale = double(v.dscale_shift[c]), dshift = double(v.dscale_shift[C + c]);
    count = double(max(valid, 1)) * per_sample;
    per = 1 / count;
    mean = sum * per;
    var = fmax(squares * per - mean * mean, 0.0);
    inverse = rsqrt(var + eps);
  }
  switch (f) {
    case F::coefficients: {
      double const unbiased = var * count / fmax(count - 1, 1.0), scale = gamma * inverse;
      v.scale_shift[c] = T(scale);
      v.scale_shift[C + c] = T(beta - mean * scale);
      v.running_mean[c] = T((1 - momentum) * old_mean + momentum * mean);
      v.running_var[c] = T((1 - momentum) * old_var + momentum * unbiased);
      break;
    }
    case F::gradient:
    case F::gradient_two_operand: {
      double const g = dscale - mean * dshift;
      double const dvar = -0.5 * g * gamma * inverse * inverse * inverse, dmean = -gamma * inverse * dshift - 2 * mean * dvar;
      if (f == F::gradient) {
        v.dsums[c] = T(dmean * per);
        v.dsums[C + c] = T(dvar * per);
      } else {
        v.two_operand[c] = T(gamma * inverse);
        v.two_operand[C + c] = T(2 * dvar * per);
        v.two_operand[2 * C + c] = T(dmean * per);
      }
      v.dgamma[c] = T(g * inverse);
      v.dbeta[c] = T(dshift);
      break;
    }
    case F::inference: {
      double const scale = double(v.gamma[c]) / sqrt(double(v.running_var[c]) + eps);
      v.scale_shift[c] = T(scale);
      v.scale_shift[C + c] = T(double(v.beta[c]) - double(v.running_mean[c]) * scale);
      break;
    }
    case F::inference_gradient: {
      double const dshift = double(v.dscale_shift[C + c]), g = double(v.dscale_shift[c]) - double(v.running_mean[c]) * dshift;
      v.dgamma[c] = T(g / sqrt(double(v.running_var[c]) + eps));
      v.dbeta[c] = T(dshift);
      break;
    }
    case F::normalise:
    case F::normalise_gradient:
    case F::fold: break;
    case F::two_operand:
      v.two_operand[c] = v.scale_shift[c];
      v.two_operand[C + c] = 2 * v.dsums[C + c];
      v.two_operand[2 * C + c] = v.dsums[c];
      break;
  }
}

// fold: a block for each filter. T: of vectors and filters, E: of folded filters.
template <class T, class E>
__global__ void __launch_bounds__(256) fold(std::int64_t per_filter, double eps, T const* w, T const* gamma, T const* beta, T const* mean, T const* var, T const* bias, E* folded, T* folded_bias) {
  std::int64_t const k = blockIdx.x, from = k * per_filter;
  double const scale = double(gamma[k]) / sqrt(double(var[k]) + eps);
  if (threadIdx.x == 0) folded_bias[k] = T(double(beta[k]) + ((bias ? double(bias[k]) : 0.0) - double(mean[k])) * scale);
  for (std::int64_t i = threadIdx.x; i < per_filter; i += 256) {
    if constexpr (std::is_same_v<E, bf16>) folded[from + i] = to_bf16(float(double(w[from + i]) * scale));
    else folded[from + i] = E(double(w[from + i]) * scale);
  }
}
template <class T, class E>
void launch_fold(BatchNormProblem const& p, BatchNormArgs const& a, cudaStream_t stream) {
  fold<T, E><<<unsigned(p.c), 256, 0, stream>>>(p.per_sample, p.eps, a.w.as<T>(), a.gamma.as<T>(), a.beta.as<T>(), a.running_mean.as<T>(), a.running_var.as<T>(), a.bias.as<T>(),
                                                a.folded_w.as<E>(), a.folded_bias.as<T>());
  check_launch("batch_norm fold", p, stream);
}

std::string reject(BatchNormProblem const& p, DeviceFacts const&) { return p.applies() ? "vectors only" : p.c >= std::int64_t(1) << 31 ? "2^31 channels or more" : ""; }
double seconds(BatchNormProblem const&, DeviceFacts const&) { return 2e-6; }

template <class T>
void launch(BatchNormProblem const& p, BatchNormArgs const& a, cudaStream_t stream) {
  Vectors<T> const v{a.sums.as<T>(), a.gamma.as<T>(), a.beta.as<T>(), a.running_mean.as<T>(), a.running_var.as<T>(), a.scale_shift.as<T>(), a.dscale_shift.as<T>(),
                     a.dsums.as<T>(), a.dgamma.as<T>(), a.dbeta.as<T>(), a.two_operand.as<T>()};
  per_channel<T><<<unsigned((p.c + 127) / 128), 128, 0, stream>>>(p.function, int(p.c), double(p.per_sample), p.eps, p.momentum, a.step, v);
  check_launch("batch_norm per_channel", p, stream);
}

void run(BatchNormProblem const& p, Config const&, BatchNormArgs const& a, View, Stream& stream) {
  auto const s = static_cast<cudaStream_t>(stream.cuda());
  if (p.function == F::fold) {
    if (p.image == DType::f64) return launch_fold<double, double>(p, a, s);
    return p.image == DType::f32 ? launch_fold<float, float>(p, a, s) : launch_fold<float, bf16>(p, a, s);
  }
  p.type == DType::f64 ? launch<double>(p, a, s) : launch<float>(p, a, s);
}

}  // namespace

std::vector<Algorithm<BatchNormProblem>> batch_norm_cuda_algorithms() {
  return {{.name = "per_channel", .target = DeviceKind::cuda, .reject = reject, .seconds = seconds, .run = run}, batch_norm_cuda_one_pass};
}

}  // namespace falconet
