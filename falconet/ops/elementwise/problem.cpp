#include "falconet/ops/elementwise/problem.h"

#include "falconet/base/error.h"
#include "falconet/ops/operand_visit.h"
#include "falconet/ops/problem_text.h"

namespace falconet {
namespace {

constexpr std::string_view function_names[] = {
    "activation", "activation_gradient", "add",           "multiply",   "scale", "fill", "spread",
    "affine",     "affine_scale",        "sums_gradient", "two_operand"};
constexpr std::string_view activation_names[] = {"none", "relu", "leaky_relu", "relu6", "gelu", "silu", "sigmoid", "tanh"};

ElementwiseFunction parse_function(std::string_view text) {
  for (int i = 0; i < int(std::size(function_names)); ++i)
    if (function_names[i] == text) return ElementwiseFunction(i);
  fail(ErrorKind::usage, "unknown elementwise function '" + std::string(text) + "'");
}

// The operands of a problem in the order of its launch.
template <class Visit>
void visit_operands(ElementwiseProblem const& p, Visit visit) {
  using F = ElementwiseFunction;
  using A = ElementwiseArgs;
  Shape const shape{p.n, p.c, p.hw, 1};
  TensorType const x{p.type, shape, p.layout};
  DType const vector_type = p.type == DType::f64 ? DType::f64 : DType::f32;
  auto vectors = [&](std::int64_t rows) { return TensorType{vector_type, Shape{rows, p.c}, Layout::nchw}; };
  Operand const step{"step", step_state_type(), false, Fill::step_state, p.n};
  switch (p.function) {
    case F::activation:
    case F::scale:
      visit(&A::x, Operand{"x", x});
      break;
    case F::fill:
      visit(&A::x, Operand{"like", x});
      break;
    case F::activation_gradient:
      visit(&A::x, Operand{"dy", x});
      visit(&A::b, Operand{derives_from_output(p.act) ? "y" : "x", x});
      break;
    case F::add:
      visit(&A::x, Operand{"a", x});
      visit(&A::b, Operand{"b", x});
      break;
    case F::multiply:
      visit(&A::x, Operand{"a", x});
      visit(&A::b, Operand{"b", p.broadcast ? TensorType{p.type, Shape{p.n, p.c, 1, 1}, p.layout} : x});
      break;
    case F::spread:
      visit(&A::vectors, Operand{"value", TensorType{vector_type, Shape{}, Layout::nchw}});
      visit(&A::x, Operand{"like", x});
      if (p.valid_only) visit(nullptr, step);
      break;
    case F::affine:
      visit(&A::x, Operand{"x", x});
      visit(&A::vectors, Operand{"scale_shift", vectors(2)});
      if (p.residual) visit(&A::residual, Operand{"residual", x});
      break;
    case F::affine_scale:
      visit(&A::x, Operand{"dy", x});
      visit(&A::vectors, Operand{"scale_shift", vectors(2)});
      break;
    case F::sums_gradient:
      visit(&A::x, Operand{"x", x});
      visit(&A::vectors, Operand{"dsums", vectors(2)});
      visit(nullptr, step);
      break;
    case F::two_operand:
      visit(&A::x, Operand{"dy", x});
      visit(&A::b, Operand{"x", x});
      visit(&A::vectors, Operand{"coefficients", vectors(3)});
      visit(nullptr, step);
      break;
  }
  if (p.mask) visit(&A::mask, Operand{"mask", x});
  visit(&A::y, Operand{"y", x, true});
}

}  // namespace

std::string_view name(ElementwiseFunction f) { return function_names[int(f)]; }
std::string_view name(Activation a) { return activation_names[int(a)]; }
Activation parse_activation(std::string_view text) {
  std::string known;
  for (int i = 0; i < int(std::size(activation_names)); ++i) {
    if (activation_names[i] == text) return Activation(i);
    (known += i ? ", " : "") += activation_names[i];
  }
  fail(ErrorKind::usage, "unknown activation '" + std::string(text) + "'; known are " + known);
}

std::string ElementwiseProblem::text() const {
  ProblemText t;
  t.add("function", name(function)).add("n", n).add("c", c).add("hw", hw);
  t.add("type", falconet::name(type)).add("layout", falconet::name(layout));
  if (act != Activation::none) t.add("act", name(act));
  if (alpha != 0) t.add("alpha", exact(alpha));
  if (broadcast) t.add("broadcast", 1);
  if (residual) t.add("residual", 1);
  if (mask) t.add("mask", 1);
  if (valid_only) t.add("valid_only", 1);
  return t.text();
}

ElementwiseProblem ElementwiseProblem::parse(std::string_view text) {
  using F = ElementwiseFunction;
  ProblemText t(text);
  ElementwiseProblem p;
  p.function = parse_function(t.take("function"));
  p.n = t.take_int("n", 1), p.c = t.take_int("c", 1), p.hw = t.take_int("hw", 1);
  p.type = parse_dtype(t.take("type", "f32"));
  p.layout = parse_layout(t.take("layout", "nchw"));
  p.act = parse_activation(t.take("act", "none"));
  p.alpha = t.take_double("alpha", 0);
  p.broadcast = t.take_int("broadcast", 0) != 0;
  p.residual = t.take_int("residual", 0) != 0;
  p.mask = t.take_int("mask", 0) != 0;
  p.valid_only = t.take_int("valid_only", 0) != 0;
  t.finish();

  auto bad = [&](std::string const& why) { fail(ErrorKind::usage, "elementwise problem '" + std::string(text) + "': " + why); };
  if (p.n < 1 || p.c < 1 || p.hw < 1) bad("every size is at least 1");
  bool const is_activation = p.function == F::activation || p.function == F::activation_gradient;
  if (is_activation && p.act == Activation::none) bad("act is missing");
  if (!is_activation && p.function != F::add && p.function != F::affine && p.act != Activation::none)
    bad("act belongs to activation, add and affine");
  if (p.broadcast && p.function != F::multiply) bad("broadcast belongs to multiply");
  if (p.residual && p.function != F::affine) bad("residual belongs to affine");
  if (p.mask && p.function != F::add && p.function != F::affine_scale && p.function != F::two_operand)
    bad("mask belongs to add, affine_scale and two_operand");
  if (p.valid_only && p.function != F::spread) bad("valid_only belongs to spread");
  if (p.type == DType::u8 || p.type == DType::i32) bad("the type is f64, f32 or bf16");
  return p;
}

std::vector<Operand> ElementwiseProblem::operands() const {
  return list_operands([&](auto const& visit) { visit_operands(*this, visit); });
}
ElementwiseArgs ElementwiseProblem::args(ElementwiseProblem const& p, std::span<View const> operands) {
  return bind_operands<ElementwiseArgs>([&](auto const& visit) { visit_operands(p, visit); }, operands);
}

double ElementwiseProblem::operations() const {
  double per_element = 1;
  if (function == ElementwiseFunction::affine) per_element = residual ? 3 : 2;
  if (function == ElementwiseFunction::sums_gradient) per_element = 2;
  if (function == ElementwiseFunction::two_operand) per_element = 4;
  return per_element * double(elements());
}

}  // namespace falconet
