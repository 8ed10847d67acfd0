#include "falconet/ops/batch_norm/problem.h"

#include "falconet/base/error.h"
#include "falconet/ops/operand_visit.h"
#include "falconet/ops/problem_text.h"

namespace falconet {
namespace {

constexpr std::string_view function_names[] = {"coefficients",       "gradient",          "inference",
                                               "inference_gradient", "two_operand",       "gradient_two_operand",
                                               "normalise",          "normalise_gradient", "fold"};

BatchNormFunction parse_function(std::string_view text) {
  for (int i = 0; i < int(std::size(function_names)); ++i)
    if (function_names[i] == text) return BatchNormFunction(i);
  fail(ErrorKind::usage, "unknown batch norm function '" + std::string(text) + "'");
}

// The operands of a problem in the order of its launch.
template <class Visit>
void visit_operands(BatchNormProblem const& p, Visit visit) {
  using F = BatchNormFunction;
  using A = BatchNormArgs;
  TensorType const one{p.type, Shape{p.c}, Layout::nchw}, two{p.type, Shape{2, p.c}, Layout::nchw},
      three{p.type, Shape{3, p.c}, Layout::nchw};
  Operand const step{"step", step_state_type(), false, Fill::step_state, p.applies() ? p.n : 4};
  TensorType const image{p.image, Shape{p.n, p.c, p.per_sample, 1}, p.layout};
  switch (p.function) {
    case F::coefficients:
      visit(&A::sums, Operand{"sums", two, false, Fill::positive});
      visit(&A::gamma, Operand{"gamma", one});
      visit(&A::beta, Operand{"beta", one});
      visit(&A::running_mean, Operand{"running_mean", one});
      visit(&A::running_var, Operand{"running_var", one, false, Fill::positive});
      visit(nullptr, step);
      visit(&A::scale_shift, Operand{"scale_shift", two, true});
      visit(&A::running_mean, Operand{"running_mean", one, true, Fill::normal, 0, 3});
      visit(&A::running_var, Operand{"running_var", one, true, Fill::positive, 0, 4});
      break;
    case F::gradient:
      visit(&A::dscale_shift, Operand{"dscale_shift", two});
      visit(&A::sums, Operand{"sums", two, false, Fill::positive});
      visit(&A::gamma, Operand{"gamma", one});
      visit(nullptr, step);
      visit(&A::dsums, Operand{"dsums", two, true});
      visit(&A::dgamma, Operand{"dgamma", one, true});
      visit(&A::dbeta, Operand{"dbeta", one, true});
      break;
    case F::inference:
      visit(&A::gamma, Operand{"gamma", one});
      visit(&A::beta, Operand{"beta", one});
      visit(&A::running_mean, Operand{"running_mean", one});
      visit(&A::running_var, Operand{"running_var", one, false, Fill::positive});
      visit(&A::scale_shift, Operand{"scale_shift", two, true});
      break;
    case F::inference_gradient:
      visit(&A::dscale_shift, Operand{"dscale_shift", two});
      visit(&A::running_mean, Operand{"running_mean", one});
      visit(&A::running_var, Operand{"running_var", one, false, Fill::positive});
      visit(&A::dgamma, Operand{"dgamma", one, true});
      visit(&A::dbeta, Operand{"dbeta", one, true});
      break;
    case F::two_operand:
      visit(&A::scale_shift, Operand{"scale_shift", two});
      visit(&A::dsums, Operand{"dsums", two});
      visit(&A::two_operand, Operand{"two_operand", three, true});
      break;
    case F::gradient_two_operand:
      visit(&A::dscale_shift, Operand{"dscale_shift", two});
      visit(&A::sums, Operand{"sums", two, false, Fill::positive});
      visit(&A::gamma, Operand{"gamma", one});
      visit(nullptr, step);
      visit(&A::two_operand, Operand{"two_operand", three, true});
      visit(&A::dgamma, Operand{"dgamma", one, true});
      visit(&A::dbeta, Operand{"dbeta", one, true});
      break;
    case F::normalise:
      visit(&A::x, Operand{"x", image});
      visit(&A::sums, Operand{"sums", two, false, Fill::positive});
      visit(&A::gamma, Operand{"gamma", one});
      visit(&A::beta, Operand{"beta", one});
      visit(&A::running_mean, Operand{"running_mean", one});
      visit(&A::running_var, Operand{"running_var", one, false, Fill::positive});
      visit(nullptr, step);
      if (p.residual) visit(&A::residual, Operand{"residual", image});
      if (p.residual_norm) {
        visit(&A::residual_sums, Operand{"residual_sums", two, false, Fill::positive});
        visit(&A::residual_gamma, Operand{"residual_gamma", one});
        visit(&A::residual_beta, Operand{"residual_beta", one});
        visit(&A::residual_running_mean, Operand{"residual_running_mean", one});
        visit(&A::residual_running_var, Operand{"residual_running_var", one, false, Fill::positive});
      }
      visit(&A::y, Operand{"y", image, true});
      visit(&A::running_mean, Operand{"running_mean", one, true, Fill::normal, 0, 4});
      visit(&A::running_var, Operand{"running_var", one, true, Fill::positive, 0, 5});
      if (p.residual_norm) {
        visit(&A::residual_running_mean, Operand{"residual_running_mean", one, true, Fill::normal, 0, 11});
        visit(&A::residual_running_var, Operand{"residual_running_var", one, true, Fill::positive, 0, 12});
      }
      if (p.vectors) visit(&A::scale_shift, Operand{"scale_shift", two, true});
      if (p.bits) visit(&A::bits, Operand{"bits", TensorType{DType::u8, Shape{p.n, p.c / 8, p.per_sample, 1}, p.layout}, true});
      break;
    case F::normalise_gradient:
      visit(&A::dy, Operand{"dy", image});
      visit(&A::x, Operand{"x", image});
      visit(&A::dscale_shift, Operand{"dscale_shift", two});
      visit(&A::sums, Operand{"sums", two, false, Fill::positive});
      visit(&A::gamma, Operand{"gamma", one});
      visit(nullptr, step);
      if (p.mask) visit(&A::mask, Operand{"mask", image});
      if (p.pair) {
        visit(&A::pair_x, Operand{"pair_x", image});
        visit(&A::pair_dscale_shift, Operand{"pair_dscale_shift", two});
        visit(&A::residual_sums, Operand{"pair_sums", two, false, Fill::positive});
        visit(&A::residual_gamma, Operand{"pair_gamma", one});
      }
      visit(&A::y, Operand{"dx", image, true});
      visit(&A::dgamma, Operand{"dgamma", one, true});
      visit(&A::dbeta, Operand{"dbeta", one, true});
      if (p.pair) {
        visit(&A::pair_y, Operand{"pair_dx", image, true});
        visit(&A::pair_dgamma, Operand{"pair_dgamma", one, true});
        visit(&A::pair_dbeta, Operand{"pair_dbeta", one, true});
      }
      break;
    case F::fold:
      visit(&A::w, Operand{"w", TensorType{p.type, Shape{p.c, p.per_sample}, Layout::nchw}});
      visit(&A::gamma, Operand{"gamma", one});
      visit(&A::beta, Operand{"beta", one});
      visit(&A::running_mean, Operand{"running_mean", one});
      visit(&A::running_var, Operand{"running_var", one, false, Fill::positive});
      if (p.bias) visit(&A::bias, Operand{"bias", one});
      visit(&A::folded_w, Operand{"folded_w", TensorType{p.image, Shape{p.c, p.per_sample}, Layout::nchw}, true});
      visit(&A::folded_bias, Operand{"folded_bias", one, true});
      break;
  }
}

}  // namespace

std::string_view name(BatchNormFunction f) { return function_names[int(f)]; }

std::string BatchNormProblem::text() const {
  ProblemText t;
  t.add("function", name(function)).add("c", c).add("per_sample", per_sample);
  t.add("eps", exact(eps)).add("momentum", exact(momentum)).add("type", falconet::name(type));
  if (applies()) t.add("n", n).add("image", falconet::name(image)).add("layout", falconet::name(layout));
  if (function == BatchNormFunction::fold) t.add("image", falconet::name(image));
  if (act != Activation::none) t.add("act", act == Activation::relu ? "relu" : "relu6");
  if (residual) t.add("residual", 1);
  if (residual_norm) t.add("residual_norm", 1);
  if (vectors) t.add("vectors", 1);
  if (bits) t.add("bits", 1);
  if (mask) t.add("mask", 1);
  if (pair) t.add("pair", 1);
  if (bias) t.add("bias", 1);
  return t.text();
}
BatchNormProblem BatchNormProblem::parse(std::string_view text) {
  ProblemText t(text);
  BatchNormProblem p;
  p.function = parse_function(t.take("function"));
  p.c = t.take_int("c", 1), p.per_sample = t.take_int("per_sample", 1);
  p.eps = t.take_double("eps", 1e-5), p.momentum = t.take_double("momentum", 0.1);
  p.type = parse_dtype(t.take("type", "f32"));
  if (p.applies()) {
    p.n = t.take_int("n", 1);
    p.image = parse_dtype(t.take("image", "f32"));
    p.layout = parse_layout(t.take("layout", "nchw"));
  }
  bool const fold = p.function == BatchNormFunction::fold;
  if (fold) p.image = parse_dtype(t.take("image", "f32"));
  auto const act = t.take("act", "none");
  p.act = act == "relu" ? Activation::relu : act == "relu6" ? Activation::relu6 : Activation::none;
  p.residual = t.take_int("residual", 0) != 0;
  p.residual_norm = t.take_int("residual_norm", 0) != 0;
  p.vectors = t.take_int("vectors", 0) != 0;
  p.bits = t.take_int("bits", 0) != 0;
  p.mask = t.take_int("mask", 0) != 0;
  p.pair = t.take_int("pair", 0) != 0;
  p.bias = t.take_int("bias", 0) != 0;
  t.finish();
  auto bad = [&](std::string const& why) { fail(ErrorKind::usage, "batch norm problem '" + std::string(text) + "': " + why); };
  if (p.c < 1 || p.per_sample < 1) bad("every size is at least 1");
  if (p.type != DType::f32 && p.type != DType::f64) bad("the type is f64 or f32");
  if (act != "none" && act != "relu" && act != "relu6") bad("act is none, relu or relu6");
  if (p.applies() && p.n < 1) bad("every size is at least 1");
  if ((p.applies() || fold) && p.image != p.type && !(p.type == DType::f32 && p.image == DType::bf16)) bad("images are bf16 or of the vectors' type");
  if ((p.act != Activation::none || p.residual) && p.function != BatchNormFunction::normalise) bad("act and residual belong to normalise");
  if (p.residual_norm && !p.residual) bad("residual_norm needs a residual");
  if (p.pair && (p.function != BatchNormFunction::normalise_gradient || p.mask)) bad("pair belongs to normalise_gradient without mask");
  if (p.bits && (p.function != BatchNormFunction::normalise || p.act != Activation::relu || p.image != DType::bf16 || p.layout != Layout::nhwc || p.c % 8))
    bad("bits belongs to normalise with relu of bf16 nhwc images of a multiple of 8 channels");
  if (p.vectors && (p.residual || p.function != BatchNormFunction::normalise)) bad("vectors belongs to normalise without residual");
  if (p.bias && !fold) bad("bias belongs to fold");
  if (p.mask && p.function != BatchNormFunction::normalise_gradient) bad("mask belongs to normalise_gradient");
  return p;
}

std::vector<Operand> BatchNormProblem::operands() const {
  return list_operands([&](auto const& visit) { visit_operands(*this, visit); });
}
BatchNormArgs BatchNormProblem::args(BatchNormProblem const& p, std::span<View const> operands) {
  return bind_operands<BatchNormArgs>([&](auto const& visit) { visit_operands(p, visit); }, operands);
}

}  // namespace falconet
