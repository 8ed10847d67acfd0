#include "falconet/ops/dropout/problem.h"

#include <charconv>

#include "falconet/base/error.h"
#include "falconet/ops/problem_text.h"

namespace falconet {

std::string DropoutProblem::text() const {
  ProblemText t;
  t.add("n", n).add("c", c).add("hw", hw).add("p", exact(p)).add("key", std::to_string(key));
  t.add("type", name(type)).add("layout", name(layout));
  return t.text();
}
DropoutProblem DropoutProblem::parse(std::string_view text) {
  ProblemText t(text);
  DropoutProblem p;
  auto bad = [&](std::string const& why) { fail(ErrorKind::usage, "dropout problem '" + std::string(text) + "': " + why); };
  p.n = t.take_int("n", 1), p.c = t.take_int("c", 1), p.hw = t.take_int("hw", 1);
  p.p = t.take_double("p", 0.5);
  auto const key = t.take("key", "0");
  auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), p.key);
  if (error != std::errc() || end != key.data() + key.size()) bad("key should be a number, not '" + key + "'");
  p.type = parse_dtype(t.take("type", "f32"));
  p.layout = parse_layout(t.take("layout", "nchw"));
  t.finish();
  if (p.n < 1 || p.c < 1 || p.hw < 1) bad("every size is at least 1");
  if (!(p.p >= 0 && p.p < 1)) bad("p lies in [0, 1)");
  if (p.type == DType::u8 || p.type == DType::i32) bad("the type is f64, f32 or bf16");
  return p;
}
std::vector<Operand> DropoutProblem::operands() const {
  TensorType const x{type, Shape{n, c, hw, 1}, layout};
  return {{"x", x}, {"step", step_state_type(), false, Fill::step_state, n}, {"y", x, true}};
}
DropoutArgs DropoutProblem::args(DropoutProblem const&, std::span<View const> operands) {
  return {operands[0], operands[2], operands[1].as<StepState const>()};
}

}  // namespace falconet
