// The optimizer as one node that updates every parameter and its states in place.
#pragma once
#include <span>
#include <vector>

#include "falconet/graph/graph.h"
#include "falconet/ops/optimizer/problem.h"

namespace falconet {

class OptimizerOp final : public Op {
 public:
  OptimizerOp(OptimizerOptions options, int parameters) : options(options), parameters(parameters) {}
  OptimizerOptions const options;
  int const parameters;  // how many

  // Inputs: step, then for every parameter: parameter, gradient, states. Outputs: for every parameter: parameter, states.
  std::string_view name() const override { return "optimizer"; }
  std::string attributes() const override;
  std::vector<TensorType> infer(std::span<TensorType const> in) const override;
  int alias(int output) const override;
  std::string problem(std::span<TensorType const> in, std::span<TensorType const> out) const override;
};

// One step with StepState's learning rate. `states` lists optimizer_states(options) of the
// first parameter, then of the second ... Returns the updated parameters and states in the order of the outputs.
std::vector<Var> optimizer_update(OptimizerOptions const& options, Var step, std::span<Var const> parameters,
                                  std::span<Var const> gradients, std::span<Var const> states);

}  // namespace falconet
