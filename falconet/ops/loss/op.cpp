#include "falconet/ops/loss/op.h"

#include "falconet/ops/problem_text.h"

namespace falconet {
namespace {

std::string describe(LossKind kind, double label_smoothing) {
  return std::string(name(kind)) + (label_smoothing != 0 ? " smoothing " + exact(label_smoothing) : "");
}

void check(LossKind kind, double label_smoothing, std::span<TensorType const> in) {
  TensorType const &x = in[0], &target = in[1];
  if (kind == LossKind::cross_entropy) {
    if (x.shape.rank() != 2) fail_shape("cross_entropy takes logits [N,C], not " + x.shape.text());
    if (target.dtype != DType::i32 || target.shape != Shape{x.shape[0]})
      fail_shape("cross_entropy takes one i32 label per row, " + Shape{x.shape[0]}.text() + ", not " + target.text());
    if (!(label_smoothing >= 0 && label_smoothing < 1)) fail_shape("label_smoothing lies in [0, 1), not " + exact(label_smoothing));
  } else {
    if (x.shape.rank() < 1) fail_shape(std::string(name(kind)) + " takes a batch, not a scalar");
    if (target.shape != x.shape) fail_shape(std::string(name(kind)) + " takes a target like x, not " + target.shape.text());
    if (target.layout != x.layout) fail_shape(std::string(name(kind)) + " takes a target that lies like x, " + x.text() + ", not " + target.text());
  }
  if (in[2] != step_state_type()) fail_shape("a loss takes the step state, not " + in[2].text());
}

std::vector<TensorType> scalars(LossKind kind, TensorType const& x) {
  TensorType const scalar{x.dtype == DType::f64 ? DType::f64 : DType::f32, Shape{}, Layout::nchw};
  return std::vector<TensorType>(kind == LossKind::cross_entropy ? 2 : 1, scalar);
}

std::string problem_text(LossKind kind, LossResult result, double label_smoothing, double dloss, std::span<TensorType const> in) {
  LossProblem p;
  p.kind = kind;
  p.result = result;
  p.x = in[0];
  p.target = in[1].dtype;
  p.label_smoothing = label_smoothing;
  p.dloss = dloss;
  return p.text();
}

std::vector<Var> loss(LossKind kind, double label_smoothing, Var x, Var target, Var step, std::string_view name, std::string_view layer,
                      std::source_location at) {
  Var const in[] = {x, target, step};
  std::string const path = layer.empty() ? x.graph().numbered(name) : std::string(layer);
  return x.graph().add(std::make_shared<LossOp>(kind, label_smoothing), in, path, at);
}

}  // namespace

std::string LossOp::attributes() const { return describe(kind, label_smoothing); }
std::vector<TensorType> LossOp::infer(std::span<TensorType const> in) const {
  check(kind, label_smoothing, in);
  return scalars(kind, in[0]);
}
std::vector<Var> LossOp::gradient(Graph& g, Node const& node, std::span<Var const> dy) const {
  Var const x(&g, node.in[0]), target(&g, node.in[1]), step(&g, node.in[2]);
  if (!dy[0]) return {{}, {}, {}};   // only the number of correct rows was asked for: it is constant almost everywhere
  auto op = std::make_shared<LossGradient>(kind, label_smoothing);
  Var const dx = g.add1(op, {x, target, step, dy[0]}, node.layer, node.at);
  Var dtarget;
  if (kind == LossKind::mse) dtarget = g.add1(op, {target, x, step, dy[0]}, node.layer, node.at);   // (x - t)^2 is symmetric
  return {dx, dtarget, {}};
}
std::string LossOp::problem(std::span<TensorType const> in, std::span<TensorType const>) const {
  return problem_text(kind, LossResult::loss, label_smoothing, 1, in);
}

std::string LossGradient::attributes() const { return describe(kind, label_smoothing); }
std::vector<TensorType> LossGradient::infer(std::span<TensorType const> in) const {
  check(kind, label_smoothing, in);
  if (in[3].shape.elements() != 1) fail_shape("the gradient of a loss is a scalar, not " + in[3].shape.text());
  return {in[0]};
}
std::string LossGradient::problem(std::span<TensorType const> in, std::span<TensorType const>) const {
  return problem_text(kind, LossResult::gradient, label_smoothing, 1, in);
}

std::string LossWithGradient::attributes() const { return describe(kind, label_smoothing) + (dloss != 1 ? " dloss " + exact(dloss) : ""); }
std::vector<TensorType> LossWithGradient::infer(std::span<TensorType const> in) const {
  check(kind, label_smoothing, in);
  auto out = scalars(kind, in[0]);
  out.push_back(in[0]);
  return out;
}
std::string LossWithGradient::problem(std::span<TensorType const> in, std::span<TensorType const>) const {
  return problem_text(kind, LossResult::both, label_smoothing, dloss, in);
}

std::string LossOfProduct::attributes() const {
  return describe(LossKind::cross_entropy, label_smoothing) + " of a product" + (bias ? " + bias" : "") + (mask ? ", masked gradient" : "") + (dloss != 1 ? " dloss " + exact(dloss) : "");
}
std::vector<TensorType> LossOfProduct::infer(std::span<TensorType const> in) const {
  Shape const &features = in[0].shape, &weight = in[1].shape;
  if (features.rank() != 2 || weight.rank() != 2 || features[1] != weight[1]) fail_shape("expects features [N,inputs] and a weight [C,inputs], not " + features.text() + " and " + weight.text());
  std::size_t const labels = bias ? 3 : 2;
  TensorType const logits{in[0].dtype, Shape{features[0], weight[0]}, Layout::nchw}, like_before[] = {logits, in[labels], in[labels + 1]};
  check(LossKind::cross_entropy, label_smoothing, like_before);
  auto out = scalars(LossKind::cross_entropy, logits);
  out.push_back(logits);
  out.push_back(in[0]);
  return out;
}
std::string LossOfProduct::problem(std::span<TensorType const> in, std::span<TensorType const> out) const {
  LossProblem p;
  p.result = LossResult::both;
  p.x = out[2];
  p.label_smoothing = label_smoothing;
  p.dloss = dloss;
  p.product = {in[0].shape[1], bias, mask};
  return p.text();
}

ClassificationLoss cross_entropy(Var logits, Var labels, Var step, double label_smoothing, std::string_view layer, std::source_location at) {
  auto out = loss(LossKind::cross_entropy, label_smoothing, logits, labels, step, "cross_entropy", layer, at);
  return {out[0], out[1]};
}
Var mse(Var x, Var target, Var step, std::string_view layer, std::source_location at) {
  return loss(LossKind::mse, 0, x, target, step, "mse", layer, at)[0];
}
Var binary_cross_entropy_with_logits(Var x, Var target, Var step, std::string_view layer, std::source_location at) {
  return loss(LossKind::bce, 0, x, target, step, "binary_cross_entropy", layer, at)[0];
}

}  // namespace falconet
