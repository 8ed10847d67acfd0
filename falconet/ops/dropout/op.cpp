#include "falconet/ops/dropout/op.h"

#include "falconet/base/error.h"
#include "falconet/ops/problem_text.h"

namespace falconet {

std::string DropoutOp::attributes() const { return "p " + exact(p); }

std::vector<TensorType> DropoutOp::infer(std::span<TensorType const> in) const {
  if (in.size() != 2 || in[1] != step_state_type()) fail_shape("dropout takes a tensor and the step state");
  if (in[0].shape.rank() < 1) fail_shape("dropout needs samples on axis 0, not a scalar");
  return {in[0]};
}

std::vector<Var> DropoutOp::gradient(Graph& g, Node const& node, std::span<Var const> dy) const {
  return {g.add1(node.op, {dy[0], Var(&g, node.in[1])}, node.layer, node.at), Var{}};
}

std::string DropoutOp::problem(std::span<TensorType const> in, std::span<TensorType const>) const {
  TensorType const& x = in[0];
  DropoutProblem problem;
  problem.n = x.shape[0];
  problem.c = x.shape.rank() < 2 ? 1 : x.shape[1];
  problem.hw = x.shape.elements() / std::max<std::int64_t>(problem.n * problem.c, 1);
  problem.p = p;
  problem.key = key;
  problem.type = x.dtype;
  problem.layout = x.layout;
  return problem.text();
}

Var dropout(Var x, Var step, double p, std::uint64_t key, std::string_view layer, std::source_location at) {
  if (!(p >= 0 && p < 1))
    fail_in_layer(ErrorKind::usage, std::string(layer), "the probability of dropout lies in [0, 1), not " + exact(p), at);
  return x.graph().add1(std::make_shared<DropoutOp>(p, key), {x, step}, layer, at);
}

}  // namespace falconet
