#include "falconet/ops/batch_norm/op.h"

#include "falconet/base/error.h"
#include "falconet/ops/elementwise/op.h"
#include "falconet/ops/problem_text.h"
#include "falconet/ops/reduce/op.h"

namespace falconet {
using F = BatchNormFunction;

std::string BatchNormOp::attributes() const {
  std::string out(falconet::name(function));
  if (function != F::two_operand) out += " eps " + exact(eps);
  if (slots.residual) out += slots.residual_norm ? " residual_norm" : " residual";
  if (slots.act == Activation::relu) out += " relu";
  if (slots.act == Activation::relu6) out += " relu6";
  if (slots.mask) out += " mask";
  if (slots.vectors) out += " vectors";
  if (slots.bits) out += " bits";
  if (slots.pair) out += " pair";
  return out;
}

std::vector<TensorType> BatchNormOp::infer(std::span<TensorType const> in) const {
  if (function == F::normalise || function == F::normalise_gradient) {
    bool const forward = function == F::normalise;
    if (in.size() != (forward ? 7u + slots.residual + 5 * slots.residual_norm : 6u + slots.mask + 4 * slots.pair)) fail_shape("batch norm " + attributes() + " takes other inputs");
    if (in[0].shape.rank() < 2 || in[0].shape[0] * in[0].shape[1] * per_sample != in[0].shape.elements())
      fail_shape("batch norm does not fit " + in[0].shape.text());
    TensorType const one{in[forward ? 1 : 2].dtype, Shape{in[0].shape[1]}, Layout::nchw};
    std::vector<TensorType> out{in[0], one, one};
    if (slots.residual_norm) out.insert(out.end(), {one, one});
    if (slots.pair) out.insert(out.end(), {in[0], one, one});
    if (slots.vectors) out.push_back({one.dtype, Shape{2, in[0].shape[1]}, Layout::nchw});
    if (slots.bits) {
      out.push_back({DType::u8, in[0].shape, in[0].layout});
      out.back().shape[1] /= 8;
    }
    return out;
  }
  if (function == F::fold) {
    if (in.size() < 5 || in.size() > 6) fail_shape("batch norm fold takes a filter, four vectors and at most a bias");
    auto const& w = in[0].shape;
    if (w.rank() < 2) fail_shape("batch norm fold takes filters, not " + w.text());
    for (auto const& v : in.subspan(1))
      if (v.shape != Shape{w[0]}) fail_shape("batch norm fold needs vectors " + Shape{w[0]}.text() + ", not " + v.shape.text());
    return {{slots.filter, w, in[0].layout}, {in[1].dtype, Shape{w[0]}, Layout::nchw}};
  }
  constexpr std::size_t inputs[] = {6, 4, 4, 3, 2, 4};
  std::string const what = "batch norm " + std::string(falconet::name(function));
  if (in.size() != inputs[int(function)]) fail_shape(what + " takes " + std::to_string(inputs[int(function)]) + " inputs");
  bool const pair_first = function != F::inference;
  std::int64_t const c = in[0].shape.rank() == 0 ? 0 : in[0].shape[in[0].shape.rank() - 1];
  Shape const one{c}, two{2, c}, three{3, c};
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (in[i] == step_state_type()) continue;
    bool const pair = (i == 0 && pair_first) ||
                      (i == 1 && (function == F::gradient || function == F::two_operand || function == F::gradient_two_operand));
    Shape const& wanted = pair ? two : one;
    if (in[i].shape != wanted) fail_shape(what + " needs vectors " + wanted.text() + ", not " + in[i].shape.text());
  }
  DType const t = in[0].dtype;
  auto type = [&](Shape const& s) { return TensorType{t, s, Layout::nchw}; };
  switch (function) {
    case F::coefficients:
      return {type(two), type(one), type(one)};
    case F::gradient:
      return {type(two), type(one), type(one)};
    case F::inference:
      return {type(two)};
    case F::inference_gradient:
      return {type(one), type(one)};
    case F::two_operand:
      return {type(three)};
    case F::gradient_two_operand:
      return {type(three), type(one), type(one)};
    case F::normalise:
    case F::normalise_gradient:
    case F::fold:
      break;
  }
  return {};
}

