// An operation: a value that knows its shape rule, its gradient as graph nodes, and how to describe itself as a problem.
// Which algorithms can run it is asked of ops/algorithms.h, by plan/ alone.
#pragma once
#include <memory>
#include <source_location>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "falconet/tensor/tensor_type.h"

namespace falconet {

class Graph;
class Var;
struct Node;

class Op {
 public:
  virtual ~Op() = default;
  // The name under which ops/algorithms.h has its table: "conv", "gemm", "pool" ...
  virtual std::string_view name() const = 0;
  // Attributes for the printed graph: "5x5 stride 1", may be empty.
  virtual std::string attributes() const { return {}; }
  // The shape rule: types of the outputs, element type and layout included. Networks are traced in f32 and nchw; the
  // precision and layout passes change the types of leaves, insert conversions, and ask infer again, so it must carry them
  // through: results take the first operand's layout and element type; per-channel vectors, sums, losses and parameter
  // gradients are f32 (f64 where the operand is f64). Shapes that do not fit go to fail_shape(message): the graph adds layer
  // and line.
  virtual std::vector<TensorType> infer(std::span<TensorType const> in) const = 0;
  // Gradients with respect to each input, as nodes added to the graph. `dy` has one entry per output, an empty Var where no
  // gradient arrives. An empty Var in the result means: no gradient (an integer input, say). The default: not differentiable.
  virtual std::vector<Var> gradient(Graph&, Node const&, std::span<Var const> dy) const;
  // Output i lies in the memory of this input (an update in place), or -1.
  virtual int alias(int output) const { (void)output; return -1; }
  // The op that makes output 0 as this one does but leaves what this one updates in place as it is; null where there is none.
  virtual std::shared_ptr<Op const> without_updates() const { return nullptr; }
  // The problem's text, given the final types of inputs and outputs (after the precision and layout passes).
  virtual std::string problem(std::span<TensorType const> in, std::span<TensorType const> out) const = 0;
};

// Throws a shape error without a place; Graph::add catches it and adds the layer and the user's line.
[[noreturn]] void fail_shape(std::string message);

}  // namespace falconet
