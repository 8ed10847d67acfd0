#include "falconet/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "falconet/base/error.h"

namespace falconet {
namespace {

void check_rate(double lr) {
  if (!(lr >= 0) || !std::isfinite(lr)) fail(ErrorKind::usage, "the learning rate should be a number of at least 0, not " + std::to_string(lr));
}
void check_share(char const* what, double v) {
  if (!(v >= 0 && v < 1)) fail(ErrorKind::usage, std::string(what) + " is a share of all steps in [0, 1), not " + std::to_string(v));
}
// From a to b as t goes from 0 to 1, along half a cosine.
double half_cosine(double a, double b, double t) { return b + (a - b) * 0.5 * (1 + std::cos(std::numbers::pi * t)); }

}  // namespace

Optimizer sgd(SgdOptions o) {
  check_rate(o.lr);
  Optimizer out;
  out.options.kind = OptimizerOptions::sgd;
  out.options.momentum = o.momentum;
  out.options.nesterov = o.nesterov;
  out.options.weight_decay = o.weight_decay;
  out.lr = o.lr;
  return out;
}
Optimizer adam(AdamOptions o) {
  check_rate(o.lr);
  Optimizer out;
  out.options.kind = OptimizerOptions::adam;
  out.options.beta1 = o.beta1;
  out.options.beta2 = o.beta2;
  out.options.eps = o.eps;
  out.options.weight_decay = o.weight_decay;
  out.lr = o.lr;
  return out;
}
Optimizer adamw(AdamWOptions o) {
  Optimizer out = adam({o.lr, o.beta1, o.beta2, o.eps, o.weight_decay});
  out.options.kind = OptimizerOptions::adamw;
  return out;
}

Schedule constant_rate(double warmup) {
  check_share("warmup", warmup);
  Schedule s;
  s.warmup = warmup;
  return s;
}
Schedule step_decay(StepScheduleOptions o) {
  check_share("warmup", o.warmup);
  if (o.every_epochs < 1) fail(ErrorKind::usage, "a step schedule decays every 1 or more epochs, not " + std::to_string(o.every_epochs));
  Schedule s;
  s.kind = Schedule::step;
  s.every_epochs = o.every_epochs;
  s.at_epochs = o.at_epochs;
  s.gamma = o.gamma;
  s.warmup = o.warmup;
  return s;
}
Schedule cosine(CosineOptions o) {
  check_share("warmup", o.warmup);
  Schedule s;
  s.kind = Schedule::cosine;
  s.warmup = o.warmup;
  s.final_factor = o.final_factor;
  return s;
}
Schedule one_cycle(OneCycleOptions o) {
  check_share("peak_at", o.peak_at);
  Schedule s;
  s.kind = Schedule::one_cycle;
  s.peak_at = o.peak_at;
  s.start_factor = o.start_factor;
  s.final_factor = o.final_factor;
  return s;
}

double Schedule::factor(std::int64_t step, std::int64_t total, std::int64_t steps_per_epoch) const {
  double const at = total > 1 ? double(step) / double(total - 1) : 1.0;    // 0 at the first step, 1 at the last
  if (kind == one_cycle) {
    if (at < peak_at) return half_cosine(start_factor, 1.0, at / peak_at);
    return half_cosine(1.0, final_factor, peak_at < 1 ? (at - peak_at) / (1 - peak_at) : 1.0);
  }
  double const rising = warmup * double(total);
  double const ramp = double(step) < rising ? double(step + 1) / rising : 1.0;
  if (kind == Schedule::step) {
    auto const epoch = step / steps_per_epoch;
    auto const falls = at_epochs.empty() ? epoch / every_epochs : std::count_if(at_epochs.begin(), at_epochs.end(), [&](int at) { return at <= epoch; });
    return std::min(1.0, ramp) * std::pow(gamma, double(falls));
  }
  if (kind == Schedule::cosine) {
    if (double(step) < rising) return std::min(1.0, ramp);
    double const rest = std::max(1.0, double(total) - 1 - rising);
    return half_cosine(1.0, final_factor, std::min(1.0, (double(step) - rising) / rest));
  }
  return std::min(1.0, ramp);
}

}  // namespace falconet
