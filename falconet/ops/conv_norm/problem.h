// A convolution together with the batch norm at its result, in one launch; README.md has the mathematics.
// fwd: y = conv(x, w), its channel sums, and r = act(batch norm of y [+ skip]): ConvProblem with store=squares, then BatchNormProblem normalise.
// bwd_data: d = the data gradient with its slots and its sums with `other`, and dx = the gradient of the batch norm that made what the convolution read:
// ConvProblem with dot_other, then BatchNormProblem normalise_gradient of (d, other).
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "falconet/ops/batch_norm/problem.h"
#include "falconet/ops/conv/problem.h"

namespace falconet {

struct ConvNormArgs {
  ConvArgs conv;         // y (fwd) or x (bwd_data: d) and stats are outputs; those of bwd_data are empty where the problem does not write them
  BatchNormArgs norm;    // x, sums (fwd) and dy, dscale_shift (bwd_data) are the convolution's outputs
};

struct ConvNormProblem {
  ConvProblem conv;
  double eps = 1e-5, momentum = 0.1;   // momentum: fwd
  Activation act = Activation::none;   // fwd, of the normalised result: none, relu or relu6
  bool skip = false;                   // fwd: a tensor like the result, added before the activation
  bool kept = false;                   // bwd_data: d is written, too

  BatchNormProblem norm() const;

  // "eps=1e-05 momentum=0.1 act=relu skip=1 of fwd n128 c16 hw32 k16 rs3 p1 bf16 nhwc store=squares"
  std::string text() const;
  static ConvNormProblem parse(std::string_view);   // throws a usage error
  bool operator==(ConvNormProblem const&) const = default;

  using Args = ConvNormArgs;
  // fwd: the convolution's inputs, gamma, beta, running_mean, running_var, [skip] -> result, running_mean', running_var', y, stats.
  // bwd_data: the convolution's inputs, sums, gamma -> dx, dgamma, dbeta, [d].
  std::vector<Operand> operands() const;
  static ConvNormArgs args(ConvNormProblem const&, std::span<View const> operands);
  double operations() const { return conv.operations() + norm().operations(); }
};

}  // namespace falconet
