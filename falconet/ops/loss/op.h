// Losses: cross-entropy with label smoothing, mean squared error, binary cross-entropy with logits. Each is the mean over the
// valid rows of the batch, in f32 (f64 where x is f64) whatever the element type of x.
#pragma once
#include "falconet/graph/graph.h"
#include "falconet/ops/loss/problem.h"

namespace falconet {

// x, target, step -> loss; cross_entropy also: correct.
class LossOp final : public Op {
 public:
  explicit LossOp(LossKind kind, double label_smoothing = 0) : kind(kind), label_smoothing(label_smoothing) {}
  LossKind const kind;
  double const label_smoothing;

  std::string_view name() const override { return "loss"; }
  std::string attributes() const override;
  std::vector<TensorType> infer(std::span<TensorType const> in) const override;
  std::vector<Var> gradient(Graph&, Node const&, std::span<Var const> dy) const override;
  std::string problem(std::span<TensorType const> in, std::span<TensorType const> out) const override;
};

// x, target, step, dloss -> dx.
class LossGradient final : public Op {
 public:
  explicit LossGradient(LossKind kind, double label_smoothing = 0) : kind(kind), label_smoothing(label_smoothing) {}
  LossKind const kind;
  double const label_smoothing;

  std::string_view name() const override { return "loss"; }
  std::string attributes() const override;
  std::vector<TensorType> infer(std::span<TensorType const> in) const override;
  std::string problem(std::span<TensorType const> in, std::span<TensorType const> out) const override;
};

// x, target, step -> loss[, correct], dx: what a pass makes of the two above where the gradient that arrives is a constant.
class LossWithGradient final : public Op {
 public:
  LossWithGradient(LossKind kind, double label_smoothing, double dloss) : kind(kind), label_smoothing(label_smoothing), dloss(dloss) {}
  LossKind const kind;
  double const label_smoothing, dloss;

  std::string_view name() const override { return "loss"; }
  std::string attributes() const override;
  std::vector<TensorType> infer(std::span<TensorType const> in) const override;
  std::string problem(std::span<TensorType const> in, std::span<TensorType const> out) const override;
};

// features, weight[, bias], labels, step -> loss, correct, dx, dfeatures: cross-entropy with the linear layer ahead of it, both ways. A pass makes it.
class LossOfProduct final : public Op {
 public:
  LossOfProduct(double label_smoothing, double dloss, bool bias, bool mask) : label_smoothing(label_smoothing), dloss(dloss), bias(bias), mask(mask) {}
  double const label_smoothing, dloss;
  bool const bias, mask;

  std::string_view name() const override { return "loss"; }
  std::string attributes() const override;
  std::vector<TensorType> infer(std::span<TensorType const> in) const override;
  std::string problem(std::span<TensorType const> in, std::span<TensorType const> out) const override;
};

struct ClassificationLoss {
  Var loss;      // scalar
  Var correct;   // scalar: how many valid rows have their first maximum at the label
};
// logits [N,C], labels i32 [N], step: the StepState input. label_smoothing in [0, 1): Szegedy et al. 2016, section 7.
// A label outside [0, C) makes the loss NaN (data sets check theirs when they are read).
ClassificationLoss cross_entropy(Var logits, Var labels, Var step, double label_smoothing = 0, std::string_view layer = {},
                                 std::source_location at = std::source_location::current());
// x and target of equal shape, the batch first: mean of (x - target)^2.
Var mse(Var x, Var target, Var step, std::string_view layer = {}, std::source_location at = std::source_location::current());
// The same shapes: mean of max(x, 0) - x * target + log(1 + exp(-|x|)). The target gets no gradient.
Var binary_cross_entropy_with_logits(Var x, Var target, Var step, std::string_view layer = {},
                                     std::source_location at = std::source_location::current());

}  // namespace falconet
