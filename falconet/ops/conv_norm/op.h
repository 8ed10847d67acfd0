// A convolution with batch norm at its result as one node. Only fusion makes it (fuse_conv_normalise, fuse_data_gradient_normalise).
#pragma once
#include "falconet/ops/conv/op.h"
#include "falconet/ops/conv_norm/problem.h"

namespace falconet {

class ConvNormOp final : public Op {
 public:
  // Inputs and outputs in the order of ConvNormProblem::operands(). form: its slots; form.conv is left to the operands.
  ConvNormOp(ConvOp conv, ConvNormProblem form) : conv(std::move(conv)), form(std::move(form)) {}
  ConvOp const conv;
  ConvNormProblem const form;

  std::string_view name() const override { return "conv_norm"; }
  std::string attributes() const override;
  std::vector<TensorType> infer(std::span<TensorType const> in) const override;
  int alias(int output) const override;
  std::shared_ptr<Op const> without_updates() const override;    // forward
  std::string problem(std::span<TensorType const> in, std::span<TensorType const> out) const override;

 private:
  ConvNormProblem problem_for(std::span<TensorType const> in) const;
};

}  // namespace falconet
