#include "falconet/ops/softmax/problem.h"

#include "falconet/base/error.h"
#include "falconet/ops/operand_visit.h"
#include "falconet/ops/problem_text.h"

namespace falconet {
namespace {
template <class Visit>
void visit_operands(SoftmaxProblem const& p, Visit visit) {
  if (p.gradient) {
    visit(&SoftmaxArgs::y, Operand{"y", p.x});
    visit(&SoftmaxArgs::dy, Operand{"dy", p.x});
    visit(&SoftmaxArgs::dx, Operand{"dx", p.x, true});
  } else {
    visit(&SoftmaxArgs::x, Operand{"x", p.x});
    visit(&SoftmaxArgs::y, Operand{"y", p.x, true});
  }
}
}  // namespace

std::string SoftmaxProblem::text() const {
  ProblemText t;
  t.add("kind", log ? "log_softmax" : "softmax");
  if (gradient) t.add("dir", "bwd");
  return t.add("x", x.text()).text();
}

SoftmaxProblem SoftmaxProblem::parse(std::string_view text) {
  ProblemText t(text);
  SoftmaxProblem p;
  auto bad = [&](std::string const& why) { fail(ErrorKind::usage, "softmax problem '" + std::string(text) + "': " + why); };
  auto const kind = t.take("kind"), dir = t.take("dir", "fwd");
  if (kind != "softmax" && kind != "log_softmax") bad("kind is softmax or log_softmax");
  if (dir != "fwd" && dir != "bwd") bad("dir is fwd or bwd");
  p.log = kind == "log_softmax";
  p.gradient = dir == "bwd";
  p.x = TensorType::parse(t.take("x"));
  t.finish();
  if (p.x.shape.rank() != 2 && p.x.shape.rank() != 4) bad("x is [N,C] or [N,C,H,W]");
  for (auto size : p.x.shape)
    if (size < 1) bad("every size is at least 1");
  return p;
}

std::vector<Operand> SoftmaxProblem::operands() const {
  return list_operands([&](auto const& visit) { visit_operands(*this, visit); });
}
SoftmaxArgs SoftmaxProblem::args(SoftmaxProblem const& p, std::span<View const> operands) {
  return bind_operands<SoftmaxArgs>([&](auto const& visit) { visit_operands(p, visit); }, operands);
}

}  // namespace falconet
