// All parameters in one launch: the elements of all parameters, one after another, are cut into tasks of 16384, so that many small
// parameters share a task and a large one is spread over several. The arithmetic is the reference's, in f32.
// Limits: f32. Cost: parameter and states read and written, gradient read.
#include <cstdint>

#include "falconet/device/cpu/isa.h"
#include "falconet/tensor/bf16.h"

namespace falconet {

// A stretch of one parameter, and the step's constants.
struct OptimizerStretch {
  float* value;
  float const* gradient;
  float *first, *second;  // momentum; or the moments of Adam
  std::int64_t size;
};
struct OptimizerConstants {
  float learning_rate, weight_decay, momentum;
  float decay;                         // adamw: 1 - learning_rate * weight_decay; else 1
  float step_size, inverse_root, eps;  // learning_rate / (1 - beta1^t), 1 / sqrt(1 - beta2^t)
  float one_minus_beta1, beta2, one_minus_beta2;
};
struct OptimizerKernels {
  using Kernel = void (*)(OptimizerStretch const&, OptimizerConstants const&);
  Kernel sgd, momentum, nesterov, adam;
};
FALCONET_DECLARE_KERNELS(OptimizerKernels, optimizer_kernels)

}  // namespace falconet

#ifdef FALCONET_ISA
#include "falconet/device/cpu/simd.h"
#include "falconet/device/cpu/vector_access.h"

namespace falconet::FALCONET_ISA {
namespace {

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
constexpr D d;

enum class Rule { sgd, momentum, nesterov };

template <Rule rule>
void descend(OptimizerStretch const& s, OptimizerConstants const& k) {
  V const lr = hn::Set(d, k.learning_rate), decay = hn::Set(d, k.weight_decay);
  V const momentum = hn::Set(d, k.momentum);
  for_elements(0, s.size, [&](auto at) {
    V const w = at.get(s.value);
    V g = hn::MulAdd(decay, w, at.get(s.gradient));
    if constexpr (rule != Rule::sgd) {
      V const m = hn::MulAdd(momentum, at.get(s.first), g);
      at.put(s.first, m);
      g = rule == Rule::nesterov ? hn::MulAdd(momentum, m, g) : m;
    }
    at.put(s.value, hn::NegMulAdd(lr, g, w));
  });
}

void adam(OptimizerStretch const& s, OptimizerConstants const& k) {
  V const weight_decay = hn::Set(d, k.weight_decay), decay = hn::Set(d, k.decay);
  V const one_minus_beta1 = hn::Set(d, k.one_minus_beta1), beta2 = hn::Set(d, k.beta2), one_minus_beta2 = hn::Set(d, k.one_minus_beta2);
  V const step_size = hn::Set(d, k.step_size), inverse_root = hn::Set(d, k.inverse_root), eps = hn::Set(d, k.eps);
  for_elements(0, s.size, [&](auto at) {
    V const w = at.get(s.value), before = at.get(s.first);
    V const g = hn::MulAdd(weight_decay, w, at.get(s.gradient));
    V const m = hn::MulAdd(one_minus_beta1, hn::Sub(g, before), before);
    V const v = hn::MulAdd(beta2, at.get(s.second), hn::Mul(hn::Mul(one_minus_beta2, g), g));
    at.put(s.first, m);
    at.put(s.second, v);
    V const denominator = hn::MulAdd(hn::Sqrt(v), inverse_root, eps);
    at.put(s.value, hn::NegMulAdd(step_size, hn::Div(m, denominator), hn::Mul(decay, w)));
  });
}

}  // namespace

extern OptimizerKernels const optimizer_kernels = {descend<Rule::sgd>, descend<Rule::momentum>, descend<Rule::nesterov>, adam};

}  // namespace falconet::FALCONET_ISA

#else
#include <algorithm>
#include <cmath>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/optimizer/algorithms.h"

namespace falconet {
namespace {

std::string reject(OptimizerProblem const& p, DeviceFacts const&) { return p.type == DType::f32 ? "" : "updates f32 parameters only"; }
double seconds(OptimizerProblem const& p, DeviceFacts const&) {
  return double(p.elements()) * (p.options.kind == OptimizerOptions::sgd ? 2e-9 : 3e-9);
}

OptimizerConstants constants(OptimizerOptions const& o, StepState const& s) {
  double const lr = double(s.learning_rate), t = double(s.step + 1);
  bool const decoupled = o.kind == OptimizerOptions::adamw;
  OptimizerConstants k{};
  k.learning_rate = s.learning_rate;
  k.weight_decay = decoupled ? 0 : float(o.weight_decay);
  k.momentum = float(o.momentum);
  k.decay = decoupled ? float(1 - lr * o.weight_decay) : 1;
  k.step_size = float(lr / (1 - std::pow(o.beta1, t)));
  k.inverse_root = float(1 / std::sqrt(1 - std::pow(o.beta2, t)));
  k.eps = float(o.eps);
  k.one_minus_beta1 = float(1 - o.beta1);
  k.beta2 = float(o.beta2);
  k.one_minus_beta2 = float(1 - o.beta2);
  return k;
}

void run(OptimizerProblem const& p, Config const&, OptimizerArgs const& a, View, Stream& stream) {
  constexpr std::int64_t grain = 16384;
  auto const& kernels = FALCONET_KERNELS(stream.isa(), optimizer_kernels);
  auto const& o = p.options;
  auto const kernel = o.kind != OptimizerOptions::sgd ? kernels.adam
                      : o.nesterov                    ? kernels.nesterov
                      : o.momentum != 0               ? kernels.momentum
                                                      : kernels.sgd;
  OptimizerConstants const k = constants(o, *a.step);
  std::int64_t const all = a.parameters.back().begin + a.parameters.back().size;
  stream.threads().run(int((all + grain - 1) / grain), [&](int task) {
    std::int64_t const begin = task * grain, end = std::min(all, begin + grain);
    auto q = std::upper_bound(a.parameters.begin(), a.parameters.end(), begin,
                              [](std::int64_t at, auto const& parameter) { return at < parameter.begin; }) -
             1;
    for (std::int64_t at = begin; at < end; ++q) {
      std::int64_t const offset = at - q->begin, size = std::min(end - at, q->size - offset);
      auto moved = [&](void* base) { return base ? static_cast<float*>(base) + offset : nullptr; };
      kernel({moved(q->value), static_cast<float const*>(q->gradient) + offset, moved(q->state[0]), moved(q->state[1]), size}, k);
      at += size;
    }
  });
}

}  // namespace

extern Algorithm<OptimizerProblem> const optimizer_simd = {
    .name = "simd", .target = DeviceKind::cpu, .reject = reject, .seconds = seconds, .run = run};

}  // namespace falconet
#endif
