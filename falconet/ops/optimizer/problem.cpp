#include "falconet/ops/optimizer/problem.h"

#include <numeric>

#include "falconet/base/error.h"
#include "falconet/ops/problem_text.h"

namespace falconet {
namespace {
constexpr std::string_view kind_names[] = {"sgd", "adam", "adamw"};
}  // namespace

std::string_view name(OptimizerOptions::Kind kind) { return kind_names[int(kind)]; }

std::vector<std::string> optimizer_states(OptimizerOptions const& o) {
  if (o.kind != OptimizerOptions::sgd) return {"mean", "square"};
  if (o.momentum != 0) return {"momentum"};
  return {};
}

std::int64_t OptimizerProblem::elements() const { return std::accumulate(sizes.begin(), sizes.end(), std::int64_t(0)); }

std::string OptimizerProblem::text() const {
  ProblemText t;
  OptimizerOptions const defaults;
  t.add("kind", name(options.kind));
  auto number = [&](char const* key, double value, double otherwise) {
    if (value != otherwise) t.add(key, exact(value));
  };
  number("momentum", options.momentum, defaults.momentum);
  if (options.nesterov) t.add("nesterov", 1);
  number("weight_decay", options.weight_decay, defaults.weight_decay);
  number("beta1", options.beta1, defaults.beta1);
  number("beta2", options.beta2, defaults.beta2);
  number("eps", options.eps, defaults.eps);
  t.add("type", name(type));
  std::string list;
  for (auto size : sizes) (list += list.empty() ? "" : ",") += std::to_string(size);
  t.add("sizes", list);
  return t.text();
}

OptimizerProblem OptimizerProblem::parse(std::string_view text) {
  ProblemText t(text);
  OptimizerProblem p;
  auto bad = [&](std::string const& why) { fail(ErrorKind::usage, "optimizer problem '" + std::string(text) + "': " + why); };
  auto const kind = t.take("kind");
  int k = 0;
  while (k < int(std::size(kind_names)) && kind_names[k] != kind) ++k;
  if (k == int(std::size(kind_names))) bad("the kind is sgd, adam or adamw, not '" + kind + "'");
  auto& o = p.options;
  o.kind = OptimizerOptions::Kind(k);
  o.momentum = t.take_double("momentum", o.momentum);
  o.nesterov = t.take_int("nesterov", 0) != 0;
  o.weight_decay = t.take_double("weight_decay", o.weight_decay);
  o.beta1 = t.take_double("beta1", o.beta1);
  o.beta2 = t.take_double("beta2", o.beta2);
  o.eps = t.take_double("eps", o.eps);
  p.type = parse_dtype(t.take("type", "f32"));
  auto const sizes = t.take("sizes");
  for (auto size : split(sizes, ',')) p.sizes.push_back(parse_int(size, "sizes"));
  t.finish();
  for (auto size : p.sizes)
    if (size < 1) bad("every size is at least 1");
  if (p.sizes.empty()) bad("sizes is empty");
  if (p.type != DType::f32 && p.type != DType::f64) bad("the type is f64 or f32");
  if (o.kind != OptimizerOptions::sgd && (o.momentum != 0 || o.nesterov)) bad("momentum and nesterov belong to sgd");
  if (o.nesterov && o.momentum == 0) bad("nesterov needs momentum");
  return p;
}

std::vector<Operand> OptimizerProblem::operands() const {
  std::vector<Operand> out{{"step", step_state_type(), false, Fill::step_state, 1}};
  auto const states = optimizer_states(options);
  auto fill_of = [](std::string const& state) { return state == "square" ? Fill::positive : Fill::normal; };
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    TensorType const t{type, Shape{sizes[i]}, Layout::nchw};
    auto const number = std::to_string(i);
    out.push_back({"parameter" + number, t});
    out.push_back({"gradient" + number, t});
    for (auto const& state : states) out.push_back({state + number, t, false, fill_of(state)});
  }
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    int const first = 1 + int(i * (2 + states.size()));
    for (std::size_t s = 0; s <= states.size(); ++s) {
      Operand o = out[std::size_t(s == 0 ? first : first + 1 + int(s))];
      o.written = true;
      o.alias = s == 0 ? first : first + 1 + int(s);
      out.push_back(std::move(o));
    }
  }
  return out;
}

OptimizerArgs OptimizerProblem::args(OptimizerProblem const& p, std::span<View const> operands) {
  OptimizerArgs args;
  args.step = operands[0].as<StepState const>();
  std::size_t const states = optimizer_states(p.options).size();
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < p.sizes.size(); ++i) {
    View const* o = operands.data() + 1 + i * (2 + states);
    OptimizerArgs::Parameter q{o[0].data, o[1].data, {}, begin, p.sizes[i]};
    for (std::size_t s = 0; s < states; ++s) q.state[s] = o[2 + s].data;
    args.parameters.push_back(q);
    begin += p.sizes[i];
  }
  return args;
}

double OptimizerProblem::operations() const {
  return double(elements()) *
         (options.kind == OptimizerOptions::sgd ? 2 + 2 * (options.momentum != 0) + 2 * (options.weight_decay != 0) : 14);
}

}  // namespace falconet
