// A loss over a batch, or its gradient, or both in one go. Rows at or past StepState.valid_count are padding: they count in
// nothing and their gradient is zero. The mathematics is in README.md.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "falconet/ops/algorithm.h"

namespace falconet {

// cross_entropy: of softmax(x) with the labels; bce: binary cross-entropy of sigmoid(x) with targets in [0, 1].
enum class LossKind : std::uint8_t { cross_entropy, mse, bce };
std::string_view name(LossKind);
enum class LossResult : std::uint8_t { loss, gradient, both };
std::string_view name(LossResult);

struct LossArgs {
  View x;                          // logits, or the prediction; absent with a product
  View features, weight, bias;     // of a product: [N,inputs], [C,inputs], [C]
  View target;                     // labels, i32 [N], of cross_entropy; else like x
  StepState const* step = nullptr;
  View dloss;                      // scalar: the gradient that arrives; read for LossResult::gradient
  View loss;                       // scalar
  View correct;                    // scalar, cross_entropy: valid rows whose first maximum is the label
  View dx;
  View dfeatures;                  // of a product: dx * weight
};

// The linear layer ahead of cross_entropy, run with it: x = features * weight^T [+ bias], which is not stored, and, as both are made, the
// gradient that goes on, dfeatures = dx * weight, kept where features are positive if they come from a ReLU (mask).
struct LossProduct {
  std::int64_t inputs = 0;         // 0: none
  bool bias = false, mask = false;
  bool operator==(LossProduct const&) const = default;
};

struct LossProblem {
  LossKind kind = LossKind::cross_entropy;
  LossResult result = LossResult::loss;
  TensorType x;                    // cross_entropy: [N,C]; mse, bce: any shape whose first axis is the batch
  DType target = DType::i32;       // cross_entropy: i32; else the element type of the target
  double label_smoothing = 0;      // cross_entropy
  double dloss = 1;                // LossResult::both: the gradient that arrives, known beforehand
  LossProduct product;             // cross_entropy with LossResult::both

  std::int64_t n() const { return x.shape[0]; }
  std::int64_t row() const { return x.shape.elements() / x.shape[0]; }              // elements of one sample
  DType loss_type() const { return x.dtype == DType::f64 ? DType::f64 : DType::f32; }

  // "kind=cross_entropy result=both x=f32[64x10]", "kind=mse result=loss x=bf16[8x3x4x4]nhwc target=f32"; further, where they
  // differ from the defaults: smoothing=0.1, dloss=128, product=128+bias+mask (of 128 inputs).
  std::string text() const;
  static LossProblem parse(std::string_view);      // throws a usage error
  bool operator==(LossProblem const&) const = default;

  using Args = LossArgs;
  // With a product: features, weight[, bias], target, step -> loss, correct, dx, dfeatures. Else:
  // x, target, step -> loss[, correct] | x, target, step, dloss -> dx | x, target, step -> loss[, correct], dx
  std::vector<Operand> operands() const;
  static LossArgs args(LossProblem const&, std::span<View const> operands);
  double operations() const { return (4.0 + 4.0 * double(product.inputs)) * double(x.shape.elements()); }
};

}  // namespace falconet
