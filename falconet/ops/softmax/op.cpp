#include "falconet/ops/softmax/op.h"

#include "falconet/ops/softmax/problem.h"

namespace falconet {

std::vector<TensorType> Softmax::infer(std::span<TensorType const> in) const {
  if (in[0].shape.rank() != 2 && in[0].shape.rank() != 4) fail_shape("softmax takes [N,C] or [N,C,H,W], not " + in[0].shape.text());
  return {in[0]};
}
std::vector<Var> Softmax::gradient(Graph& g, Node const& node, std::span<Var const> dy) const {
  return {g.add1(std::make_shared<SoftmaxGradient>(log), {Var(&g, node.out[0]), dy[0]}, node.layer, node.at)};
}
std::string Softmax::problem(std::span<TensorType const> in, std::span<TensorType const>) const {
  return SoftmaxProblem{log, false, in[0]}.text();
}

std::vector<TensorType> SoftmaxGradient::infer(std::span<TensorType const> in) const {
  if (in[0] != in[1]) fail_shape("the gradient of a softmax is like its result, " + in[0].text() + ", not " + in[1].text());
  return {in[0]};
}
std::string SoftmaxGradient::problem(std::span<TensorType const> in, std::span<TensorType const>) const {
  return SoftmaxProblem{log, true, in[0]}.text();
}

Var channel_softmax(Var x, std::string_view layer, std::source_location at) {
  return x.graph().add1(std::make_shared<Softmax>(false), {x}, layer, at);
}
Var channel_log_softmax(Var x, std::string_view layer, std::source_location at) {
  return x.graph().add1(std::make_shared<Softmax>(true), {x}, layer.empty() ? x.graph().numbered("log_softmax") : std::string(layer), at);
}

}  // namespace falconet
