// The vectors of batch norm, channel by channel, computed in f64. With c elements each this is also as fast as is needed.
//
//   N = valid rows * per_sample, mean = sums[0] / N, var = max(sums[1] / N - mean^2, 0), inv = 1 / sqrt(var + eps)
//   scale = gamma inv, shift = beta - mean scale
// Backwards, with G = dscale - mean dshift (shift depends on scale):
//   dbeta = dshift, dgamma = G inv, dvar = -G gamma inv^3 / 2, dmean = -scale dshift - 2 mean dvar
//   dsums[0] = dmean / N, dsums[1] = dvar / N
#include <algorithm>
#include <cmath>

#include "falconet/ops/batch_norm/algorithms.h"
#include "falconet/tensor/bf16.h"

namespace falconet {
namespace {

struct Bf16Element {   // an element that converts like the floating types do
  bf16 bits;
  Bf16Element() = default;
  explicit Bf16Element(double v) : bits(to_bf16(float(v))) {}
  explicit operator double() const { return double(to_float(bits)); }
};

struct Moments {
  double mean, var, inverse;
};
template <class T>
Moments moments(BatchNormProblem const& p, BatchNormArgs const& a, View const& sums, std::int64_t c) {
  double const count = double(std::max(a.step->valid_count, 1)) * double(p.per_sample);
  double const mean = double(sums.as<T>()[c]) / count;
  double const var = std::max(double(sums.as<T>()[p.c + c]) / count - mean * mean, 0.0);
  return {mean, var, 1 / std::sqrt(var + p.eps)};
}

template <class T>
void update_running(BatchNormProblem const& p, BatchNormArgs const& a, Moments const& m, T& mean, T& var) {
  double const count = double(std::max(a.step->valid_count, 1)) * double(p.per_sample);
  mean = T((1 - p.momentum) * double(mean) + p.momentum * m.mean);
  var = T((1 - p.momentum) * double(var) + p.momentum * m.var * count / std::max(count - 1, 1.0));
}

template <class T>
void run_typed(BatchNormProblem const& p, BatchNormArgs const& a) {
  using F = BatchNormFunction;
  std::int64_t const C = p.c;
  for (std::int64_t c = 0; c < C; ++c) {
    switch (p.function) {
      case F::coefficients: {
        auto const m = moments<T>(p, a, a.sums, c);
        double const scale = double(a.gamma.as<T>()[c]) * m.inverse;
        a.scale_shift.as<T>()[c] = T(scale);
        a.scale_shift.as<T>()[C + c] = T(double(a.beta.as<T>()[c]) - m.mean * scale);
        update_running(p, a, m, a.running_mean.as<T>()[c], a.running_var.as<T>()[c]);
        break;
      }
      case F::gradient:
      case F::gradient_two_operand: {
        auto const m = moments<T>(p, a, a.sums, c);
        double const count = double(std::max(a.step->valid_count, 1)) * double(p.per_sample);
        double const dshift = double(a.dscale_shift.as<T>()[C + c]), gamma = double(a.gamma.as<T>()[c]);
        double const g = double(a.dscale_shift.as<T>()[c]) - m.mean * dshift;
        double const dvar = -0.5 * g * gamma * m.inverse * m.inverse * m.inverse;
        double const dmean = -gamma * m.inverse * dshift - 2 * m.mean * dvar;
        if (p.function == F::gradient) {
          a.dsums.as<T>()[c] = T(dmean / count);
          a.dsums.as<T>()[C + c] = T(dvar / count);
        } else {
          a.two_operand.as<T>()[c] = T(gamma * m.inverse);
          a.two_operand.as<T>()[C + c] = T(2 * dvar / count);
          a.two_operand.as<T>()[2 * C + c] = T(dmean / count);
        }
        a.dgamma.as<T>()[c] = T(g * m.inverse);
        a.dbeta.as<T>()[c] = T(dshift);
        break;
      }
      case F::inference: {
        double const scale = double(a.gamma.as<T>()[c]) / std::sqrt(double(a.running_var.as<T>()[c]) + p.eps);
        a.scale_shift.as<T>()[c] = T(scale);
        a.scale_shift.as<T>()[C + c] = T(double(a.beta.as<T>()[c]) - double(a.running_mean.as<T>()[c]) * scale);
        break;
      }
      case F::inference_gradient: {
        double const dshift = double(a.dscale_shift.as<T>()[C + c]);
        double const g = double(a.dscale_shift.as<T>()[c]) - double(a.running_mean.as<T>()[c]) * dshift;
        a.dgamma.as<T>()[c] = T(g / std::sqrt(double(a.running_var.as<T>()[c]) + p.eps));
        a.dbeta.as<T>()[c] = T(dshift);
        break;
      }
      case F::normalise:
      case F::normalise_gradient:
      case F::fold:
        break;
      case F::two_operand:
        a.two_operand.as<T>()[c] = a.scale_shift.as<T>()[c];
        a.two_operand.as<T>()[C + c] = 2 * a.dsums.as<T>()[C + c];
        a.two_operand.as<T>()[2 * C + c] = a.dsums.as<T>()[c];
        break;
    }
  }
}

// The vectors, and what elementwise's affine and two_operand do with them.
template <class T, class E>
void run_image(BatchNormProblem const& p, BatchNormArgs const& a) {
  auto get = [](View const& v, std::int64_t i) { return double(E(v.as<E>()[i])); };
  auto put = [&](std::int64_t i, double v) { a.y.as<E>()[i] = E(v); };
  for (std::int64_t c = 0; c < p.c; ++c) {
    auto const m = moments<T>(p, a, a.sums, c);
    double const count = double(std::max(a.step->valid_count, 1)) * double(p.per_sample), gamma = double(a.gamma.as<T>()[c]),
                 scale = gamma * m.inverse;
    bool const forward = p.function == BatchNormFunction::normalise;
    double dvar = 0, dmean = 0, shift = 0, residual_scale = 1;
    if (forward) {
      shift = double(a.beta.as<T>()[c]) - m.mean * scale;
      update_running(p, a, m, a.running_mean.as<T>()[c], a.running_var.as<T>()[c]);
      if (p.vectors) a.scale_shift.as<T>()[c] = T(scale), a.scale_shift.as<T>()[p.c + c] = T(shift);
      if (p.residual_norm) {
        auto const r = moments<T>(p, a, a.residual_sums, c);
        residual_scale = double(a.residual_gamma.as<T>()[c]) * r.inverse;
        shift += double(a.residual_beta.as<T>()[c]) - r.mean * residual_scale;
        update_running(p, a, r, a.residual_running_mean.as<T>()[c], a.residual_running_var.as<T>()[c]);
      }
    } else {
      double const dshift = double(a.dscale_shift.as<T>()[p.c + c]), g = double(a.dscale_shift.as<T>()[c]) - m.mean * dshift;
      dvar = -0.5 * g * gamma * m.inverse * m.inverse * m.inverse;
      dmean = -scale * dshift - 2 * m.mean * dvar;
      a.dgamma.as<T>()[c] = T(g * m.inverse);
      a.dbeta.as<T>()[c] = T(dshift);
    }
    for (std::int64_t n = 0; n < p.n; ++n)
      for (std::int64_t j = 0; j < p.per_sample; ++j) {
        std::int64_t const i = p.layout == Layout::nhwc ? (n * p.per_sample + j) * p.c + c : (n * p.c + c) * p.per_sample + j;
        if (forward) {
          put(i, activate(p.act, scale * get(a.x, i) + shift + (p.residual ? residual_scale * get(a.residual, i) : 0.0)));
          if (!p.bits) continue;
          auto& bits = a.bits.as<std::uint8_t>()[(n * p.per_sample + j) * (p.c / 8) + c / 8];
          bits = std::uint8_t((c % 8 ? bits : 0) | (get(a.y, i) > 0) << c % 8);
        } else if (n >= a.step->valid_count) {
          put(i, 0);
        } else {
          put(i, (p.mask && !(get(a.mask, i) > 0) ? 0 : scale * get(a.dy, i)) + 2 * dvar / count * get(a.x, i) + dmean / count);
        }
      }
  }
}

// T: of the vectors and filters, E: of the folded filters.
template <class T, class E>
void run_fold(BatchNormProblem const& p, BatchNormArgs const& a) {
  for (std::int64_t c = 0; c < p.c; ++c) {
    double const scale = double(a.gamma.as<T>()[c]) / std::sqrt(double(a.running_var.as<T>()[c]) + p.eps);
    double const bias = p.bias ? double(a.bias.as<T>()[c]) : 0;
    a.folded_bias.as<T>()[c] = T(double(a.beta.as<T>()[c]) + (bias - double(a.running_mean.as<T>()[c])) * scale);
    for (std::int64_t i = c * p.per_sample; i < (c + 1) * p.per_sample; ++i) a.folded_w.as<E>()[i] = E(double(a.w.as<T>()[i]) * scale);
  }
}

std::string reject(BatchNormProblem const&, DeviceFacts const&) { return {}; }
void run(BatchNormProblem const& p, Config const& config, BatchNormArgs const& a, View memory, Stream& stream) {
  if (p.pair) {
    BatchNormProblem one = p;
    one.pair = false;
    BatchNormArgs other = a;
    other.x = a.pair_x, other.dscale_shift = a.pair_dscale_shift, other.sums = a.residual_sums, other.gamma = a.residual_gamma;
    other.y = a.pair_y, other.dgamma = a.pair_dgamma, other.dbeta = a.pair_dbeta;
    return run(one, config, a, memory, stream), run(one, config, other, memory, stream);
  }
  if (p.applies()) {
    if (p.image == DType::f64) return run_image<double, double>(p, a);
    return p.image == DType::f32 ? run_image<float, float>(p, a) : run_image<float, Bf16Element>(p, a);
  }
  if (p.function == BatchNormFunction::fold) {
    if (p.image == DType::f64) return run_fold<double, double>(p, a);
    return p.image == DType::f32 ? run_fold<float, float>(p, a) : run_fold<float, Bf16Element>(p, a);
  }
  p.type == DType::f64 ? run_typed<double>(p, a) : run_typed<float>(p, a);
}

}  // namespace

extern Algorithm<BatchNormProblem> const batch_norm_reference = {
    .name = "reference", .target = DeviceKind::cpu, .reject = reject, .run = run, .baseline = true};

}  // namespace falconet
