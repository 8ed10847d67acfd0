// Softmax and log-softmax over the channels (axis 1).
#pragma once
#include "falconet/graph/graph.h"

namespace falconet {

// x [N,C] or [N,C,H,W] -> y, alike.
class Softmax final : public Op {
 public:
  explicit Softmax(bool log) : log(log) {}
  bool const log;

  std::string_view name() const override { return "softmax"; }
  std::string attributes() const override { return log ? "log" : ""; }
  std::vector<TensorType> infer(std::span<TensorType const> in) const override;
  std::vector<Var> gradient(Graph&, Node const&, std::span<Var const> dy) const override;
  std::string problem(std::span<TensorType const> in, std::span<TensorType const> out) const override;
};

// y, dy -> dx.
class SoftmaxGradient final : public Op {
 public:
  explicit SoftmaxGradient(bool log) : log(log) {}
  bool const log;

  std::string_view name() const override { return "softmax"; }
  std::string attributes() const override { return log ? "log" : ""; }
  std::vector<TensorType> infer(std::span<TensorType const> in) const override;
  std::string problem(std::span<TensorType const> in, std::span<TensorType const> out) const override;
};

// Throw a shape error if x is neither [N,C] nor [N,C,H,W].
Var channel_softmax(Var x, std::string_view layer = {}, std::source_location at = std::source_location::current());
Var channel_log_softmax(Var x, std::string_view layer = {}, std::source_location at = std::source_location::current());

}  // namespace falconet
