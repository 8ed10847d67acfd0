#include "falconet/ops/optimizer/op.h"

#include "falconet/base/error.h"
#include "falconet/ops/problem_text.h"

namespace falconet {

std::string OptimizerOp::attributes() const {
  std::string out(falconet::name(options.kind));
  if (options.nesterov) out += " nesterov";
  if (options.momentum != 0) out += " momentum " + exact(options.momentum);
  if (options.weight_decay != 0) out += " weight_decay " + exact(options.weight_decay);
  return out;
}

std::vector<TensorType> OptimizerOp::infer(std::span<TensorType const> in) const {
  std::size_t const states = optimizer_states(options).size(), each = 2 + states;
  if (in.size() != 1 + std::size_t(parameters) * each || in[0] != step_state_type())
    fail_shape("the optimizer takes the step state, then a parameter, a gradient and " + std::to_string(states) + " states for each of " +
               std::to_string(parameters) + " parameters");
  std::vector<TensorType> out;
  for (std::size_t i = 1; i < in.size(); i += each) {
    if (in[i + 1].shape != in[i].shape)
      fail_shape("a parameter " + in[i].shape.text() + " cannot be updated by a gradient " + in[i + 1].shape.text());
    out.push_back(in[i]);
    for (std::size_t s = 0; s < states; ++s) out.push_back(in[i + 2 + s]);
  }
  return out;
}

int OptimizerOp::alias(int output) const {
  int const states = int(optimizer_states(options).size());
  int const parameter = output / (1 + states), which = output % (1 + states);
  return 1 + parameter * (2 + states) + (which == 0 ? 0 : 1 + which);
}

std::string OptimizerOp::problem(std::span<TensorType const> in, std::span<TensorType const>) const {
  OptimizerProblem p;
  p.options = options;
  p.type = in[1].dtype;
  std::size_t const each = 2 + optimizer_states(options).size();
  for (std::size_t i = 1; i < in.size(); i += each) {
    p.sizes.push_back(in[i].shape.elements());
    for (std::size_t j = i; j < i + each; ++j)
      if (in[j].dtype != p.type || in[j].layout != in[i].layout)
        fail(ErrorKind::internal,
             "optimizer: parameter " + in[i].text() + " and its gradient or state " + in[j].text() + " differ in type or layout");
  }
  return p.text();
}

std::vector<Var> optimizer_update(OptimizerOptions const& options, Var step, std::span<Var const> parameters,
                                  std::span<Var const> gradients, std::span<Var const> states) {
  std::size_t const each = optimizer_states(options).size();
  if (gradients.size() != parameters.size() || states.size() != parameters.size() * each)
    fail(ErrorKind::internal, "optimizer_update needs a gradient and " + std::to_string(each) + " states for each parameter");
  if (parameters.empty()) fail(ErrorKind::model, "there is no parameter to optimise");
  std::vector<Var> in{step};
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    in.push_back(parameters[i]);
    in.push_back(gradients[i]);
    in.insert(in.end(), states.begin() + std::ptrdiff_t(i * each), states.begin() + std::ptrdiff_t((i + 1) * each));
  }
  return step.graph().add(std::make_shared<OptimizerOp>(options, int(parameters.size())), in, "optimizer");
}

}  // namespace falconet
