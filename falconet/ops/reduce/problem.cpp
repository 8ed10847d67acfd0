#include "falconet/ops/reduce/problem.h"

#include "falconet/base/error.h"
#include "falconet/ops/operand_visit.h"
#include "falconet/ops/problem_text.h"

namespace falconet {
namespace {

constexpr std::string_view function_names[] = {"channel_sum", "channel_sums", "channel_dot", "image_dot", "mean"};

ReduceFunction parse_function(std::string_view text) {
  for (int i = 0; i < int(std::size(function_names)); ++i)
    if (function_names[i] == text) return ReduceFunction(i);
  fail(ErrorKind::usage, "unknown reduction '" + std::string(text) + "'");
}

// The operands of a problem in the order of its launch.
template <class Visit>
void visit_operands(ReduceProblem const& p, Visit visit) {
  using F = ReduceFunction;
  using A = ReduceArgs;
  TensorType const x{p.type, Shape{p.n, p.c, p.hw, 1}, p.layout};
  bool const dot = p.function == F::channel_dot || p.function == F::image_dot;
  visit(&A::x, Operand{p.function == F::channel_dot ? "dy" : p.function == F::image_dot ? "a" : "x", x});
  if (dot) visit(&A::b, Operand{p.function == F::channel_dot ? "x" : "b", x});
  if (p.mask) visit(&A::mask, Operand{"mask", x});
  if (p.reads_step()) visit(nullptr, Operand{"step", step_state_type(), false, Fill::step_state, p.n});
  TensorType y{p.y_type(), Shape{}, Layout::nchw};
  if (p.function == F::channel_sum) y.shape = Shape{p.c};
  if (p.function == F::channel_sums || p.function == F::channel_dot) y.shape = Shape{2, p.c};
  if (p.function == F::image_dot) y.shape = Shape{p.n, p.c, 1, 1}, y.layout = p.layout;
  visit(&A::y, Operand{"y", y, true});
}

}  // namespace

std::string_view name(ReduceFunction f) { return function_names[int(f)]; }

std::string ReduceProblem::text() const {
  ProblemText t;
  t.add("function", name(function)).add("n", n).add("c", c).add("hw", hw);
  t.add("type", falconet::name(type)).add("layout", falconet::name(layout));
  if (mask) t.add("mask", 1);
  if (valid_only) t.add("valid_only", 1);
  return t.text();
}

ReduceProblem ReduceProblem::parse(std::string_view text) {
  using F = ReduceFunction;
  ProblemText t(text);
  ReduceProblem p;
  p.function = parse_function(t.take("function"));
  p.n = t.take_int("n", 1), p.c = t.take_int("c", 1), p.hw = t.take_int("hw", 1);
  p.type = parse_dtype(t.take("type", "f32"));
  p.layout = parse_layout(t.take("layout", "nchw"));
  p.mask = t.take_int("mask", 0) != 0;
  p.valid_only = t.take_int("valid_only", 0) != 0;
  t.finish();
  auto bad = [&](std::string const& why) { fail(ErrorKind::usage, "reduction problem '" + std::string(text) + "': " + why); };
  if (p.n < 1 || p.c < 1 || p.hw < 1) bad("every size is at least 1");
  if (p.mask && p.function != F::channel_dot) bad("mask belongs to channel_dot");
  if (p.valid_only && p.function != F::mean) bad("valid_only belongs to mean");
  if (p.type == DType::u8 || p.type == DType::i32) bad("the type is f64, f32 or bf16");
  return p;
}

std::vector<Operand> ReduceProblem::operands() const {
  return list_operands([&](auto const& visit) { visit_operands(*this, visit); });
}
ReduceArgs ReduceProblem::args(ReduceProblem const& p, std::span<View const> operands) {
  return bind_operands<ReduceArgs>([&](auto const& visit) { visit_operands(p, visit); }, operands);
}

double ReduceProblem::operations() const {
  bool const once = function == ReduceFunction::channel_sum || function == ReduceFunction::mean;
  return (once ? 1.0 : function == ReduceFunction::image_dot ? 2.0 : 3.0) * double(elements());
}

}  // namespace falconet
