// One elementwise function over a tensor x[n,c,hw]; the functions and their formulas are in README.md.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "falconet/ops/algorithm.h"
#include "falconet/ops/fusion.h"

namespace falconet {

enum class ElementwiseFunction : std::uint8_t {
  activation,           // y = act(x)
  activation_gradient,  // dx = dy * act'(.), from the output y where that is enough, else from the input x (see derives_from_output)
  add,                  // y = act(a + b), or with mask: (a + b) where mask > 0 and else 0
  multiply,             // y = a * b; b may be [n,c,1,1]
  scale,                // y = alpha * x
  fill,                 // y = alpha
  spread,               // y = alpha * v[0]; with valid_only, 0 in rows >= valid_count and divided by valid_count
  affine,               // y = act(scale[c] * x + shift[c] + residual)
  affine_scale,         // dx = scale[c] * dy, or with mask: 0 where not mask > 0
  sums_gradient,        // dx = d[0][c] + 2 * d[1][c] * x, 0 in rows >= valid_count
  two_operand           // dx = a[c] * dy + b[c] * x + c[c], 0 in rows >= valid_count; with mask, dy counts where mask > 0
};
std::string_view name(ElementwiseFunction);
std::string_view name(Activation);              // "none", "relu", "leaky_relu", "relu6", "gelu", "silu", "sigmoid", "tanh"
Activation parse_activation(std::string_view);  // throws a usage error naming the known ones

// The activation's derivative is a function of its output y: x need not be kept.
constexpr bool derives_from_output(Activation a) { return a != Activation::gelu && a != Activation::silu; }

struct ElementwiseArgs {
  View x, b;            // the first and the second full-size input, in the order of the formulas: (a, b), (dy, x or y)
  View vectors;         // [2,c] or [3,c] per channel; [1] of spread
  View residual, mask;  // like x
  View y;
  StepState const* step = nullptr;
};

struct ElementwiseProblem {
  ElementwiseFunction function = ElementwiseFunction::activation;
  std::int64_t n = 1, c = 1, hw = 1;
  DType type = DType::f32;  // of all full-size operands; vectors are f32, or f64 where these are
  Layout layout = Layout::nchw;
  Activation act = Activation::none;
  double alpha = 0;         // factor of scale and spread, value of fill, negative slope of leaky_relu
  bool broadcast = false;   // multiply: b is [n,c,1,1]
  bool residual = false;    // affine
  bool mask = false;        // add, affine_scale, two_operand
  bool valid_only = false;  // spread

  std::int64_t elements() const { return n * c * hw; }
  // "function=affine n=64 c=16 hw=1024 type=f32 layout=nhwc act=relu residual=1"
  std::string text() const;
  static ElementwiseProblem parse(std::string_view);  // throws a usage error
  bool operator==(ElementwiseProblem const&) const = default;

  using Args = ElementwiseArgs;
  std::vector<Operand> operands() const;
  static ElementwiseArgs args(ElementwiseProblem const&, std::span<View const> operands);
  double operations() const;
};

}  // namespace falconet
