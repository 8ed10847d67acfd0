// One reduction of a tensor x[n,c,hw]; the functions and their formulas are in README.md.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "falconet/ops/algorithm.h"

namespace falconet {

enum class ReduceFunction : std::uint8_t {
  channel_sum,   // y[c] = sum x
  channel_sums,  // y[2,c] = (sum x, sum x*x) over rows < valid_count
  channel_dot,   // y[2,c] = (sum dy*x, sum dy); with mask, dy counts where mask > 0
  image_dot,     // y[n,c] = sum over the image of a*b
  mean           // y = mean of all elements; with valid_only, of rows < valid_count
};
std::string_view name(ReduceFunction);

struct ReduceArgs {
  View x, b, mask;  // the inputs in the order of the formulas: x; (dy, x); (a, b)
  View y;
  StepState const* step = nullptr;
};

struct ReduceProblem {
  ReduceFunction function = ReduceFunction::channel_sum;
  std::int64_t n = 1, c = 1, hw = 1;
  DType type = DType::f32;  // of the inputs
  Layout layout = Layout::nchw;
  bool mask = false;        // channel_dot
  bool valid_only = false;  // mean

  std::int64_t elements() const { return n * c * hw; }
  bool reads_step() const { return function == ReduceFunction::channel_sums || valid_only; }
  // Sums are f32, or f64 where the input is; image_dot has the type of its inputs.
  DType y_type() const { return function == ReduceFunction::image_dot || type == DType::f64 ? type : DType::f32; }
  // "function=channel_dot n=64 c=16 hw=1024 type=bf16 layout=nhwc mask=1"
  std::string text() const;
  static ReduceProblem parse(std::string_view);  // throws a usage error
  bool operator==(ReduceProblem const&) const = default;

  using Args = ReduceArgs;
  std::vector<Operand> operands() const;
  static ReduceArgs args(ReduceProblem const&, std::span<View const> operands);
  double operations() const;
};

}  // namespace falconet
