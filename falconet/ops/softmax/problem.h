// Softmax over the channels (axis 1), or its logarithm, or the gradient of either. The mathematics is in README.md.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "falconet/ops/algorithm.h"

namespace falconet {

struct SoftmaxArgs {
  View x, y;       // x -> y; the gradient reads y
  View dy, dx;
};

struct SoftmaxProblem {
  bool log = false;          // log_softmax
  bool gradient = false;
  TensorType x;              // [N,C] or [N,C,H,W]; y, dy and dx are alike

  // The elements of one sample's channels at one place lie `stride()` apart; there are n * places() such groups.
  std::int64_t n() const { return x.shape[0]; }
  std::int64_t channels() const { return x.shape[1]; }
  std::int64_t places() const { return x.shape.rank() == 4 ? x.shape[2] * x.shape[3] : 1; }
  std::int64_t stride() const { return x.layout == Layout::nhwc ? 1 : places(); }

  // "kind=softmax x=f32[64x10]", "kind=log_softmax dir=bwd x=f32[2x3x4x5]nhwc"
  std::string text() const;
  static SoftmaxProblem parse(std::string_view);   // throws a usage error
  bool operator==(SoftmaxProblem const&) const = default;

  using Args = SoftmaxArgs;
  std::vector<Operand> operands() const;           // x -> y | y, dy -> dx
  static SoftmaxArgs args(SoftmaxProblem const&, std::span<View const> operands);
  double operations() const { return 4.0 * double(x.shape.elements()); }
};

}  // namespace falconet
