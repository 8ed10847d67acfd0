// Matrix products as graph nodes: the linear layer and its gradients.
#pragma once
#include <source_location>
#include <string_view>

#include "falconet/graph/graph.h"
#include "falconet/ops/fusion.h"
#include "falconet/ops/gemm/problem.h"

namespace falconet {

// y[N,out] = x[N,in] * weight[out,in]^T + bias[out]; bias may be empty. PyTorch's order of the weight. Throws a shape error that
// names `layer` and points at `at` if the sizes do not fit.
Var linear(Var x, Var weight, Var bias, std::string_view layer = {}, std::source_location at = std::source_location::current());

// y = store(op_a(a) * op_b(b)): operands a, b, [bias], [residual], [mask] as in gemm/problem.h.
class GemmOp : public Op {
 public:
  // parameter_gradient: the result is the gradient of a parameter, so f32 (f64 of f64) whatever the operands are.
  GemmOp(bool trans_a, bool trans_b, OnStore store = {}, bool parameter_gradient = false, GemmImage image = {})
      : store_(store), image_(image), trans_a_(trans_a), trans_b_(trans_b), parameter_gradient_(parameter_gradient) {}
  std::string_view name() const override { return "gemm"; }
  std::string attributes() const override;
  std::vector<TensorType> infer(std::span<TensorType const> in) const override;
  // Of products stored without activation and mask: the fusion pass sets those slots after gradients are built.
  std::vector<Var> gradient(Graph&, Node const&, std::span<Var const> dy) const override;
  std::string problem(std::span<TensorType const> in, std::span<TensorType const> out) const override;

  bool trans_a() const { return trans_a_; }
  bool trans_b() const { return trans_b_; }
  bool parameter_gradient() const { return parameter_gradient_; }
  OnStore const& store() const { return store_; }
  GemmImage const& image() const { return image_; }
  GemmOp with_store(OnStore store) const { return {trans_a_, trans_b_, store, parameter_gradient_, image_}; }  // for the fusion pass, as is the next
  GemmOp with_image(GemmImage image) const { return {trans_a_, trans_b_, store_, parameter_gradient_, image}; }

 private:
  OnStore store_;
  GemmImage image_;
  bool trans_a_, trans_b_, parameter_gradient_;
};

}  // namespace falconet
