#include "falconet/ops/elementwise/op.h"

#include "falconet/base/error.h"
#include "falconet/ops/problem_text.h"
#include "falconet/ops/reduce/op.h"

namespace falconet {
namespace {
using F = ElementwiseFunction;

// Position of the input whose type the result has.
std::size_t main_input(ElementwiseOp::Form const& form) { return form.function == F::spread ? 1 : 0; }

std::size_t inputs_of(ElementwiseOp::Form const& form) {
  switch (form.function) {
    case F::activation:
    case F::scale:
    case F::fill:
      return 1;
    case F::activation_gradient:
    case F::multiply:
      return 2;
    case F::add:
    case F::affine_scale:
      return form.mask ? 3 : 2;
    case F::spread:
      return form.valid_only ? 3 : 2;
    case F::affine:
      return form.residual ? 3 : 2;
    case F::sums_gradient:
      return 3;
    case F::two_operand:
      return form.mask ? 5 : 4;
  }
  return 0;
}

// b is one number per image and channel of a.
bool broadcasts(Shape const& a, Shape const& b) {
  return a != b && a.rank() == 4 && b.rank() == 4 && a[0] == b[0] && a[1] == b[1] && b[2] == 1 && b[3] == 1;
}

void expect_vectors(TensorType const& x, TensorType const& vectors, std::int64_t rows, char const* what) {
  if (x.shape.rank() < 2) fail_shape(std::string(what) + " needs channels on axis 1, not " + x.shape.text());
  if (vectors.shape != Shape{rows, x.shape[1]})
    fail_shape(std::string(what) + " of " + x.shape.text() + " needs vectors " + Shape{rows, x.shape[1]}.text() + ", not " +
               vectors.shape.text());
}
void expect_equal(TensorType const& x, TensorType const& other, char const* what) {
  if (x.shape != other.shape) fail_shape(std::string(what) + " needs equal shapes, not " + x.shape.text() + " and " + other.shape.text());
}
void expect_step(TensorType const& step, char const* what) {
  if (step != step_state_type()) fail_shape(std::string(what) + " needs the step state, not " + step.text());
}

std::int64_t channels(Shape const& s) { return s.rank() == 0 ? 1 : s.rank() == 1 ? s[0] : s[1]; }

Var add_node(ElementwiseOp::Form form, std::initializer_list<Var> in, std::string_view layer, std::source_location at) {
  Graph& g = in.begin()->graph();
  std::string const path = layer.empty() && g.result_layer.empty()
                               ? g.numbered(form.function == F::activation ? name(form.act) : name(form.function))
                               : std::string(layer);
  return g.add1(std::make_shared<ElementwiseOp>(form), in, path, at);
}

}  // namespace

std::string ElementwiseOp::attributes() const {
  std::string out(falconet::name(form.function));
  if (form.function == F::activation) out.clear();
  auto item = [&](std::string_view text) { (out += out.empty() ? "" : " ") += text; };
  if (form.residual) item("residual");
  if (form.act != Activation::none) item(falconet::name(form.act));
  if (form.act == Activation::leaky_relu || form.function == F::scale || form.function == F::fill || form.function == F::spread)
    item(exact(form.alpha));
  if (form.mask) item("mask");
  if (form.valid_only) item("valid rows");
  return out;
}

std::vector<TensorType> ElementwiseOp::infer(std::span<TensorType const> in) const {
  if (in.size() != inputs_of(form))
    fail_shape(attributes() + " takes " + std::to_string(inputs_of(form)) + " inputs, not " + std::to_string(in.size()));
  TensorType out = in[main_input(form)];
  switch (form.function) {
    case F::activation:
    case F::scale:
    case F::fill:
      break;
    case F::activation_gradient:
      expect_equal(in[0], in[1], "the gradient of an activation");
      break;
    case F::add:
      if (in[0].shape != in[1].shape) fail_shape("cannot add " + in[0].shape.text() + " and " + in[1].shape.text());
      if (form.mask) expect_equal(in[0], in[2], "a mask");
      break;
    case F::multiply:
      if (in[0].shape != in[1].shape && !broadcasts(in[0].shape, in[1].shape))
        fail_shape("cannot multiply " + in[0].shape.text() + " by " + in[1].shape.text() + "; shapes are equal, or one is NxCx1x1");
      break;
    case F::spread:
      if (in[0].shape.elements() != 1) fail_shape("spread needs one element, not " + in[0].shape.text());
      if (form.valid_only) expect_step(in[2], "spread");
      break;
    case F::affine:
      expect_vectors(in[0], in[1], 2, "affine");
      if (form.residual) expect_equal(in[0], in[2], "a residual");
      break;
    case F::affine_scale:
      expect_vectors(in[0], in[1], 2, "affine");
      if (form.mask) expect_equal(in[0], in[2], "a mask");
      break;
    case F::sums_gradient:
      expect_vectors(in[0], in[1], 2, "the gradient of channel sums");
      expect_step(in[2], "the gradient of channel sums");
      break;
    case F::two_operand:
      expect_equal(in[0], in[1], "two_operand");
      expect_vectors(in[0], in[2], 3, "two_operand");
      expect_step(in[3], "two_operand");
      if (form.mask) expect_equal(in[0], in[4], "a mask");
      break;
  }
  return {out};
}

std::vector<Var> ElementwiseOp::gradient(Graph& g, Node const& node, std::span<Var const> dys) const {
  Var dy = dys[0];
  auto in = [&](std::size_t i) { return Var(&g, node.in[i]); };
  auto make = [&](Form f, std::initializer_list<Var> inputs) {
    return g.add1(std::make_shared<ElementwiseOp>(f), inputs, node.layer, node.at);
  };
  Activation const act = form.act;
  if (act != Activation::none && (form.function == F::add || form.function == F::affine)) {  // the slot comes last in the function
    if (!derives_from_output(act))
      fail_in_layer(ErrorKind::model, node.layer, std::string(falconet::name(act)) + " as a slot has no gradient", node.at);
    dy = make({.function = F::activation_gradient, .act = act, .alpha = form.alpha}, {dy, Var(&g, node.out[0])});
  }
  switch (form.function) {
    case F::activation:
      return {make({.function = F::activation_gradient, .act = act, .alpha = form.alpha},
                   {dy, derives_from_output(act) ? Var(&g, node.out[0]) : in(0)})};
    case F::add:
      if (form.mask) break;
      return {dy, dy};
    case F::multiply: {
      Var const a = in(0), b = in(1);
      return {multiply(dy, b, node.layer, node.at),
              broadcasts(a.shape(), b.shape()) ? image_dot(dy, a, node.layer, node.at) : multiply(dy, a, node.layer, node.at)};
    }
    case F::scale:
      return {make({.function = F::scale, .alpha = form.alpha}, {dy})};
    case F::fill:
      return {Var{}};
    case F::affine: {
      std::vector<Var> d{make({.function = F::affine_scale}, {dy, in(1)}), channel_dot(dy, in(0), {}, node.layer, node.at)};
      if (form.residual) d.push_back(dy);
      return d;
    }
    default:
      break;
  }
  return Op::gradient(g, node, dys);
}

std::string ElementwiseOp::problem(std::span<TensorType const> in, std::span<TensorType const>) const {
  std::size_t const main = main_input(form);
  TensorType const& x = in[main];
  ElementwiseProblem p;
  p.function = form.function;
  p.n = x.shape.rank() < 2 ? 1 : x.shape[0];
  p.c = channels(x.shape);
  p.hw = x.shape.elements() / std::max<std::int64_t>(p.n * p.c, 1);
  p.type = x.dtype;
  p.layout = x.layout;
  p.act = form.act;
  p.alpha = form.alpha;
  p.broadcast = form.function == F::multiply && broadcasts(x.shape, in[1].shape);
  p.residual = form.residual;
  p.mask = form.mask;
  p.valid_only = form.valid_only;
  // Vectors [2,c] or [3,c] are no operand like x, even where the batch has as many rows.
  int const vectors = form.function == F::affine || form.function == F::affine_scale || form.function == F::sums_gradient ? 1 : form.function == F::two_operand ? 2 : -1;
  for (std::size_t i = 0; i < in.size(); ++i) {
    bool const full = in[i].shape == x.shape && in[i].dtype != DType::u8 && i != main && int(i) != vectors && x.shape.rank() > 0;
    if (full && (in[i].dtype != x.dtype || in[i].layout != x.layout))
      fail(ErrorKind::internal, attributes() + ": operands " + x.text() + " and " + in[i].text() + " differ in type or layout");
  }
  return p.text();
}

ElementwiseOp const* elementwise(Node const& node, ElementwiseFunction function) {
  auto const* op = dynamic_cast<ElementwiseOp const*>(node.op.get());
  return op && op->form.function == function ? op : nullptr;
}

Var activation(Activation act, Var x, double alpha, std::string_view layer, std::source_location at) {
  if (act == Activation::none) return x;
  if (act == Activation::leaky_relu && !(alpha >= 0))   // its derivative is read off the sign of the output
    fail_in_layer(ErrorKind::usage, std::string(layer), "the negative slope of leaky_relu is at least 0, not " + exact(alpha), at);
  return add_node({.function = F::activation, .act = act, .alpha = act == Activation::leaky_relu ? alpha : 0}, {x}, layer, at);
}
Var add(Var a, Var b, std::string_view layer, std::source_location at) { return add_node({.function = F::add}, {a, b}, layer, at); }
Var multiply(Var a, Var b, std::string_view layer, std::source_location at) {
  if (broadcasts(b.shape(), a.shape())) std::swap(a, b);
  return add_node({.function = F::multiply}, {a, b}, layer, at);
}
Var scale(Var x, double factor, std::string_view layer, std::source_location at) {
  return add_node({.function = F::scale, .alpha = factor}, {x}, layer, at);
}
Var fill_like(Var like, double value) {
  return add_node({.function = F::fill, .alpha = value}, {like}, {}, std::source_location::current());
}
Var spread(Var value, Var like, double factor, Var step) {
  ElementwiseOp::Form form{.function = F::spread, .alpha = factor, .valid_only = bool(step)};
  auto const at = std::source_location::current();
  return step ? add_node(form, {value, like, step}, {}, at) : add_node(form, {value, like}, {}, at);
}
Var affine(Var x, Var scale_shift, std::string_view layer, std::source_location at) {
  return add_node({.function = F::affine}, {x, scale_shift}, layer, at);
}
Var sums_gradient(Var x, Var dsums, Var step) {
  return add_node({.function = F::sums_gradient}, {x, dsums, step}, {}, std::source_location::current());
}
Var two_operand(Var dy, Var x, Var coefficients, Var step, Var mask) {
  ElementwiseOp::Form form{.function = F::two_operand, .mask = bool(mask)};
  auto const at = std::source_location::current();
  return mask ? add_node(form, {dy, x, coefficients, step, mask}, {}, at) : add_node(form, {dy, x, coefficients, step}, {}, at);
}

}  // namespace falconet
