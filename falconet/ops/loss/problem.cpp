#include "falconet/ops/loss/problem.h"

#include <charconv>

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
  TensorType const features{p.x.dtype, Shape{p.n(), p.product.inputs}};
  if (p.product.inputs) {
    visit(&LossArgs::features, Operand{"features", features});
    visit(&LossArgs::weight, Operand{"weight", {p.x.dtype, Shape{p.row(), p.product.inputs}}});
    if (p.product.bias) visit(&LossArgs::bias, Operand{"bias", {p.loss_type(), Shape{p.row()}}});
  } else {
    visit(&LossArgs::x, Operand{"x", p.x});
  }
  if (labels) visit(&LossArgs::target, Operand{"labels", {DType::i32, Shape{p.n()}, Layout::nchw}, false, Fill::label, p.row()});
  else visit(&LossArgs::target, Operand{"target", {p.target, p.x.shape, p.x.layout}});
  visit(nullptr, Operand{"step", step_state_type(), false, Fill::step_state, p.n()});
  if (p.result == LossResult::gradient) visit(&LossArgs::dloss, Operand{"dloss", scalar});
  if (p.result != LossResult::gradient) {
    visit(&LossArgs::loss, Operand{"loss", scalar, true});
    if (labels) visit(&LossArgs::correct, Operand{"correct", scalar, true});
  }
  if (p.result != LossResult::loss) visit(&LossArgs::dx, Operand{"dx", p.x, true});
  if (p.product.inputs) visit(&LossArgs::dfeatures, Operand{"dfeatures", features, true});
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
  if (product.inputs) t.add("product", std::to_string(product.inputs) + (product.bias ? "+bias" : "") + (product.mask ? "+mask" : ""));
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
  std::string const product = t.take("product", "");
  t.finish();
  if (!product.empty()) {
    for (auto item : split(product, '+')) {
      if (item == "bias") p.product.bias = true;
      else if (item == "mask") p.product.mask = true;
      else if (std::from_chars(item.data(), item.data() + item.size(), p.product.inputs).ptr != item.data() + item.size()) bad("unknown slot '" + std::string(item) + "' of the product");
    }
    if (p.product.inputs < 1 || p.product.inputs >= std::int64_t(1) << 31) bad("a product has 1 to 2^31 - 1 inputs");
    if (p.kind != LossKind::cross_entropy || p.result != LossResult::both) bad("only cross_entropy with both results takes a product");
  }
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
