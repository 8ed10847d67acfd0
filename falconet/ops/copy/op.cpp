#include "falconet/ops/copy/op.h"

#include "falconet/ops/copy/problem.h"

namespace falconet {
namespace {
std::string copy_problem(TensorType const& from, TensorType const& to) {
  CopyProblem p;
  p.from = from;
  p.to = to;
  return p.text();
}
std::string path_of(Graph& g, std::string_view layer, std::string_view name) { return layer.empty() ? g.numbered(name) : std::string(layer); }
}  // namespace

std::vector<TensorType> Reshape::infer(std::span<TensorType const> in) const {
  if (in[0].shape.elements() != shape.elements()) fail_shape(in[0].shape.text() + " cannot be reshaped to " + shape.text());
  return {{in[0].dtype, shape, layout}};
}
std::vector<Var> Reshape::gradient(Graph& g, Node const& node, std::span<Var const> dy) const {
  TensorType const x = Var(&g, node.in[0]).type();
  return {g.add1(std::make_shared<Reshape>(x.shape, x.layout), {dy[0]}, node.layer, node.at)};
}
std::string Reshape::problem(std::span<TensorType const> in, std::span<TensorType const> out) const { return copy_problem(in[0], out[0]); }

std::string Convert::attributes() const { return "convert " + std::string(falconet::name(dtype)) + " " + std::string(falconet::name(layout)); }
std::vector<TensorType> Convert::infer(std::span<TensorType const> in) const {
  return {{dtype, in[0].shape, in[0].shape.rank() == 4 ? layout : Layout::nchw}};
}
std::vector<Var> Convert::gradient(Graph& g, Node const& node, std::span<Var const> dy) const {
  TensorType const x = Var(&g, node.in[0]).type();
  if (x.dtype == DType::u8 || x.dtype == DType::i32) return {Var{}};
  return {g.add1(std::make_shared<Convert>(x.dtype, x.layout), {dy[0]}, node.layer, node.at)};
}
std::string Convert::problem(std::span<TensorType const> in, std::span<TensorType const> out) const { return copy_problem(in[0], out[0]); }

std::string ConvertEach::attributes() const { return "convert " + std::string(falconet::name(dtype)); }
std::vector<TensorType> ConvertEach::infer(std::span<TensorType const> in) const {
  std::vector<TensorType> out(in.begin(), in.end());
  for (auto& t : out) {
    if (t.dtype != in[0].dtype) fail_shape("tensors converted together have one element type, not " + in[0].text() + " and " + t.text());
    t.dtype = dtype;
  }
  return out;
}
std::string ConvertEach::problem(std::span<TensorType const> in, std::span<TensorType const>) const {
  CopyProblem p;
  p.kind = CopyKind::each;
  p.from.dtype = in[0].dtype, p.to.dtype = dtype;
  std::int64_t all = 0;
  for (auto const& x : in) p.channels.push_back(x.shape.elements()), all += p.channels.back();
  p.from.shape = p.to.shape = Shape{all};
  return p.text();
}

std::vector<TensorType> Concat::infer(std::span<TensorType const> in) const {
  TensorType y = in[0];
  if (y.shape.rank() < 2) fail_shape("concat joins channels (axis 1); " + y.shape.text() + " has none");
  for (auto const& x : in.subspan(1)) {
    TensorType like = x;
    if (like.shape.rank() >= 2) like.shape[1] = in[0].shape[1];
    if (like.shape != in[0].shape) fail_shape("concat joins channels (axis 1); " + x.shape.text() + " differs in more than that from " + in[0].shape.text());
    if (like != in[0]) fail_shape("concat takes inputs of one element type and layout, not " + in[0].text() + " and " + x.text());
    y.shape[1] += x.shape[1];
  }
  return {y};
}
std::vector<Var> Concat::gradient(Graph& g, Node const& node, std::span<Var const> dy) const {
  std::vector<Var> out;
  std::int64_t begin = 0;
  for (ValueId in : node.in) {
    auto const count = Var(&g, in).shape()[1];
    out.push_back(g.add1(std::make_shared<Slice>(begin, count), {dy[0]}, node.layer, node.at));
    begin += count;
  }
  return out;
}
std::string Concat::problem(std::span<TensorType const> in, std::span<TensorType const> out) const {
  CopyProblem p;
  p.kind = CopyKind::concat;
  p.to = out[0];
  for (auto const& x : in) p.channels.push_back(x.shape[1]);
  return p.text();
}

std::vector<TensorType> Slice::infer(std::span<TensorType const> in) const {
  TensorType y = in[0];
  if (y.shape.rank() < 2 || begin < 0 || count < 1 || begin + count > y.shape[1])
    fail_shape(y.shape.text() + " has no channels " + std::to_string(begin) + " to " + std::to_string(begin + count - 1));
  y.shape[1] = count;
  return {y};
}
std::string Slice::problem(std::span<TensorType const> in, std::span<TensorType const> out) const {
  CopyProblem p;
  p.kind = CopyKind::slice;
  p.from = in[0];
  p.to = out[0];
  p.begin = begin;
  return p.text();
}

Var reshape(Var x, Shape shape, std::string_view layer, std::source_location at) {
  return x.graph().add1(std::make_shared<Reshape>(shape), {x}, path_of(x.graph(), layer, "reshape"), at);
}
Var flatten_rows(Var x, std::string_view layer, std::source_location at) {
  Shape const s = x.shape();
  std::int64_t const n = s.rank() ? s[0] : 1;
  return x.graph().add1(std::make_shared<Reshape>(Shape{n, n ? s.elements() / n : 0}), {x}, path_of(x.graph(), layer, "flatten"), at);
}
Var concat(std::span<Var const> inputs, std::string_view layer, std::source_location at) {
  Graph& g = inputs.front().graph();
  return g.add(std::make_shared<Concat>(), inputs, path_of(g, layer, "concat"), at).front();
}
Var convert(Var x, DType dtype, Layout layout, std::string_view layer, std::source_location at) {
  return x.graph().add1(std::make_shared<Convert>(dtype, layout), {x}, path_of(x.graph(), layer, "convert"), at);
}

}  // namespace falconet
