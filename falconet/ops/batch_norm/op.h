// Batch normalisation (Ioffe & Szegedy 2015, algorithm 1) in three nodes: channel_sums (ops/reduce), the vectors here, affine
// (ops/elementwise).
#pragma once
#include <source_location>
#include <string_view>
#include <vector>

#include "falconet/graph/graph.h"
#include "falconet/ops/batch_norm/problem.h"

namespace falconet {

class BatchNormOp final : public Op {
 public:
  // Inputs and outputs in the order that BatchNormFunction lists them.
  struct Slots {                    // of normalise and normalise_gradient
    Activation act = Activation::none;
    bool residual = false, mask = false;
    DType filter = DType::f32;      // of fold: the type of the folded filter
    bool residual_norm = false;     // of normalise: the residual has a batch norm of its own
    bool vectors = false;           // of normalise: scale_shift is a result, too
    bool bits = false;              // of normalise: y > 0 as bits is the last result
    bool pair = false;              // of normalise_gradient: of two batch norms whose results were added
    bool operator==(Slots const&) const = default;
  };
  BatchNormOp(BatchNormFunction function, std::int64_t per_sample, double eps, double momentum, Slots slots = {Activation::none, false, false, DType::f32, false, false, false, false})
      : function(function), per_sample(per_sample), eps(eps), momentum(momentum), slots(slots) {}
  BatchNormFunction const function;
  std::int64_t const per_sample;  // elements per sample and channel
  double const eps, momentum;
  Slots const slots;

  std::string_view name() const override { return "batch_norm"; }
  std::string attributes() const override;
  std::vector<TensorType> infer(std::span<TensorType const> in) const override;
  std::vector<Var> gradient(Graph&, Node const&, std::span<Var const> dy) const override;
  int alias(int output) const override;
  std::shared_ptr<Op const> without_updates() const override;    // of normalise
  std::string problem(std::span<TensorType const> in, std::span<TensorType const> out) const override;
};

// The whole layer over x [N,C] or [N,C,H,W]; gamma, beta, running_mean, running_var [C].
// Training: y = gamma * (x - mean) / sqrt(var + eps) + beta with the mean and biased variance of the valid rows of the batch;
// running = (1 - momentum) * running + momentum * batch, with the unbiased variance (PyTorch's convention).
// Otherwise: the running values instead of the batch's; `step` may be empty.
Var batch_norm(Var x, Var gamma, Var beta, Var running_mean, Var running_var, Var step, bool training, double eps = 1e-5,
               double momentum = 0.1, std::string_view layer = {}, std::source_location at = std::source_location::current());
// [3,c] coefficients of elementwise two_operand from the scale and the gradient of the sums (for the fusion pass).
Var two_operand_coefficients(Var scale_shift, Var dsums);

}  // namespace falconet
