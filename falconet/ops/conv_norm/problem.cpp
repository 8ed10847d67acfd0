#include "falconet/ops/conv_norm/problem.h"

#include "falconet/base/error.h"
#include "falconet/ops/problem_text.h"

namespace falconet {

BatchNormProblem ConvNormProblem::norm() const {
  bool const forward = conv.direction == Direction::fwd;
  BatchNormProblem b;
  b.function = forward ? BatchNormFunction::normalise : BatchNormFunction::normalise_gradient;
  b.c = forward ? conv.k : conv.c;
  b.per_sample = forward ? std::int64_t(conv.p()) * conv.q() : std::int64_t(conv.h) * conv.w;
  b.eps = eps, b.momentum = momentum;
  b.type = conv.x_type == DType::f64 ? DType::f64 : DType::f32;
  b.n = conv.n, b.image = forward ? conv.y_type : conv.x_type, b.layout = conv.layout;
  b.act = act, b.residual = skip;
  return b;
}

std::string ConvNormProblem::text() const {
  ProblemText t;
  t.add("eps", exact(eps)).add("momentum", exact(momentum));
  if (act != Activation::none) t.add("act", act == Activation::relu ? "relu" : "relu6");
  if (skip) t.add("skip", 1);
  if (kept) t.add("kept", 1);
  return t.text() + " of " + conv.text();
}

ConvNormProblem ConvNormProblem::parse(std::string_view text) {
  auto bad = [&](std::string const& why) { fail(ErrorKind::usage, "conv_norm problem '" + std::string(text) + "': " + why); };
  auto const of = text.find(" of ");
  if (of == std::string_view::npos) bad("expected 'eps=.. momentum=.. of CONVOLUTION'");
  ProblemText t(text.substr(0, of));
  ConvNormProblem p;
  p.eps = t.take_double("eps", 1e-5), p.momentum = t.take_double("momentum", 0.1);
  auto const act = t.take("act", "none");
  p.act = act == "relu" ? Activation::relu : act == "relu6" ? Activation::relu6 : Activation::none;
  p.skip = t.take_int("skip", 0) != 0;
  p.kept = t.take_int("kept", 0) != 0;
  t.finish();
  p.conv = ConvProblem::parse(text.substr(of + 4));
  auto const& c = p.conv;
  if (act != "none" && act != "relu" && act != "relu6") bad("act is none, relu or relu6");
  if (c.direction != Direction::fwd && c.direction != Direction::bwd_data) bad("the direction is fwd or bwd_data");
  bool const forward = c.direction == Direction::fwd;
  OnStore store;
  if (forward) store.stats = Stats::squares, store.bias = c.store.bias;
  else store.stats = Stats::dot_other, store.residual = c.store.residual, store.mask = c.store.mask;
  if (c.store != store) bad(forward ? "a forward convolution stores squares and at most adds a bias" : "a data gradient stores dot_other, residual and mask at most");
  if (c.load_dy != OnLoad{}) bad("dy is read as it lies");
  if (c.x_type != c.y_type) bad("x and y are of one type");
  if (!forward && (p.skip || p.act != Activation::none)) bad("act and skip belong to fwd");
  if (forward && p.kept) bad("kept belongs to bwd_data");
  return p;
}

std::vector<Operand> ConvNormProblem::operands() const {
  bool const forward = conv.direction == Direction::fwd;
  std::vector<Operand> out, written;
  for (auto& o : conv.operands()) (o.written ? written : out).push_back(std::move(o));
  auto const of_norm = norm().operands();
  auto const take = [&](std::size_t i, char const* name, int alias = -1) {
    out.push_back(of_norm[i]);
    out.back().name = name, out.back().alias = alias;
    if (of_norm[i].type.shape.rank() == 4) out.back().type = written[0].type;
  };
  if (forward) {
    take(2, "gamma"), take(3, "beta"), take(4, "running_mean"), take(5, "running_var");
    int const mean = int(out.size()) - 2;
    if (skip) take(7, "skip");
    std::size_t const first = skip ? 8 : 7;
    take(first, "result"), take(first + 1, "running_mean", mean), take(first + 2, "running_var", mean + 1);
    out.push_back(written[0]), out.push_back(written[1]);
  } else {
    take(3, "sums"), take(4, "gamma");
    take(6, "result"), take(7, "dgamma"), take(8, "dbeta");
    if (kept) out.push_back(written[0]), out.back().name = "d";
  }
  return out;
}

ConvNormArgs ConvNormProblem::args(ConvNormProblem const& p, std::span<View const> operands) {
  bool const forward = p.conv.direction == Direction::fwd;
  std::vector<View> conv, norm;
  View step, other;
  std::size_t i = 0;
  for (auto const& o : p.conv.operands()) {
    if (o.written) continue;
    if (o.fill == Fill::step_state) step = operands[i];
    if (o.name == "other") other = operands[i];
    conv.push_back(operands[i++]);
  }
  if (forward) {
    std::size_t const out = i + 4 + (p.skip ? 1 : 0);
    View const &y = operands[out + 3], &stats = operands[out + 4];
    conv.insert(conv.end(), {y, stats});
    norm = {y, stats, operands[i], operands[i + 1], operands[i + 2], operands[i + 3], step};
    if (p.skip) norm.push_back(operands[i + 4]);
    norm.insert(norm.end(), {operands[out], operands[out + 1], operands[out + 2]});
  } else {
    View const d = p.kept ? operands[i + 5] : View{};
    conv.insert(conv.end(), {d, View{}});
    norm = {d, other, View{}, operands[i], operands[i + 1], step, operands[i + 2], operands[i + 3], operands[i + 4]};
  }
  return {ConvProblem::args(p.conv, conv), BatchNormProblem::args(p.norm(), norm)};
}

}  // namespace falconet
