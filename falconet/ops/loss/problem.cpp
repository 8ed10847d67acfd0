#include "falconet/ops/loss/problem.h"

#include "falconet/base/error.h"
#include "falconet/ops/operand_visit.h"
#include "falconet/ops/problem_text.h"

namespace falconet {
namespace {

constexpr std::string_view kind_names[] = {"cross_entropy", "mse", "bce"};
constexpr std::string_view result_names[] = {"loss", "gradient", "both"};

template <class Visit>
void visit_operands(LossProblem const& p, Visit visit) {
  bool const labels = p.kind == LossKind::cross_entropy;
  TensorType const scalar{p.loss_type(), Shape{}, Layout::nchw};
  visit(&LossArgs::x, Operand{"x", p.x});
  if (labels) visit(&LossArgs::target, Operand{"labels", {DType::i32, Shape{p.n()}, Layout::nchw}, false, Fill::label, p.row()});
  else visit(&LossArgs::target, Operand{"target", {p.target, p.x.shape, p.x.layout}});
  visit(nullptr, Operand{"step", step_state_type(), false, Fill::step_state, p.n()});
  if (p.result == LossResult::gradient) visit(&LossArgs::dloss, Operand{"dloss", scalar});
  if (p.result != LossResult::gradient) {
    visit(&LossArgs::loss, Operand{"loss", scalar, true});
    if (labels) visit(&LossArgs::correct, Operand{"correct", scalar, true});
  }
  if (p.result != LossResult::loss) visit(&LossArgs::dx, Operand{"dx", p.x, true});
}

}  // namespace

std::string_view name(LossKind k) { return kind_names[int(k)]; }
std::string_view name(LossResult r) { return result_names[int(r)]; }

std::string LossProblem::text() const {
  ProblemText t;
  t.add("kind", name(kind)).add("result", name(result)).add("x", x.text());
  if (kind != LossKind::cross_entropy) t.add("target", name(target));
  if (label_smoothing != 0) t.add("smoothing", exact(label_smoothing));
  if (dloss != 1) t.add("dloss", exact(dloss));
  return t.text();
}

LossProblem LossProblem::parse(std::string_view text) {
  ProblemText t(text);
  LossProblem p;
  auto bad = [&](std::string const& why) { fail(ErrorKind::usage, "loss problem '" + std::string(text) + "': " + why); };
  auto choose = [&](std::string_view key, std::span<std::string_view const> names) {
    auto const value = t.take(key);
    for (std::size_t i = 0; i < names.size(); ++i)
      if (names[i] == value) return i;
    bad("unknown " + std::string(key) + " '" + value + "'");
    return std::size_t(0);
  };
  p.kind = LossKind(choose("kind", kind_names));
  p.result = LossResult(choose("result", result_names));
  p.x = TensorType::parse(t.take("x"));
  p.target = p.kind == LossKind::cross_entropy ? DType::i32 : parse_dtype(t.take("target", name(p.x.dtype)));
  p.label_smoothing = t.take_double("smoothing", 0);
  p.dloss = t.take_double("dloss", 1);
  t.finish();
  if (p.x.shape.rank() < 1) bad("x has no batch axis");
  if (p.kind == LossKind::cross_entropy && p.x.shape.rank() != 2) bad("cross_entropy takes logits [N,C]");
  for (auto size : p.x.shape)
    if (size < 1) bad("every size is at least 1");
  return p;
}

std::vector<Operand> LossProblem::operands() const {
  return list_operands([&](auto const& visit) { visit_operands(*this, visit); });
}
LossArgs LossProblem::args(LossProblem const& p, std::span<View const> operands) {
  return bind_operands<LossArgs>([&](auto const& visit) { visit_operands(p, visit); }, operands);
}

}  // namespace falconet
