// Elementwise operations on Vars. One operation serves them all; its Form says which function it is and which slots are set.
#pragma once
#include <source_location>
#include <string_view>

#include "falconet/graph/graph.h"
#include "falconet/ops/elementwise/problem.h"

namespace falconet {

class ElementwiseOp final : public Op {
 public:
  struct Form {
    ElementwiseFunction function = ElementwiseFunction::activation;
    Activation act = Activation::none;  // activation, activation_gradient; a slot of add and affine
    double alpha = 0;                   // factor of scale and spread, value of fill, negative slope of leaky_relu
    bool residual = false;              // slot of affine
    bool mask = false;                  // slot of add, affine_scale and two_operand
    bool valid_only = false;            // spread
    bool operator==(Form const&) const = default;
  };
  // Inputs, in this order, slots last:
  //   activation x | activation_gradient dy, y or x (derives_from_output) | add a, b, [mask] | multiply a, b | scale x | fill like
  //   spread value, like, [step] | affine x, scale_shift [2,c], [residual] | affine_scale dy, scale_shift [2,c], [mask]
  //   sums_gradient x, dsums [2,c], step | two_operand dy, x, coefficients [3,c], step, [mask]
  explicit ElementwiseOp(Form form) : form(form) {}
  Form const form;

  std::string_view name() const override { return "elementwise"; }
  std::string attributes() const override;
  std::vector<TensorType> infer(std::span<TensorType const> in) const override;
  std::vector<Var> gradient(Graph&, Node const&, std::span<Var const> dy) const override;
  std::string problem(std::span<TensorType const> in, std::span<TensorType const> out) const override;
};
// The node's operation as an ElementwiseOp of this function, or null.
ElementwiseOp const* elementwise(Node const&, ElementwiseFunction);

// y = act(x), any shape. alpha: the negative slope of leaky_relu, at least 0.
Var activation(Activation act, Var x, double alpha = 0.01, std::string_view layer = {},
               std::source_location at = std::source_location::current());
// a + b, equal shapes.
Var add(Var a, Var b, std::string_view layer = {}, std::source_location at = std::source_location::current());
// a * b, equal shapes, or one [N,C,H,W] and the other [N,C,1,1].
Var multiply(Var a, Var b, std::string_view layer = {}, std::source_location at = std::source_location::current());
Var scale(Var x, double factor, std::string_view layer = {}, std::source_location at = std::source_location::current());
// A tensor like `like`, every element = value.
Var fill_like(Var like, double value);
// A tensor like `like`, every element = factor * value[0]. With a step: divided by valid_count, and zero in rows >= valid_count.
Var spread(Var value, Var like, double factor, Var step = {});
// act(scale[c] * x + shift[c]) with scale_shift [2,c]; x [N,C] or [N,C,H,W].
Var affine(Var x, Var scale_shift, std::string_view layer = {}, std::source_location at = std::source_location::current());
// The gradient of channel_sums: dsums[0][c] + 2 dsums[1][c] x, zero in rows >= valid_count.
Var sums_gradient(Var x, Var dsums, Var step);
// a[c] * dy + b[c] * x + c[c] with coefficients [3,c], zero in rows >= valid_count; with a mask, dy counts where mask > 0.
Var two_operand(Var dy, Var x, Var coefficients, Var step, Var mask = {});

}  // namespace falconet
