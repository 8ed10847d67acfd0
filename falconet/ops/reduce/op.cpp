#include "falconet/ops/reduce/op.h"

#include <algorithm>

#include "falconet/base/error.h"
#include "falconet/ops/elementwise/op.h"

namespace falconet {
using F = ReduceFunction;

std::string ReduceOp::attributes() const {
  std::string out(falconet::name(function));
  if (mask) out += " mask";
  if (valid_only) out += " valid rows";
  return out;
}

std::vector<TensorType> ReduceOp::infer(std::span<TensorType const> in) const {
  std::string const what(falconet::name(function));
  std::size_t const wanted =
      1 + (function == F::channel_dot || function == F::image_dot) + (function == F::channel_sums) + mask + valid_only;
  if (in.size() != wanted) fail_shape(what + " takes " + std::to_string(wanted) + " inputs, not " + std::to_string(in.size()));
  TensorType const& x = in[0];
  bool const per_channel = function != F::mean;
  if (per_channel && x.shape.rank() < 2) fail_shape(what + " needs channels on axis 1, not " + x.shape.text());
  if (function == F::image_dot && x.shape.rank() != 4) fail_shape(what + " needs images of rank 4, not " + x.shape.text());
  for (std::size_t i = 1; i < in.size(); ++i) {
    bool const step = (function == F::channel_sums || valid_only) && i + 1 == in.size();
    if (step && in[i] != step_state_type()) fail_shape(what + " needs the step state, not " + in[i].text());
    if (!step && in[i].shape != x.shape) fail_shape(what + " needs equal shapes, not " + x.shape.text() + " and " + in[i].shape.text());
  }
  DType const sum = x.dtype == DType::f64 ? DType::f64 : DType::f32;
  switch (function) {
    case F::channel_sum:
      return {{sum, Shape{x.shape[1]}, Layout::nchw}};
    case F::channel_sums:
    case F::channel_dot:
      return {{sum, Shape{2, x.shape[1]}, Layout::nchw}};
    case F::image_dot:
      return {{x.dtype, Shape{x.shape[0], x.shape[1], 1, 1}, x.layout}};
    case F::mean:
      return {{sum, Shape{}, Layout::nchw}};
  }
  return {};
}

std::vector<Var> ReduceOp::gradient(Graph& g, Node const& node, std::span<Var const> dys) const {
  Var const x(&g, node.in[0]);
  if (function == F::channel_sums) {
    Var const step(&g, node.in[1]);
    return {sums_gradient(x, dys[0], step), Var{}};
  }
  if (function == F::mean) {
    Shape const& s = x.shape();
    if (!valid_only) return {spread(dys[0], x, 1.0 / double(s.elements()))};
    return {spread(dys[0], x, double(s[0]) / double(s.elements()), Var(&g, node.in[1])), Var{}};
  }
  return Op::gradient(g, node, dys);
}

std::string ReduceOp::problem(std::span<TensorType const> in, std::span<TensorType const>) const {
  TensorType const& x = in[0];
  ReduceProblem p;
  p.function = function;
  p.n = x.shape.rank() < 1 ? 1 : x.shape[0];
  p.c = x.shape.rank() < 2 ? 1 : x.shape[1];
  p.hw = x.shape.elements() / std::max<std::int64_t>(p.n * p.c, 1);
  p.type = x.dtype;
  p.layout = x.layout;
  p.mask = mask;
  p.valid_only = valid_only;
  for (auto const& other : in.subspan(1))
    if (other.shape == x.shape && (other.dtype != x.dtype || other.layout != x.layout))
      fail(ErrorKind::internal, attributes() + ": operands " + x.text() + " and " + other.text() + " differ in type or layout");
  return p.text();
}

namespace {
Var add_node(std::shared_ptr<ReduceOp const> op, std::vector<Var> const& in, std::string_view layer, std::source_location at) {
  Graph& g = in[0].graph();
  std::string const path = layer.empty() && g.result_layer.empty() ? g.numbered(name(op->function)) : std::string(layer);
  return g.add(std::move(op), in, path, at).front();
}
}  // namespace

Var channel_sum(Var x, std::string_view layer, std::source_location at) {
  return add_node(std::make_shared<ReduceOp>(F::channel_sum), {x}, layer, at);
}
Var channel_sums(Var x, Var step, std::string_view layer, std::source_location at) {
  return add_node(std::make_shared<ReduceOp>(F::channel_sums), {x, step}, layer, at);
}
Var channel_dot(Var dy, Var x, Var mask, std::string_view layer, std::source_location at) {
  std::vector<Var> in{dy, x};
  if (mask) in.push_back(mask);
  return add_node(std::make_shared<ReduceOp>(F::channel_dot, bool(mask)), in, layer, at);
}
Var image_dot(Var a, Var b, std::string_view layer, std::source_location at) {
  return add_node(std::make_shared<ReduceOp>(F::image_dot), {a, b}, layer, at);
}
Var mean(Var x, Var step, std::string_view layer, std::source_location at) {
  std::vector<Var> in{x};
  if (step) in.push_back(step);
  return add_node(std::make_shared<ReduceOp>(F::mean, false, bool(step)), in, layer, at);
}

}  // namespace falconet