std::vector<Var> BatchNormOp::gradient(Graph& g, Node const& node, std::span<Var const> dy) const {
  if (!dy[0]) return std::vector<Var>(node.in.size());
  auto in = [&](std::size_t i) { return Var(&g, node.in[i]); };
  auto make = [&](BatchNormFunction f, std::vector<Var> const& inputs) {
    return g.add(std::make_shared<BatchNormOp>(f, per_sample, eps, momentum), inputs, node.layer, node.at);
  };
  if (function == F::coefficients) {
    auto const d = make(F::gradient, {dy[0], in(0), in(1), in(5)});
    return {d[0], d[1], d[2], Var{}, Var{}, Var{}};
  }
  if (function == F::inference) {
    auto const d = make(F::inference_gradient, {dy[0], in(2), in(3)});
    return {d[0], d[1], Var{}, Var{}};
  }
  return Op::gradient(g, node, dy);
}

int BatchNormOp::alias(int output) const {
  if (output == 0) return -1;
  if (function == F::normalise && output > 2) return slots.residual_norm && output < 5 ? output + 8 : -1;   // the residual's
  return function == F::coefficients ? output + 2 : function == F::normalise ? output + 3 : -1;
}

std::shared_ptr<Op const> BatchNormOp::without_updates() const {
  if (function != F::normalise) return nullptr;
  return std::make_shared<BatchNormOp>(function, per_sample, eps, 0, slots);   // momentum 0: the running statistics stay
}

std::string BatchNormOp::problem(std::span<TensorType const> in, std::span<TensorType const> out) const {
  BatchNormProblem p;
  p.function = function;
  p.c = out[0].shape[out[0].shape.rank() - 1];
  p.vectors = slots.vectors, p.bits = slots.bits, p.pair = slots.pair;
  p.per_sample = per_sample;
  p.eps = eps;
  p.momentum = momentum;
  p.type = in[0].dtype;
  if (function == F::fold) {
    p.c = in[0].shape[0], p.per_sample = in[0].shape.elements() / p.c;
    p.type = in[1].dtype, p.image = slots.filter;
    p.bias = in.size() == 6;
  }
  if (p.applies()) {
    p.n = in[0].shape[0], p.c = in[0].shape[1];
    p.type = in[function == F::normalise ? 1 : 2].dtype;
    p.image = in[0].dtype;
    p.layout = in[0].layout;
    p.act = slots.act, p.residual = slots.residual, p.residual_norm = slots.residual_norm, p.mask = slots.mask;
  }
  return p.text();
}

Var batch_norm(Var x, Var gamma, Var beta, Var running_mean, Var running_var, Var step, bool training, double eps, double momentum,
               std::string_view layer, std::source_location at) {
  Graph& g = x.graph();
  std::string const path = layer.empty() ? g.numbered("batch_norm") : std::string(layer);
  Shape const& s = x.shape();
  if (s.rank() < 2) fail_in_layer(ErrorKind::shape, path, "batch norm needs channels on axis 1, not " + s.text(), at);
  std::int64_t const per_sample = s.elements() / std::max<std::int64_t>(s[0] * s[1], 1);
  auto const op = std::make_shared<BatchNormOp>(training ? F::coefficients : F::inference, per_sample, eps, momentum);
  std::vector<Var> in{gamma, beta, running_mean, running_var};
  if (training) {
    in.insert(in.begin(), channel_sums(x, step, path, at));
    in.push_back(step);
  }
  return affine(x, g.add(op, in, path, at)[0], path, at);
}

Var two_operand_coefficients(Var scale_shift, Var dsums) {
  return scale_shift.graph().add1(std::make_shared<BatchNormOp>(F::two_operand, 1, 0, 0), {scale_shift, dsums});
}

}  // namespace falconet
