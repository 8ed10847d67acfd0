// Dropout (Srivastava et al. 2014), scaled while training. Its gradient is the same operation on dy: the mask is drawn again.
#pragma once
#include <cstdint>
#include <source_location>
#include <string_view>

#include "falconet/graph/graph.h"
#include "falconet/ops/dropout/problem.h"

namespace falconet {

class DropoutOp final : public Op {
 public:
  DropoutOp(double p, std::uint64_t key) : p(p), key(key) {}  // inputs: x, step
  double const p;
  std::uint64_t const key;

  std::string_view name() const override { return "dropout"; }
  std::string attributes() const override;
  std::vector<TensorType> infer(std::span<TensorType const> in) const override;
  std::vector<Var> gradient(Graph&, Node const&, std::span<Var const> dy) const override;
  std::string problem(std::span<TensorType const> in, std::span<TensorType const> out) const override;
};

// Each element is 0 with probability p and x / (1 - p) otherwise, by the random bits of (StepState.seed, key, global sample index,
// element of the sample). key: the hash of the layer's path.
Var dropout(Var x, Var step, double p, std::uint64_t key, std::string_view layer = {},
            std::source_location at = std::source_location::current());

}  // namespace falconet
