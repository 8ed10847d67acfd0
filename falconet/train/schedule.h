// Optimizers with their base rate, and how the rate goes over the run.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "falconet/ops/optimizer/op.h"

namespace falconet {

struct Optimizer {
  OptimizerOptions options;
  double lr = 0.01;
};
struct SgdOptions {
  double lr = 0.01, momentum = 0, weight_decay = 0;
  bool nesterov = false;
};
struct AdamOptions {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
};
struct AdamWOptions {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 1e-2;
};
Optimizer sgd(SgdOptions = {});
Optimizer adam(AdamOptions = {});
Optimizer adamw(AdamWOptions = {});

// The factor on the base rate at a step, a pure function of the step's number. `warmup` is the share of all steps during which the
// rate rises linearly from 0.
struct Schedule {
  enum Kind { constant, step, cosine, one_cycle } kind = constant;
  double warmup = 0;
  int every_epochs = 30;        // step: multiply by gamma after so many epochs,
  std::vector<int> at_epochs;   //       or, if any are given, after each of these
  double gamma = 0.1;
  double final_factor = 0;      // cosine, one_cycle: the factor at the end
  double start_factor = 0.04;   // one_cycle: the factor at the start (1/25, as in PyTorch)
  double peak_at = 0.3;         // one_cycle: the share of steps until the peak
  // Throws a usage error for values out of range.
  double factor(std::int64_t step, std::int64_t total_steps, std::int64_t steps_per_epoch) const;
};
struct CosineOptions {
  double warmup = 0, final_factor = 0;
};
struct StepScheduleOptions {
  int every_epochs = 30;
  std::vector<int> at_epochs = {};
  double gamma = 0.1, warmup = 0;
};
struct OneCycleOptions {
  double peak_at = 0.3, start_factor = 0.04, final_factor = 4e-6;
};
Schedule constant_rate(double warmup = 0);
Schedule step_decay(StepScheduleOptions = {});
Schedule cosine(CosineOptions = {});
Schedule one_cycle(OneCycleOptions = {});

}  // namespace falconet
