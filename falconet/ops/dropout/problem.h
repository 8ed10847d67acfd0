// y = x * mask / (1 - p), the mask regenerated from counter-based random bits; see README.md.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "falconet/ops/algorithm.h"

namespace falconet {

struct DropoutArgs {
  View x, y;                        // in the gradient: dy and dx
  StepState const* step = nullptr;  // seed and sample
};

struct DropoutProblem {
  std::int64_t n = 1, c = 1, hw = 1;
  double p = 0.5;         // probability that an element is dropped, in [0, 1)
  std::uint64_t key = 0;  // of the layer
  DType type = DType::f32;
  Layout layout = Layout::nchw;

  std::int64_t elements() const { return n * c * hw; }
  // "n=64 c=128 hw=1 p=0.5 key=1234 type=f32 layout=nchw"
  std::string text() const;
  static DropoutProblem parse(std::string_view);  // throws a usage error
  bool operator==(DropoutProblem const&) const = default;

  using Args = DropoutArgs;
  std::vector<Operand> operands() const;  // x, step, y
  static DropoutArgs args(DropoutProblem const&, std::span<View const> operands);
  double operations() const { return double(elements()); }
};

}  // namespace falconet
