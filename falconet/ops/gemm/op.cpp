#include "falconet/ops/gemm/op.h"

#include <string>

#include "falconet/ops/gemm/problem.h"
#include "falconet/ops/reduce/op.h"

namespace falconet {

std::string GemmOp::attributes() const {
  std::string out;
  auto item = [&](std::string_view text) { (out += out.empty() ? "" : " ") += text; };
  if (trans_a_) item("a^T");
  if (trans_b_) item("b^T");
  if (store_ != OnStore{} || image_.which != GemmImage::none) {
    GemmProblem p;
    p.store = store_;
    p.image = image_;
    auto const text = p.text();
    item(std::string_view(text).substr(text.find(image_.which != GemmImage::none ? "image=" : "store=")));
  }
  return out;
}

std::vector<TensorType> GemmOp::infer(std::span<TensorType const> in) const {
  auto const matrix = [&](GemmImage::Which which) {
    Shape const& s = in[which == GemmImage::a ? 0 : 1].shape;
    if (image_.which != which) return s;
    if (s.rank() != 4 || s[1] != image_.c || s[2] != image_.h || s[3] != image_.w) fail_shape("expects images, not " + s.text());
    return Shape{s[0], s[1] * s[2] * s[3]};
  };
  Shape const a = matrix(GemmImage::a), b = matrix(GemmImage::b);
  if (a.rank() != 2) fail_shape("expects a matrix [batch, inputs], x has " + std::to_string(a.rank()) + " axes; put flatten before it");
  if (b.rank() != 2) fail_shape("expects a weight matrix [outputs, inputs], not " + b.text());
  auto const m = a[trans_a_ ? 1 : 0], inputs = a[trans_a_ ? 0 : 1], expected = b[trans_b_ ? 1 : 0], n = b[trans_b_ ? 0 : 1];
  if (inputs != expected) fail_shape("expects " + std::to_string(expected) + " inputs, x has " + std::to_string(inputs));
  std::size_t next = 2;
  if (store_.bias) {
    if (in[next].shape != Shape{n}) fail_shape("expects a bias of " + std::to_string(n) + ", not " + in[next].shape.text());
    ++next;
  }
  TensorType y{in[0].dtype, Shape{m, n}};
  if (image_.which == GemmImage::y) y = {in[0].dtype, Shape{m, image_.c, image_.h, image_.w}, Layout::nhwc};
  for (bool slot : {store_.residual, store_.mask != Mask::none})
    if (slot && in[next++].shape != y.shape)
      fail_shape("a fused operand should be " + y.shape.text() + ", not " + in[next - 1].shape.text());
  if (parameter_gradient_ && y.dtype != DType::f64) y.dtype = DType::f32;
  return {y};
}

std::string GemmOp::problem(std::span<TensorType const> in, std::span<TensorType const> out) const {
  GemmProblem p;
  p.m = out[0].shape[0];
  p.n = out[0].shape.elements() / p.m;
  p.k = trans_a_ ? in[0].shape[0] : in[0].shape.elements() / in[0].shape[0];
  p.image = image_;
  p.trans_a = trans_a_;
  p.trans_b = trans_b_;
  p.a_type = in[0].dtype;
  p.b_type = in[1].dtype;
  p.y_type = out[0].dtype;
  p.store = store_;
  return p.text();
}

// With y = A B, A = op_a(a), B = op_b(b): dA = dy B^T and dB = A^T dy, written so that each lies in memory as a or b does.
std::vector<Var> GemmOp::gradient(Graph& g, Node const& node, std::span<Var const> dys) const {
  if (store_.act != Activation::none || store_.mask != Mask::none || image_.which != GemmImage::none) return Op::gradient(g, node, dys);
  Var const a{&g, node.in[0]}, b{&g, node.in[1]}, dy = dys[0];
  auto product = [&](Var left, Var right, bool trans_left, bool trans_right, bool of_parameter) {
    return g.add1(std::make_shared<GemmOp>(trans_left, trans_right, OnStore{}, of_parameter), {left, right}, node.layer, node.at);
  };
  auto const saved = g.result_direction;
  g.result_direction = "bwd_data";
  Var const da = trans_a_ ? product(b, dy, trans_b_, true, false) : product(dy, b, false, !trans_b_, false);
  g.result_direction = "bwd_filter";
  Var const db = trans_b_ ? product(dy, a, true, trans_a_, true) : product(a, dy, !trans_a_, false, true);
  std::vector<Var> out{da, db};
  if (store_.bias) out.push_back(channel_sum(dy));
  if (store_.residual) out.push_back(dy);
  g.result_direction = saved;
  return out;
}

Var linear(Var x, Var weight, Var bias, std::string_view layer, std::source_location at) {
  OnStore store;
  store.bias = bool(bias);
  auto op = std::make_shared<GemmOp>(false, true, store);
  return bias ? x.graph().add1(std::move(op), {x, weight, bias}, layer, at) : x.graph().add1(std::move(op), {x, weight}, layer, at);
}

}  // namespace falconet
