#include "falconet/nn/layers.h"

#include "falconet/base/error.h"
#include "falconet/base/random.h"
#include "falconet/ops/batch_norm/op.h"
#include "falconet/ops/conv/op.h"
#include "falconet/ops/copy/op.h"
#include "falconet/ops/dropout/op.h"
#include "falconet/ops/elementwise/op.h"
#include "falconet/ops/gemm/op.h"
#include "falconet/ops/loss/op.h"
#include "falconet/ops/pool/op.h"
#include "falconet/ops/softmax/op.h"

namespace falconet {
namespace {

// Networks are traced in f32, row-major; the compiler's passes choose types and layouts.
TensorType f32(Shape shape) { return {DType::f32, shape, Layout::nchw}; }

void want_image(Var x, std::string const& layer, char const* what, std::source_location at) {
  if (x.shape().rank() != 4)
    fail_in_layer(ErrorKind::shape, layer, std::string(what) + " wants an image N,C,H,W, x is " + x.shape().text(), at);
}

// Padding of one axis, {before, after}.
std::pair<int, int> resolve(Padding const& padding, int size, int kernel, int stride, int dilation, std::string const& layer, std::source_location at) {
  if (padding.kind == Padding::number) return {size, size};
  if (padding.kind == Padding::same && stride != 1) fail_in_layer(ErrorKind::shape, layer, "padding 'same' needs stride 1, not " + std::to_string(stride), at);
  auto const reach = std::int64_t(dilation) * (kernel - 1);
  if (reach > ConvProblem::most)
    fail_in_layer(ErrorKind::shape, layer, "a filter of " + std::to_string(kernel) + " taps dilated by " + std::to_string(dilation) + " spans " +
                  std::to_string(reach + 1) + " pixels; expected at most " + std::to_string(ConvProblem::most), at);
  int const all = int(reach);
  if (padding.kind == Padding::full) return {all, all};
  return {all / 2, all - all / 2};
}

}  // namespace

Padding::Padding(std::string_view name) {
  if (name == "same") kind = same;
  else if (name == "full") kind = full;
  else if (name != "valid") fail(ErrorKind::usage, "unknown padding '" + std::string(name) + "'; known: a number, {h, w}, valid, same, full");
}

Layer conv(std::string name, int out, Size2 kernel, ConvLayerOptions o, std::source_location at) {
  return [=](Var x) {
    Graph& g = x.graph();
    auto const layer = g.path(name);
    want_image(x, layer, "a convolution", at);
    auto const c = x.shape()[1];
    if (out < 1 || kernel.h < 1 || kernel.w < 1 || o.stride.h < 1 || o.stride.w < 1 || o.dilation.h < 1 || o.dilation.w < 1 || o.groups < 1)
      fail_in_layer(ErrorKind::shape, layer, "channels, filter, stride, dilation and groups are at least 1", at);
    if (c % o.groups || out % o.groups)
      fail_in_layer(ErrorKind::shape, layer, std::to_string(o.groups) + " groups do not divide " + std::to_string(c % o.groups ? c : out) +
                    (c % o.groups ? " input channels" : " output channels") + "; x is " + Shape{x.shape()[1], x.shape()[2], x.shape()[3]}.text(), at);
    auto const fan_in = Shape{c / o.groups, kernel.h, kernel.w}.elements(), fan_out = Shape{out, kernel.h, kernel.w}.elements();  // PyTorch's rule: whatever the groups
    auto [top, bottom] = resolve(o.padding, o.padding.size.h, kernel.h, o.stride.h, o.dilation.h, layer, at);
    auto [left, right] = resolve(o.padding, o.padding.size.w, kernel.w, o.stride.w, o.dilation.w, layer, at);
    g.push_scope(name);
    Var weight = g.parameter("weight", f32({out, c / o.groups, kernel.h, kernel.w}), {o.init, 0, fan_in, fan_out}, at);
    Var bias;
    if (o.bias) bias = g.parameter("bias", f32({out}), {o.bias_init, 0, fan_in, fan_out}, at);
    g.pop_scope();
    return conv2d(x, weight, bias, {{o.stride.h, o.stride.w}, {top, left, bottom, right}, {o.dilation.h, o.dilation.w}, o.groups}, layer, at);
  };
}

Layer linear(std::string name, int out, LinearOptions o, std::source_location at) {
  return [=](Var x) {
    Graph& g = x.graph();
    if (x.shape().rank() == 4) x = flatten({x, at});
    auto const layer = g.path(name);
    if (x.shape().rank() != 2) fail_in_layer(ErrorKind::shape, layer, "a linear layer wants N,C, x is " + x.shape().text(), at);
    auto const in = x.shape()[1];
    g.push_scope(name);
    Var weight = g.parameter("weight", f32({out, in}), {o.init, o.init_value, in, out}, at);
    Var bias;
    if (o.bias) bias = g.parameter("bias", f32({out}), {o.bias_init, 0, in, out}, at);
    g.pop_scope();
    return linear(x, weight, bias, layer, at);
  };
}

Layer batch_norm(std::string name, BatchNormOptions o, std::source_location at) {
  return [=](Var x) {
    Graph& g = x.graph();
    auto const layer = g.path(name);
    if (x.shape().rank() < 2) fail_in_layer(ErrorKind::shape, layer, "batch norm wants channels, x is " + x.shape().text(), at);
    auto const c = x.shape()[1];
    g.push_scope(name);
    Var gamma = g.parameter("weight", f32({c}), {Init::constant, 1.0}, at);
    Var beta = g.parameter("bias", f32({c}), {Init::constant, 0.0}, at);
    Var mean = g.state("running_mean", f32({c}), {Init::constant, 0.0}, at);
    Var var = g.state("running_var", f32({c}), {Init::constant, 1.0}, at);
    g.pop_scope();
    return batch_norm(x, gamma, beta, mean, var, g.training ? g.step() : Var{}, g.training, o.eps, o.momentum, layer, at);
  };
}

namespace {
PoolOptions pool_options(Size2 window, PoolLayerOptions const& o) {
  PoolOptions p;
  p.window = {window.h, window.w};
  p.stride = {o.stride.h ? o.stride.h : window.h, o.stride.w ? o.stride.w : window.w};
  p.padding = {o.padding.h, o.padding.w, o.padding.h, o.padding.w};
  p.ceil_mode = o.ceil_mode;
  p.count_include_pad = o.count_include_pad;
  return p;
}
}  // namespace

Layer max_pool(Size2 window, PoolLayerOptions o, std::source_location at) {
  return [=](Var x) {
    auto const layer = x.graph().numbered("max_pool");
    want_image(x, layer, "max-pooling", at);
    return max_pool(x, pool_options(window, o), layer, at);
  };
}
Layer avg_pool(Size2 window, PoolLayerOptions o, std::source_location at) {
  return [=](Var x) {
    auto const layer = x.graph().numbered("avg_pool");
    want_image(x, layer, "average pooling", at);
    return avg_pool(x, pool_options(window, o), layer, at);
  };
}
Layer adaptive_avg_pool(Size2 size, std::source_location at) {
  return [=](Var x) {
    auto const layer = x.graph().numbered("adaptive_avg_pool");
    want_image(x, layer, "adaptive average pooling", at);
    auto const h = x.shape()[2], w = x.shape()[3];
    if (size.h < 1 || size.w < 1 || h % size.h || w % size.w)
      fail_in_layer(ErrorKind::shape, layer, "images of " + Shape{h, w}.text() + " have no equal windows for means of " + Shape{size.h, size.w}.text() +
                    ": expected multiples of these", at);
    if (h == size.h && w == size.w) return x;
    return avg_pool(x, pool_options({int(h / size.h), int(w / size.w)}, {}), layer, at);
  };
}

namespace plain {
using At = std::source_location;
Var global_avg_pool(Var x, At at) {
  auto const layer = x.graph().numbered("global_avg_pool");
  want_image(x, layer, "global average pooling", at);
  return global_average(x, layer, at);
}
Var flatten(Var x, At at) { return x.shape().rank() == 2 ? x : flatten_rows(x, x.graph().numbered("flatten"), at); }
Var relu(Var x, At at) { return activation(Activation::relu, x, 0.01, {}, at); }
Var relu6(Var x, At at) { return activation(Activation::relu6, x, 0.01, {}, at); }
Var gelu(Var x, At at) { return activation(Activation::gelu, x, 0.01, {}, at); }
Var silu(Var x, At at) { return activation(Activation::silu, x, 0.01, {}, at); }
Var sigmoid(Var x, At at) { return activation(Activation::sigmoid, x, 0.01, {}, at); }
Var tanh(Var x, At at) { return activation(Activation::tanh, x, 0.01, {}, at); }
Var softmax(Var x, At at) { return channel_softmax(x, x.graph().numbered("softmax"), at); }
}  // namespace plain

Layer leaky_relu(double negative_slope, std::source_location at) {
  return [=](Var x) { return activation(Activation::leaky_relu, x, negative_slope, {}, at); };
}

Layer dropout(double p, std::string name, std::source_location at) {
  if (!(p >= 0 && p < 1)) fail(ErrorKind::usage, "the probability of dropout lies in [0, 1), not " + std::to_string(p), at);
  return [=](Var x) {
    Graph& g = x.graph();
    auto const layer = name.empty() ? g.numbered("dropout") : g.path(name);
    if (!g.training || p == 0) return x;
    return dropout(x, g.step(), p, hash(layer), layer, at);
  };
}

Var operator+(VarAt a, Var b) { return add(a.var, b, {}, a.at); }
Var operator*(VarAt a, Var b) { return multiply(a.var, b, {}, a.at); }
Var concat(std::initializer_list<Var> parts, std::source_location at) {
  return concat(std::span(parts.begin(), parts.size()), parts.begin()->graph().numbered("concat"), at);
}
Layer concat(std::vector<Layer> branches, std::source_location at) {
  return [=](Var x) {
    std::vector<Var> parts;
    for (auto const& b : branches) parts.push_back(b(x));
    return concat(std::span<Var const>(parts), x.graph().numbered("concat"), at);
  };
}

LossFunction cross_entropy(CrossEntropyOptions o) {
  return {"cross_entropy", true, [o](Var output, Var target) {
            auto r = cross_entropy(output, target, output.graph().step(), o.label_smoothing);
            return LossOutputs{r.loss, r.correct};
          }};
}
LossFunction mse() {
  return {"mse", false, [](Var output, Var target) { return LossOutputs{mse(output, target, output.graph().step()), {}}; }};
}
LossFunction binary_cross_entropy_with_logits() {
  return {"binary_cross_entropy_with_logits", false, [](Var output, Var target) {
            return LossOutputs{binary_cross_entropy_with_logits(output, target, output.graph().step()), {}};
          }};
}

}  // namespace falconet
