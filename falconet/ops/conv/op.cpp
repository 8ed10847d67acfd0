#include "falconet/ops/conv/op.h"

#include <algorithm>

#include "falconet/base/error.h"
#include "falconet/ops/reduce/op.h"

namespace falconet {
namespace {

std::string by(std::int64_t a, std::int64_t b) { return std::to_string(a) + "x" + std::to_string(b); }

void need_rank4(Shape const& s, char const* what, char const* axes) {
  if (s.rank() != 4) fail_shape(std::string(what) + " of a convolution has four axes (" + axes + "), not " + s.text());
}

// Fills sizes of the problem from the shapes of x and the weights, or says what does not fit.
void take_shapes(ConvProblem& p, Shape const& x, Shape const& w) {
  need_rank4(x, "the input", "batch, channels, height, width");
  need_rank4(w, "the weight", "out channels, in channels / groups, height, width");
  // Every number is bounded before any of them becomes an int or is added up.
  auto const too_large = [](std::int64_t v) { return v > ConvProblem::most; };
  auto const at_most = ": expected at most " + std::to_string(ConvProblem::most);
  if (std::any_of(x.begin(), x.end(), too_large)) fail_shape("the input " + x.text() + " is too large for a convolution" + at_most + " along each axis");
  if (std::any_of(w.begin(), w.end(), too_large)) fail_shape("the weight " + w.text() + " is too large for a convolution" + at_most + " along each axis");
  for (int v : {p.stride_h, p.stride_w, p.pad_top, p.pad_left, p.pad_bottom, p.pad_right, p.dilation_h, p.dilation_w})
    if (too_large(v)) fail_shape("stride, padding or dilation of " + std::to_string(v) + " is out of range" + at_most);
  if (p.groups < 1) fail_shape("groups should be at least 1, not " + std::to_string(p.groups));
  if (x[1] % p.groups) fail_shape(std::to_string(p.groups) + " groups do not divide " + std::to_string(x[1]) + " input channels");
  if (w[0] % p.groups) fail_shape(std::to_string(p.groups) + " groups do not divide " + std::to_string(w[0]) + " output channels");
  if (w[1] != x[1] / p.groups)
    fail_shape("the weight " + w.text() + " expects " + std::to_string(w[1] * p.groups) + " input channels, the input has " + std::to_string(x[1]));
  for (auto size : x)
    if (size < 1) fail_shape("the input " + x.text() + " is empty");
  for (auto size : w)
    if (size < 1) fail_shape("the weight " + w.text() + " is empty");
  p.n = int(x[0]), p.c = int(x[1]), p.h = int(x[2]), p.w = int(x[3]);
  p.k = int(w[0]), p.r = int(w[2]), p.s = int(w[3]);
  if (p.stride_h < 1 || p.stride_w < 1) fail_shape("the stride should be at least 1, not " + by(p.stride_h, p.stride_w));
  if (p.dilation_h < 1 || p.dilation_w < 1) fail_shape("the dilation should be at least 1, not " + by(p.dilation_h, p.dilation_w));
  if (p.pad_top < 0 || p.pad_left < 0 || p.pad_bottom < 0 || p.pad_right < 0) fail_shape("the padding should not be negative");
  int const rows = p.h + p.pad_top + p.pad_bottom, columns = p.w + p.pad_left + p.pad_right;
  if (rows < p.span_h() || columns < p.span_w())
    fail_shape("a filter of " + by(p.span_h(), p.span_w()) + " does not fit into the padded input of " + by(rows, columns));
  if (p.stored_p() < 1 || p.stored_q() < 1)
    fail_shape("a pooling window of " + by(p.pool_size(), p.pool_size()) + " does not fit into the map of " + by(p.p(), p.q()));
}

}  // namespace

Var conv2d(Var x, Var weight, Var bias, ConvOptions options, std::string_view layer, std::source_location at) {
  auto op = std::make_shared<ConvOp const>(Direction::fwd, options);
  if (!bias) return x.graph().add1(op, {x, weight}, layer, at);
  OnStore store;
  store.bias = true;
  return x.graph().add1(op->with_store(store), {x, weight, bias}, layer, at);
}

std::shared_ptr<ConvOp const> ConvOp::with_load_x(OnLoad load) const {
  auto copy = std::make_shared<ConvOp>(*this);
  copy->load_x_ = load;
  return copy;
}
std::shared_ptr<ConvOp const> ConvOp::with_load_dy(OnLoad load) const {
  auto copy = std::make_shared<ConvOp>(*this);
  copy->load_dy_ = load;
  return copy;
}
std::shared_ptr<ConvOp const> ConvOp::with_store(OnStore store) const {
  auto copy = std::make_shared<ConvOp>(*this);
  copy->store_ = store;
  return copy;
}

std::shared_ptr<ConvOp const> ConvOp::with_math(Math math) const {
  auto copy = std::make_shared<ConvOp>(*this);
  copy->math_ = math;
  return copy;
}

std::string ConvOp::attributes() const {
  ConvProblem p;                                       // in the words of the problem's text
  auto const& o = options_;
  p.stride_h = o.stride[0], p.stride_w = o.stride[1];
  p.pad_top = o.padding[0], p.pad_left = o.padding[1], p.pad_bottom = o.padding[2], p.pad_right = o.padding[3];
  p.dilation_h = o.dilation[0], p.dilation_w = o.dilation[1];
  p.groups = o.groups;
  p.load_x = load_x_, p.load_dy = load_dy_, p.store = store_, p.math = math_;
  std::string out(falconet::name(direction_));
  return out += p.attributes() + p.slots();
}

ConvProblem ConvOp::problem_for(std::span<TensorType const> in) const {
  if (in.size() < 2) fail_shape("a convolution has at least two operands");
  ConvProblem p;
  p.direction = direction_;
  p.stride_h = options_.stride[0], p.stride_w = options_.stride[1];
  p.pad_top = options_.padding[0], p.pad_left = options_.padding[1], p.pad_bottom = options_.padding[2], p.pad_right = options_.padding[3];
  p.dilation_h = options_.dilation[0], p.dilation_w = options_.dilation[1];
  p.groups = options_.groups;
  p.load_x = load_x_, p.load_dy = load_dy_, p.store = store_, p.math = math_;
  switch (direction_) {
    case Direction::fwd:                               // x, w, ...
      take_shapes(p, in[0].shape, in[1].shape);
      p.x_type = p.y_type = in[0].dtype;
      p.w_type = in[1].dtype;
      p.layout = in[0].layout;
      break;
    case Direction::bwd_data:                          // w, dy, ...
      take_shapes(p, result_, in[0].shape);
      p.w_type = in[0].dtype;
      p.x_type = p.y_type = in[1].dtype;
      p.layout = in[1].layout;
      break;
    case Direction::bwd_filter:                        // x, dy, ...
      take_shapes(p, in[0].shape, result_);
      p.x_type = in[0].dtype;
      p.y_type = in[1].dtype;
      p.w_type = p.x_type == DType::f64 ? DType::f64 : DType::f32;
      p.layout = in[0].layout;
      break;
    case Direction::bwd:                               // x, w, dy, ...
      if (in.size() < 3) fail_shape("both gradients of a convolution have at least three operands");
      take_shapes(p, in[0].shape, in[1].shape);
      p.x_type = in[0].dtype;
      p.w_type = in[1].dtype;
      p.y_type = in[2].dtype;
      p.layout = in[0].layout;
      break;
  }
  return p;
}

std::vector<TensorType> ConvOp::infer(std::span<TensorType const> in) const {
  ConvProblem const p = problem_for(in);
  std::vector<TensorType> out;
  std::size_t read = 0;
  for (auto const& operand : p.operands()) {
    if (operand.written) {
      out.push_back(operand.type);
      continue;
    }
    if (read >= in.size()) fail_shape("a convolution with these slots also reads " + operand.name);
    auto const& given = in[read++];
    if (!(given.shape == operand.type.shape))
      fail_shape("the " + operand.name + " of this convolution should be " + operand.type.shape.text() + ", not " + given.shape.text());
  }
  if (read != in.size()) fail_shape("a convolution with these slots reads " + std::to_string(read) + " operands, not " + std::to_string(in.size()));
  return out;
}

std::vector<Var> ConvOp::gradient(Graph& g, Node const& node, std::span<Var const> dy) const {
  OnStore only_bias;
  only_bias.bias = store_.bias;
  if (direction_ != Direction::fwd || store_ != only_bias || load_x_ != OnLoad{}) return Op::gradient(g, node, dy);
  Var const x(&g, node.in[0]), w(&g, node.in[1]);
  auto const saved = g.result_direction;
  auto const add = [&](Direction direction, Shape const& result, Var first) {
    g.result_direction = falconet::name(direction);
    Var out = g.add1(ConvOp(direction, options_, result).with_math(math_), {first, dy[0]}, node.layer, node.at);
    g.result_direction = saved;
    return out;
  };
  std::vector<Var> out{add(Direction::bwd_data, x.shape(), w), add(Direction::bwd_filter, w.shape(), x)};
  if (store_.bias) {
    g.result_direction = falconet::name(Direction::bwd_filter);
    out.push_back(channel_sum(dy[0]));
    g.result_direction = saved;
  }
  return out;
}

std::string ConvOp::problem(std::span<TensorType const> in, std::span<TensorType const> out) const {
  ConvProblem p = problem_for(in);
  switch (direction_) {
    case Direction::fwd: p.y_type = out[0].dtype; break;
    case Direction::bwd_data: p.x_type = out[0].dtype; break;
    case Direction::bwd_filter: p.w_type = out[0].dtype; break;
    case Direction::bwd: break;
  }
  // An operand that lies otherwise than the problem's text can say would be read wrongly: better to stop here.
  std::size_t i = 0, o = 0;
  for (auto const& operand : p.operands()) {
    auto const& given = operand.written ? out[o++] : in[i++];
    if (!(given == operand.type))
      fail(ErrorKind::internal, "convolution '" + p.text() + "': " + operand.name + " should be " + operand.type.text() + ", not " + given.text());
  }
  return p.text();
}

}  // namespace falconet
