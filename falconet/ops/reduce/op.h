// Reductions on Vars: per channel (axis 1 of tensors of rank 2 and more), per image, and over everything.
#pragma once
#include <source_location>
#include <string_view>

#include "falconet/graph/graph.h"
#include "falconet/ops/reduce/problem.h"

namespace falconet {

class ReduceOp final : public Op {
 public:
  // Inputs: channel_sum x | channel_sums x, step | channel_dot dy, x, [mask] | image_dot a, b | mean x, [step]
  explicit ReduceOp(ReduceFunction function, bool mask = false, bool valid_only = false)
      : function(function), mask(mask), valid_only(valid_only) {}
  ReduceFunction const function;
  bool const mask;        // channel_dot: dy counts where mask > 0
  bool const valid_only;  // mean: rows < valid_count only

  std::string_view name() const override { return "reduce"; }
  std::string attributes() const override;
  std::vector<TensorType> infer(std::span<TensorType const> in) const override;
  std::vector<Var> gradient(Graph&, Node const&, std::span<Var const> dy) const override;
  std::string problem(std::span<TensorType const> in, std::span<TensorType const> out) const override;
};

// [c]: sum of x over everything but axis 1. The gradient of a bias. Not differentiable.
Var channel_sum(Var x, std::string_view layer = {}, std::source_location at = std::source_location::current());
// [2,c]: (sum x, sum x*x) over rows < StepState.valid_count.
Var channel_sums(Var x, Var step, std::string_view layer = {}, std::source_location at = std::source_location::current());
// [2,c]: (sum dy*x, sum dy); with a mask like dy, dy counts where mask > 0. Not differentiable.
Var channel_dot(Var dy, Var x, Var mask = {}, std::string_view layer = {}, std::source_location at = std::source_location::current());
// [n,c,1,1]: sum of a*b over each image and channel of rank-4 tensors. Not differentiable.
Var image_dot(Var a, Var b, std::string_view layer = {}, std::source_location at = std::source_location::current());
// A scalar: the mean of all elements; with a step, of the rows < StepState.valid_count.
Var mean(Var x, Var step = {}, std::string_view layer = {}, std::source_location at = std::source_location::current());

}  // namespace falconet
