// Every layer on one page. A layer is a function from Var to Var (graph/layer.h): `x | conv("conv1", 8, 5) | relu`.
// Options keep PyTorch's names and defaults; input sizes are inferred; keys are explicit and their suffixes are PyTorch's
// ("weight", "bias", "running_mean", "running_var").
#pragma once
#include <source_location>
#include <string>
#include <string_view>
#include <utility>

#include "falconet/graph/layer.h"

namespace falconet {

// One number for both axes, or {height, width}.
struct Size2 {
  int h, w;
  Size2(int both) : h(both), w(both) {}              // NOLINT: implicit on purpose
  Size2(int h, int w) : h(h), w(w) {}
};

// A number, {height, width}, or how the output relates to the input: "valid" (no padding), "same" (output as large as the input,
// stride 1; an odd surplus goes to the bottom and right, as in PyTorch), "full" (every position that touches the image).
struct Padding {
  enum Kind { number, same, full } kind = number;
  Size2 size = 0;
  Padding(int both) : size(both) {}                  // NOLINT
  Padding(int h, int w) : size(h, w) {}
  Padding(std::string_view name);                    // NOLINT: throws a usage error naming the known words
  Padding(char const* name) : Padding(std::string_view(name)) {}   // NOLINT
};

struct ConvLayerOptions {
  Size2 stride = 1;
  Padding padding = 0;
  Size2 dilation = 1;
  int groups = 1;
  bool bias = true;
  Init::Kind init = Init::pytorch;                   // of the weight
  Init::Kind bias_init = Init::pytorch;              // constant: zeros
};
Layer conv(std::string name, int out, Size2 kernel, ConvLayerOptions = {}, std::source_location at = std::source_location::current());

struct LinearOptions {
  bool bias = true;
  Init::Kind init = Init::pytorch;                   // of the weight
  double init_value = 0;                             // of the inits that have one: constant, uniform, normal
  Init::Kind bias_init = Init::pytorch;              // constant: zeros
};
// Flattens an image-shaped input by itself.
Layer linear(std::string name, int out, LinearOptions = {}, std::source_location at = std::source_location::current());

struct BatchNormOptions {
  double eps = 1e-5, momentum = 0.1;
};
Layer batch_norm(std::string name, BatchNormOptions = {}, std::source_location at = std::source_location::current());

struct PoolLayerOptions {
  Size2 stride = 0;                                  // 0: the window's size
  Size2 padding = 0;
  bool ceil_mode = false;
  bool count_include_pad = true;                     // average only
};
Layer max_pool(Size2 window, PoolLayerOptions = {}, std::source_location at = std::source_location::current());
Layer avg_pool(Size2 window, PoolLayerOptions = {}, std::source_location at = std::source_location::current());
// N,C,H,W -> N,C,size: means over equal windows. H and W must be multiples of the size, else a shape error.
Layer adaptive_avg_pool(Size2 size, std::source_location at = std::source_location::current());

// The layers without options, as functions for the constants below.
namespace plain {
Var global_avg_pool(Var, std::source_location), flatten(Var, std::source_location), softmax(Var, std::source_location);
Var relu(Var, std::source_location), relu6(Var, std::source_location), gelu(Var, std::source_location), silu(Var, std::source_location);
Var sigmoid(Var, std::source_location), tanh(Var, std::source_location);
}  // namespace plain
inline constexpr PlainLayer global_avg_pool(plain::global_avg_pool);   // N,C,H,W -> N,C,1,1
inline constexpr PlainLayer flatten(plain::flatten);                   // N,C,H,W -> N,C*H*W
inline constexpr PlainLayer relu(plain::relu), relu6(plain::relu6), gelu(plain::gelu), silu(plain::silu);
inline constexpr PlainLayer sigmoid(plain::sigmoid), tanh(plain::tanh);
inline constexpr PlainLayer softmax(plain::softmax);                   // over the channels
Layer leaky_relu(double negative_slope = 0.01, std::source_location at = std::source_location::current());
// Zeroes each element with probability p while training. The name keys its random bits; without one, dropouts are numbered.
Layer dropout(double p = 0.5, std::string name = {}, std::source_location at = std::source_location::current());

Var operator+(VarAt a, Var b);
Var operator*(VarAt a, Var b);                       // [N,C,1,1] is broadcast over [N,C,H,W]
Var concat(std::initializer_list<Var> parts, std::source_location at = std::source_location::current());   // along the channels
// Applies each layer to the same input and concatenates along the channels.
Layer concat(std::vector<Layer> branches, std::source_location at = std::source_location::current());

// ---- losses: from the network's output and the targets to a loss of one element ----
struct LossOutputs {
  Var loss;
  Var correct;                                       // rows classified right; empty for losses without classes
};
struct LossFunction {
  std::string name;
  bool labels = true;                                // targets are i32 class indices [N]; else f32 shaped as the output
  std::function<LossOutputs(Var output, Var target)> apply;
};
struct CrossEntropyOptions {
  double label_smoothing = 0;
};
LossFunction cross_entropy(CrossEntropyOptions = {});
LossFunction mse();
LossFunction binary_cross_entropy_with_logits();

}  // namespace falconet
