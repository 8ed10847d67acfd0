// Convolution as a graph operation: two-dimensional, grouped, dilated, with bias; its two gradients are the same operation in
// another direction. This file and op.cpp are the one place that maps PyTorch's names and order (N,C,H,W; weights O,I,H,W) to
// the letters of the literature that ConvProblem uses.
#pragma once
#include <array>
#include <memory>
#include <source_location>
#include <string_view>

#include "falconet/graph/graph.h"
#include "falconet/ops/conv/problem.h"

namespace falconet {

struct ConvOptions {
  std::array<int, 2> stride{1, 1};             // rows, columns
  std::array<int, 4> padding{0, 0, 0, 0};      // top, left, bottom, right
  std::array<int, 2> dilation{1, 1};
  int groups = 1;
  bool operator==(ConvOptions const&) const = default;
};

// x [N,C,H,W], weight [K,C/groups,R,S], bias [K] or an empty Var -> y [N,K,P,Q] with the extents of ConvProblem::p() and q().
// Throws a shape error naming `layer` and `at` if they do not fit.
Var conv2d(Var x, Var weight, Var bias, ConvOptions options, std::string_view layer,
           std::source_location at = std::source_location::current());

// One convolution in one direction with its slots. Inputs and outputs lie in the order of ConvProblem::operands().
class ConvOp final : public Op {
 public:
  // result: the shape of dx (bwd_data) or dw (bwd_filter), which the operands alone do not tell. Unused by fwd and bwd.
  ConvOp(Direction direction, ConvOptions options, Shape result = {}) : direction_(direction), options_(options), result_(result) {}

  Direction direction() const { return direction_; }
  ConvOptions const& options() const { return options_; }
  Shape const& result() const { return result_; }
  OnLoad const& load_x() const { return load_x_; }
  OnLoad const& load_dy() const { return load_dy_; }
  OnStore const& store() const { return store_; }
  Math math() const { return math_; }

  // Copies with another slot, for the fusion pass. Whoever sets a slot also gives the node the operands it asks for.
  std::shared_ptr<ConvOp const> with_load_x(OnLoad) const;
  std::shared_ptr<ConvOp const> with_load_dy(OnLoad) const;
  std::shared_ptr<ConvOp const> with_store(OnStore) const;
  std::shared_ptr<ConvOp const> with_math(Math) const;           // for the precision pass

  // The problem for operands of these types. The result has its natural type: that of x (fwd) or dy (bwd_data), f32 or f64 for
  // dw. Throws a shape failure (fail_shape) if they do not fit.
  ConvProblem problem_for(std::span<TensorType const> in) const;

  std::string_view name() const override { return "conv"; }
  std::string attributes() const override;
  std::vector<TensorType> infer(std::span<TensorType const> in) const override;
  std::vector<Var> gradient(Graph&, Node const&, std::span<Var const> dy) const override;
  std::string problem(std::span<TensorType const> in, std::span<TensorType const> out) const override;

 private:
  Direction direction_;
  ConvOptions options_;
  Shape result_;
  OnLoad load_x_, load_dy_;
  OnStore store_;
  Math math_ = Math::exact;
};

}  // namespace falconet
