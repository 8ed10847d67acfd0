#include "falconet/ops/pool/op.h"

namespace falconet {
namespace {

PoolOptions resolved(PoolOptions o) {
  for (int axis = 0; axis < 2; ++axis)
    if (o.stride[std::size_t(axis)] == 0) o.stride[std::size_t(axis)] = o.window[std::size_t(axis)];
  return o;
}

std::string describe(PoolKind kind, PoolOptions const& o) {
  auto pair = [](int a, int b) { return std::to_string(a) + (a == b ? "" : "x" + std::to_string(b)); };
  std::string out = std::string(name(kind)) + " " + std::to_string(o.window[0]) + "x" + std::to_string(o.window[1]) + " stride " +
                    pair(o.stride[0], o.stride[1]);
  auto const& p = o.padding;
  if (p == std::array{p[0], p[0], p[0], p[0]}) {
    if (p[0]) out += " pad " + std::to_string(p[0]);
  } else {
    out += " pad " + std::to_string(p[0]) + "." + std::to_string(p[1]) + "." + std::to_string(p[2]) + "." + std::to_string(p[3]);
  }
  return out;
}

PoolProblem problem_of(PoolKind kind, PoolOptions const& o, TensorType const& x) {
  PoolProblem p;
  p.kind = kind;
  p.n = int(x.shape[0]), p.c = int(x.shape[1]), p.h = int(x.shape[2]), p.w = int(x.shape[3]);
  p.r = o.window[0], p.s = o.window[1];
  p.stride_h = o.stride[0], p.stride_w = o.stride[1];
  p.pad_top = o.padding[0], p.pad_left = o.padding[1], p.pad_bottom = o.padding[2], p.pad_right = o.padding[3];
  p.p = PoolProblem::extent(p.h, p.r, p.stride_h, p.pad_top, p.pad_bottom, o.ceil_mode);
  p.q = PoolProblem::extent(p.w, p.s, p.stride_w, p.pad_left, p.pad_right, o.ceil_mode);
  p.count_include_pad = o.count_include_pad;
  p.type = x.dtype;
  p.layout = x.layout;
  return p;
}

Var pool(Var x, PoolKind kind, PoolOptions const& options, std::string_view name, std::string_view layer, std::source_location at) {
  std::string const path = layer.empty() ? x.graph().numbered(name) : std::string(layer);
  return x.graph().add1(std::make_shared<Pool>(kind, options), {x}, path, at);
}

}  // namespace

Pool::Pool(PoolKind kind, PoolOptions options, bool winner, OnLoad load_x)
    : kind(kind), options(resolved(options)), winner(kind == PoolKind::max && winner), load_x(load_x) {}
std::string Pool::attributes() const {
  return describe(kind, options) + (load_x == OnLoad{} ? "" : load_x.act == Activation::relu ? " of scale_shift, relu" : " of scale_shift");
}

std::vector<TensorType> Pool::infer(std::span<TensorType const> in) const {
  TensorType const& x = in[0];
  if (x.shape.rank() != 4) fail_shape("pooling takes images [N,C,H,W], not " + x.shape.text());
  for (int axis = 0; axis < 2; ++axis) {
    auto const a = std::size_t(axis);
    if (options.window[a] < 1 || options.stride[a] < 1) fail_shape("a pooling window and its stride are at least 1");
    for (int pad : {options.padding[a], options.padding[a + 2]})
      if (pad < 0 || pad >= options.window[a])
        fail_shape("pooling padding " + std::to_string(pad) + " does not fit: it must be smaller than the window, " + std::to_string(options.window[a]));
  }
  PoolProblem const p = problem_of(kind, options, x);
  if (p.p < 1 || p.q < 1)
    fail_shape("the " + std::to_string(p.r) + "x" + std::to_string(p.s) + " pooling window is larger than the padded image");
  if (load_x != OnLoad{} && (in.size() != 2 || in[1].shape != Shape{2, x.shape[1]})) fail_shape("pooling of scale x + shift takes the vectors " + Shape{2, x.shape[1]}.text() + ", too");
  TensorType y = x;
  y.shape[2] = p.p, y.shape[3] = p.q;
  if (!winner) return {y};
  return {y, TensorType{PoolProblem::winner_type(p.r, p.s), y.shape, y.layout}};
}

std::vector<Var> Pool::gradient(Graph& g, Node const& node, std::span<Var const> dy) const {
  Shape const x = Var(&g, node.in[0]).shape();
  auto op = std::make_shared<PoolGradient>(kind, options, int(x[2]), int(x[3]));
  if (kind == PoolKind::average) return {g.add1(op, {dy[0]}, node.layer, node.at)};
  if (!winner || load_x != OnLoad{}) return Op::gradient(g, node, dy);
  return {g.add1(op, {dy[0], Var(&g, node.out[1])}, node.layer, node.at)};
}

std::string Pool::problem(std::span<TensorType const> in, std::span<TensorType const>) const {
  PoolProblem p = problem_of(kind, options, in[0]);
  if (kind == PoolKind::max) p.winner = winner, p.load_x = load_x;
  return p.text();
}

std::string PoolGradient::attributes() const {
  return describe(kind, options) + (result == PoolResult::sums ? " sums" : result == PoolResult::two_operand ? " two_operand" : "");
}
std::vector<TensorType> PoolGradient::infer(std::span<TensorType const> in) const {
  TensorType dx = in[0];
  dx.shape[2] = h, dx.shape[3] = w;
  PoolProblem const p = problem_of(kind, options, dx);
  if (in[0].shape != Shape{p.n, p.c, p.p, p.q}) fail_shape("the gradient of a pooled map has the map's shape, not " + in[0].shape.text());
  if (in.size() > 1 && (in[1].shape != in[0].shape || in[1].layout != in[0].layout))
    fail_shape("the winner of a pooling lies like dy, " + in[0].text() + ", not " + in[1].text());
  if (result != PoolResult::plain && (in.size() != (result == PoolResult::sums ? 3u : 5u) || in[2] != dx)) fail_shape("the gradient of pooling takes the input of the batch norm, too");
  if (result == PoolResult::sums) return {{dx.dtype == DType::f64 ? DType::f64 : DType::f32, Shape{2, dx.shape[1]}, Layout::nchw}};
  return {dx};
}
std::string PoolGradient::problem(std::span<TensorType const> in, std::span<TensorType const> out) const {
  PoolProblem p = problem_of(kind, options, result == PoolResult::plain ? out[0] : in[2]);
  p.gradient = true, p.result = result;
  return p.text();
}

Var max_pool(Var x, PoolOptions const& options, std::string_view layer, std::source_location at) {
  return pool(x, PoolKind::max, options, "max_pool", layer, at);
}
Var avg_pool(Var x, PoolOptions const& options, std::string_view layer, std::source_location at) {
  return pool(x, PoolKind::average, options, "avg_pool", layer, at);
}
Var global_average(Var x, std::string_view layer, std::source_location at) {
  PoolOptions options;
  if (x.shape().rank() == 4) options.window = {int(x.shape()[2]), int(x.shape()[3])};
  return pool(x, PoolKind::average, options, "global_avg_pool", layer, at);
}

}  // namespace falconet
