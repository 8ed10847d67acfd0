// One step of SGD, Adam or AdamW on every parameter, element by element in f64, in PyTorch's order of operations (torch/optim: sgd,
// adam; Kingma & Ba 2015, algorithm 1; Loshchilov & Hutter 2019, algorithm 2).
#include <cmath>

#include "falconet/ops/optimizer/algorithms.h"

namespace falconet {
namespace {

template <class T>
void update(OptimizerOptions const& o, StepState const& s, OptimizerArgs::Parameter const& p) {
  T* value = static_cast<T*>(p.value);
  T const* gradient = static_cast<T const*>(p.gradient);
  T *first = static_cast<T*>(p.state[0]), *second = static_cast<T*>(p.state[1]);
  double const lr = double(s.learning_rate), t = double(s.step + 1);
  for (std::int64_t i = 0; i < p.size; ++i) {
    double w = double(value[i]), g = double(gradient[i]);
    if (o.kind == OptimizerOptions::adamw)
      w *= 1 - lr * o.weight_decay;
    else
      g += o.weight_decay * w;
    if (o.kind == OptimizerOptions::sgd) {
      if (o.momentum != 0) {
        double const m = o.momentum * double(first[i]) + g;
        first[i] = T(m);
        g = o.nesterov ? g + o.momentum * m : m;
      }
      value[i] = T(w - lr * g);
    } else {
      double const m = double(first[i]) + (1 - o.beta1) * (g - double(first[i]));
      double const v = o.beta2 * double(second[i]) + (1 - o.beta2) * g * g;
      first[i] = T(m);
      second[i] = T(v);
      double const denominator = std::sqrt(v) / std::sqrt(1 - std::pow(o.beta2, t)) + o.eps;
      value[i] = T(w - lr / (1 - std::pow(o.beta1, t)) * m / denominator);
    }
  }
}

std::string reject(OptimizerProblem const&, DeviceFacts const&) { return {}; }
void run(OptimizerProblem const& p, Config const&, OptimizerArgs const& a, View, Stream&) {
  for (auto const& parameter : a.parameters)
    p.type == DType::f64 ? update<double>(p.options, *a.step, parameter) : update<float>(p.options, *a.step, parameter);
}

}  // namespace

extern Algorithm<OptimizerProblem> const optimizer_reference = {
    .name = "reference", .target = DeviceKind::cpu, .reject = reject, .run = run, .baseline = true};

}  // namespace falconet
