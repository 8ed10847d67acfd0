// Every elementwise function and slot in plain loops over images, channels and positions, computed in f64.
#include "falconet/ops/elementwise/algorithms.h"
#include "falconet/tensor/element.h"

namespace falconet {
namespace {

// The derivative of an activation from its output y; the corners of relu and relu6 have derivative 0.
double derivative_from_output(Activation act, double y, double alpha) {
  switch (act) {
    case Activation::relu:
      return y > 0 ? 1 : 0;
    case Activation::leaky_relu:
      return y > 0 ? 1 : alpha;
    case Activation::relu6:
      return y > 0 && y < 6 ? 1 : 0;
    case Activation::sigmoid:
      return y * (1 - y);
    case Activation::tanh:
      return 1 - y * y;
    default:
      return 1;
  }
}

double element(ElementwiseProblem const& p, ElementwiseArgs const& a, std::int64_t i, std::int64_t n, std::int64_t c) {
  using F = ElementwiseFunction;
  auto x = [&] { return load_element(a.x, i); };
  auto vector = [&](int row) { return load_element(a.vectors, row * p.c + c); };
  bool const masked_out = p.mask && !(load_element(a.mask, i) > 0);
  bool const padding = a.step && n >= a.step->valid_count;
  switch (p.function) {
    case F::activation:
      return activate(p.act, x(), p.alpha);
    case F::activation_gradient: {
      double const kept = load_element(a.b, i);
      return x() *
             (derives_from_output(p.act) ? derivative_from_output(p.act, kept, p.alpha) : activation_derivative(p.act, kept, p.alpha));
    }
    case F::add:
      return masked_out ? 0 : activate(p.act, x() + load_element(a.b, i), p.alpha);
    case F::multiply:
      return x() * load_element(a.b, p.broadcast ? n * p.c + c : i);
    case F::scale:
      return p.alpha * x();
    case F::fill:
      return p.alpha;
    case F::spread:
      return padding ? 0 : p.alpha * load_element(a.vectors, 0) / (p.valid_only ? a.step->valid_count : 1);
    case F::affine:
      return activate(p.act, vector(0) * x() + vector(1) + (p.residual ? load_element(a.residual, i) : 0), p.alpha);
    case F::affine_scale:
      return masked_out ? 0 : vector(0) * x();
    case F::sums_gradient:
      return padding ? 0 : vector(0) + 2 * vector(1) * x();
    case F::two_operand:
      return padding ? 0 : (masked_out ? 0 : vector(0) * x()) + vector(1) * load_element(a.b, i) + vector(2);
  }
  return 0;
}

std::string reject(ElementwiseProblem const&, DeviceFacts const&) { return {}; }

void run(ElementwiseProblem const& p, Config const&, ElementwiseArgs const& a, View, Stream&) {
  for (std::int64_t n = 0; n < p.n; ++n)
    for (std::int64_t c = 0; c < p.c; ++c)
      for (std::int64_t at = 0; at < p.hw; ++at) {
        std::int64_t const i = p.layout == Layout::nhwc ? (n * p.hw + at) * p.c + c : (n * p.c + c) * p.hw + at;
        store_element(a.y, i, element(p, a, i, n, c));
      }
}

}  // namespace

extern Algorithm<ElementwiseProblem> const elementwise_reference = {
    .name = "reference", .target = DeviceKind::cpu, .reject = reject, .run = run, .baseline = true};

}  // namespace falconet
