// The definition of the losses and their gradients in plain loops; f64, f32 and bf16 storage, f64 arithmetic.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "falconet/ops/loss/algorithms.h"
#include "falconet/tensor/element.h"

namespace falconet {
namespace {

std::string reject(LossProblem const& p, DeviceFacts const&) {
  if (p.x.dtype == DType::u8 || p.x.dtype == DType::i32) return "needs f64, f32 or bf16";
  return {};
}

struct Sums {
  double loss = 0, correct = 0;
};

// `factor`: the gradient of the loss that arrives, divided by the number of rows that count.
void cross_entropy_row(LossProblem const& p, LossArgs const& args, std::int64_t n, double factor, Sums& sums) {
  auto const C = p.row(), label = std::int64_t(load_element(args.target, n));
  bool const known = label >= 0 && label < C;
  std::vector<double> logits(static_cast<std::size_t>(C));
  auto const inputs = p.product.inputs;
  for (std::int64_t c = 0; c < C; ++c) {
    double v = inputs ? (p.product.bias ? load_element(args.bias, c) : 0) : load_element(args.x, n * C + c);
    for (std::int64_t i = 0; i < inputs; ++i) v += load_element(args.features, n * inputs + i) * load_element(args.weight, c * inputs + i);
    logits[std::size_t(c)] = v;
  }
  auto x = [&](std::int64_t c) { return logits[std::size_t(c)]; };
  std::int64_t first_maximum = 0;
  for (std::int64_t c = 1; c < C; ++c)
    if (x(c) > x(first_maximum)) first_maximum = c;
  double exponentials = 0, all = 0;
  for (std::int64_t c = 0; c < C; ++c) exponentials += std::exp(x(c) - x(first_maximum)), all += x(c);
  double const log_sum = std::log(exponentials) + x(first_maximum);
  double const nan = std::numeric_limits<double>::quiet_NaN();
  sums.loss += known ? (1 - p.label_smoothing) * (log_sum - x(label)) + p.label_smoothing * (log_sum - all / double(C)) : nan;
  sums.correct += first_maximum == label;
  if (!args.dx) return;
  for (std::int64_t c = 0; c < C; ++c) {
    double const target = (c == label ? 1 - p.label_smoothing : 0) + p.label_smoothing / double(C);
    store_element(args.dx, n * C + c, known ? (std::exp(x(c) - log_sum) - target) * factor : nan);
  }
  for (std::int64_t i = 0; i < inputs; ++i) {
    double sum = 0;
    for (std::int64_t c = 0; c < C; ++c) {
      double const target = (c == label ? 1 - p.label_smoothing : 0) + p.label_smoothing / double(C);
      sum += (known ? (std::exp(x(c) - log_sum) - target) * factor : nan) * load_element(args.weight, c * inputs + i);
    }
    store_element(args.dfeatures, n * inputs + i, !p.product.mask || load_element(args.features, n * inputs + i) > 0 ? sum : 0);
  }
}

void elementwise_row(LossProblem const& p, LossArgs const& args, std::int64_t n, double factor, Sums& sums) {
  auto const row = p.row();
  for (std::int64_t i = n * row; i < (n + 1) * row; ++i) {
    double const x = load_element(args.x, i), t = load_element(args.target, i);
    double loss, gradient;
    if (p.kind == LossKind::mse) {
      loss = (x - t) * (x - t);
      gradient = 2 * (x - t);
    } else {
      loss = std::max(x, 0.0) - x * t + std::log1p(std::exp(-std::abs(x)));
      gradient = (x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x))) - t;
    }
    sums.loss += loss / double(row);
    if (args.dx) store_element(args.dx, i, gradient / double(row) * factor);
  }
}

void run(LossProblem const& p, Config const&, LossArgs const& args, View, Stream&) {
  std::int64_t const valid = std::clamp<std::int64_t>(args.step->valid_count, 0, p.n());
  double const dloss = args.dloss ? load_element(args.dloss, 0) : p.dloss, factor = valid ? dloss / double(valid) : 0;
  Sums sums;
  for (std::int64_t n = 0; n < valid; ++n)
    if (p.kind == LossKind::cross_entropy) cross_entropy_row(p, args, n, factor, sums);
    else elementwise_row(p, args, n, factor, sums);
  if (args.dx)
    for (std::int64_t i = valid * p.row(); i < p.n() * p.row(); ++i) store_element(args.dx, i, 0);
  for (std::int64_t i = valid * p.product.inputs; i < p.n() * p.product.inputs; ++i) store_element(args.dfeatures, i, 0);
  if (args.loss) store_element(args.loss, 0, valid ? sums.loss / double(valid) : 0);
  if (args.correct) store_element(args.correct, 0, sums.correct);
}

}  // namespace

Algorithm<LossProblem> loss_reference() {
  return {.name = "reference", .target = DeviceKind::cpu, .reject = reject, .run = run, .baseline = true};
}

}  // namespace falconet
