// One update of all parameters; the formulas are in README.md and are exactly PyTorch's.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "falconet/ops/algorithm.h"

namespace falconet {

struct OptimizerOptions {
  enum Kind : std::uint8_t { sgd, adam, adamw } kind = sgd;
  double momentum = 0;                            // sgd
  bool nesterov = false;                          // sgd
  double weight_decay = 0;                        // sgd, adam: added to the gradient; adamw: decoupled (Loshchilov & Hutter 2019)
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;  // adam, adamw
  bool operator==(OptimizerOptions const&) const = default;
};
std::string_view name(OptimizerOptions::Kind);  // "sgd", "adam", "adamw"
// The states kept for each parameter, in order: {}, {"momentum"}, or {"mean", "square"} (the moments of Adam). They start at zero.
std::vector<std::string> optimizer_states(OptimizerOptions const&);

struct OptimizerArgs {
  struct Parameter {
    void* value;
    void const* gradient;
    void* state[2];
    std::int64_t begin;  // sum of the sizes before it
    std::int64_t size;
  };
  StepState const* step = nullptr;
  std::vector<Parameter> parameters;
};

struct OptimizerProblem {
  OptimizerOptions options;
  std::vector<std::int64_t> sizes;  // elements of each parameter
  DType type = DType::f32;          // f32 or f64: parameters, gradients, states

  std::int64_t elements() const;
  // "kind=sgd momentum=0.9 type=f32 sizes=200,8"; options that are not used or at their defaults are left out.
  std::string text() const;
  static OptimizerProblem parse(std::string_view);  // throws a usage error
  bool operator==(OptimizerProblem const&) const = default;

  using Args = OptimizerArgs;
  // step, then for every parameter: parameter, gradient, states; then for every parameter: parameter, states, updated in place.
  std::vector<Operand> operands() const;
  static OptimizerArgs args(OptimizerProblem const&, std::span<View const> operands);
  double operations() const;
};

}  // namespace falconet
