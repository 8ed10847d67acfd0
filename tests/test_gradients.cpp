// Every gradient agrees with central differences in f64: whole networks are traced, differentiated, compiled and run, and each
// parameter is moved by a small step up and down.
#include <gtest/gtest.h>

#include <cmath>

#include "falconet/base/random.h"
#include "falconet/nn/layers.h"
#include "falconet/nn/models.h"
#include "falconet/plan/step.h"
#include "sanitized.h"

namespace falconet {
namespace {

struct Case {
  char const* name;
  Shape image;
  int classes;
  Layer net;
  LossFunction loss = cross_entropy();
  bool fuse = true;
  int valid = 3;
};

void PrintTo(Case const& c, std::ostream* out) { *out << c.name; }

// Each network as it is fused for speed, and with every fusion that the reference runs.
class Gradients : public testing::TestWithParam<std::tuple<Case, bool>> {};

double& element(View v, std::int64_t i) { return v.as<double>()[i]; }

TEST_P(Gradients, agree_with_central_differences) {
  Case const& c = std::get<0>(GetParam());
  ImageSpec spec{c.image, std::vector<float>(std::size_t(c.image[0]), 0.f), std::vector<float>(std::size_t(c.image[0]), 1.f),
                 std::vector<std::string>(std::size_t(c.classes), "class")};
  Model model(spec, c.net, {.device = "cpu", .seed = 7, .threads = 1});
  StepOptions options;
  options.batch = 3;
  options.precision = DType::f64;
  options.fuse = c.fuse;
  options.fuse_baselines = std::get<1>(GetParam());
  Graph graph;
  CompileContext context;
  trace_training(graph, context, model, options, c.loss, {});
  context.optimizer.reset();                               // gradients stay outputs, nothing is updated
  model.parameters()->convert(DType::f64);
  Plan plan = compile(graph, context);
  model.parameters()->adopt(graph);
  Session session(plan, model.parameters(), model.threads());

  View images = session.input("images"), targets = session.input("targets");
  for (std::int64_t i = 0; i < images.type.shape.elements(); ++i) element(images, i) = normals(draw(random_key(1, 1), 0, std::uint64_t(i)))[0];
  for (std::int64_t i = 0; i < targets.type.shape.elements(); ++i) {
    if (c.loss.labels) targets.as<std::int32_t>()[i] = int(i % c.classes);
    else element(targets, i) = uniform(draw(random_key(1, 2), 0, std::uint64_t(i)).word[0]);
  }
  // Zero-initialised vectors would hide wrong gradients behind them.
  for (auto& e : model.parameters()->entries())
    for (std::int64_t i = 0; i < e.tensor.shape().elements(); ++i)
      element(e.tensor.view(), i) += 0.1 * normals(draw(random_key(3, hash(e.name)), 0, std::uint64_t(i)))[0] + (e.name.ends_with("running_var") ? 1.0 : 0.0);
  session.state().seed = 5;
  session.state().valid_count = c.valid;
  auto loss = [&] {
    std::vector<Tensor> states;                            // running statistics move with each step: put them back
    for (auto& e : model.parameters()->entries()) states.push_back(e.tensor.copy());
    session.step();
    for (std::size_t i = 0; i < states.size(); ++i)
      if (auto& e = model.parameters()->entries()[i]; e.role == Role::state) convert(states[i].view(), e.tensor.view());
    return *session.output("loss").as<double>();
  };
  loss();
  std::map<std::string, Tensor> analytic;
  for (auto const& out : plan.outputs)
    if (out.name.starts_with("gradient:")) {
      Tensor t(out.slot.type);
      convert(session.output(out.name), t.view());
      analytic[out.name.substr(9)] = std::move(t);
    }
  int checked = 0;
  int const tested = sanitized ? 1 : c.image.elements() > 500 ? 3 : 8;      // elements of each parameter
  for (auto& e : model.parameters()->entries()) {
    if (e.role != Role::parameter) continue;
    ASSERT_TRUE(analytic.contains(e.name)) << e.name << " has no gradient";
    auto const n = e.tensor.shape().elements();
    ASSERT_EQ(analytic[e.name].type(), e.tensor.type()) << e.name;
    for (std::int64_t k = 0; k < std::min<std::int64_t>(n, tested); ++k) {
      auto const i = n <= tested ? k : std::int64_t(bounded(wide_bits(draw(random_key(9, hash(e.name)), 0, std::uint64_t(k)).word[0], std::uint32_t(k) * 2654435761u), std::uint32_t(n)));
      double& w = element(e.tensor.view(), i);
      double const old = w, exact = element(analytic[e.name].view(), i);
      double numeric = 0;
      // A large network has some ReLU or maximum near its corner; a step that crosses it says nothing, a smaller one may not.
      for (double h : {1e-6, 1e-8}) {
        w = old + h;
        double const up = loss();
        w = old - h;
        double const down = loss();
        w = old;
        numeric = (up - down) / (2 * h);
        if (std::abs(exact - numeric) <= 1e-6 * std::max(1.0, std::abs(numeric))) break;
      }
      EXPECT_NEAR(exact, numeric, 1e-6 * std::max(1.0, std::abs(numeric))) << e.name << "[" << i << "]";
      ++checked;
    }
  }
  EXPECT_GT(checked, 0);
}

Layer head(Layer body) { return body | flatten | linear("fc", 4); }
Layer residual(Layer body) {
  return [=](Var x) { return relu(body(x) + x); };
}

INSTANTIATE_TEST_SUITE_P(
    networks, Gradients,
    testing::Combine(testing::Values(
        Case{"conv", {2, 6, 5}, 4, head(conv("conv", 3, 3))},
        Case{"conv_all_options", {4, 9, 8}, 4, head(conv("conv", 6, {3, 2}, {.stride = {2, 1}, .padding = {2, 1}, .dilation = {1, 2}, .groups = 2}))},
        Case{"conv_same", {2, 6, 6}, 4, head(conv("conv", 3, {4, 3}, {.padding = "same", .bias = false}))},
        Case{"conv_full", {2, 4, 4}, 4, head(conv("conv", 3, 3, {.padding = "full"}))},
        // Behind another layer, so that there is a data gradient.
        Case{"conv_all_options_inside", {2, 9, 8}, 4, head(conv("a", 4, 1) | conv("conv", 6, {3, 2}, {.stride = {2, 1}, .padding = {2, 1}, .dilation = {1, 2}, .groups = 2}))},
        Case{"conv_stride_inside", {2, 8, 7}, 4, head(conv("a", 3, 1) | conv("conv", 4, 3, {.stride = {3, 2}, .padding = 1}))},
        Case{"conv_dilation_inside", {2, 8, 7}, 4, head(conv("a", 3, 1) | conv("conv", 4, {2, 3}, {.padding = {0, 2}, .dilation = {3, 2}}))},
        Case{"conv_stride_and_dilation_inside", {2, 9, 9}, 4, head(conv("a", 3, 1) | conv("conv", 4, 3, {.stride = 2, .padding = 2, .dilation = 3}))},
        Case{"conv_groups_inside", {2, 6, 6}, 4, head(conv("a", 6, 1) | conv("conv", 9, 3, {.padding = 1, .groups = 3}))},
        Case{"conv_depthwise_inside", {2, 6, 6}, 4, head(conv("a", 4, 1) | conv("conv", 4, 3, {.stride = 2, .padding = 1, .groups = 4}))},
        Case{"conv_same_inside", {2, 6, 6}, 4, head(conv("a", 3, 1) | conv("conv", 3, {4, 3}, {.padding = "same", .dilation = {1, 2}, .bias = false}))},
        Case{"conv_full_inside", {2, 4, 4}, 4, head(conv("a", 3, 1) | conv("conv", 3, 3, {.padding = "full"}))},
        Case{"two_convs", {1, 8, 8}, 4, head(conv("a", 3, 3) | relu | conv("b", 4, 3) | relu)},
        Case{"conv_relu_max_pool", {2, 8, 8}, 4, head(conv("a", 3, 3) | relu | conv("b", 4, 3, {.padding = 1}) | relu | max_pool(2))},
        Case{"conv_relu_avg_pool", {2, 8, 8}, 4, head(conv("a", 3, 3) | relu | conv("b", 4, 3, {.padding = 1}) | relu | avg_pool(2))},
        Case{"conv_relu_max_pool_unfused", {2, 8, 8}, 4, head(conv("a", 3, 3) | relu | conv("b", 4, 3, {.padding = 1}) | relu | max_pool(2)), cross_entropy(), false},
        Case{"batch_norm_relu_max_pool", {2, 9, 9}, 4, head(conv("a", 3, 3, {.bias = false}) | batch_norm("bn") | relu | max_pool(3, {.stride = 2, .padding = 1}))},
        Case{"conv_relu_overlapping_max_pool", {2, 9, 9}, 4, head(conv("a", 3, 3) | relu | max_pool(3, {.stride = 2, .padding = 1}))},
        Case{"overlapping_max_pool", {2, 9, 9}, 4, head(conv("a", 3, 3) | max_pool(3, {.stride = 2, .padding = 1}))},
        Case{"ceil_avg_pool", {2, 8, 8}, 4, head(conv("a", 3, 3) | avg_pool(3, {.stride = 2, .ceil_mode = true, .count_include_pad = false}))},
        Case{"global_avg_pool", {2, 6, 6}, 4, conv("a", 5, 3) | global_avg_pool | linear("fc", 4)},
        Case{"linear", {3, 2, 2}, 4, linear("a", 6) | relu | linear("b", 4)},
        Case{"batch_norm", {2, 5, 5}, 4, head(conv("a", 3, 3, {.bias = false}) | batch_norm("bn"))},
        Case{"batch_norm_relu", {2, 5, 5}, 4, head(conv("a", 3, 3, {.bias = false}) | batch_norm("bn") | relu | conv("b", 3, 1) | batch_norm("bn2") | relu)},
        Case{"batch_norm_relu_unfused", {2, 5, 5}, 4, head(conv("a", 3, 3, {.bias = false}) | batch_norm("bn") | relu), cross_entropy(), false},
        Case{"batch_norm_1d", {2, 3, 3}, 4, linear("a", 6) | batch_norm("bn") | relu | linear("b", 4)},
        Case{"batch_norm_partial_batch", {2, 5, 5}, 4, head(conv("a", 3, 3, {.bias = false}) | batch_norm("bn") | relu | conv("b", 2, 2)), cross_entropy(), true, 2},
        Case{"residual", {3, 6, 6}, 4, head(conv("a", 3, 3, {.padding = 1}) | relu | residual(conv("b", 3, 3, {.padding = 1}) | relu | conv("c", 3, 3, {.padding = 1})))},
        Case{"residual_batch_norm", {3, 6, 6}, 4,
             head(conv("a", 4, 3, {.padding = 1}) | relu | residual(conv("b", 4, 3, {.padding = 1, .bias = false}) | batch_norm("bn1") | relu | conv("c", 4, 3, {.padding = 1, .bias = false}) | batch_norm("bn2")) |
                  residual(conv("d", 4, 3, {.padding = 1, .bias = false}) | batch_norm("bn3")))},
        Case{"leaky_relu", {2, 5, 5}, 4, head(conv("a", 3, 3) | leaky_relu(0.2))}, Case{"relu6", {2, 5, 5}, 4, head(conv("a", 3, 3) | relu6)},
        Case{"inverted_residual", {2, 7, 6}, 4,
             head(conv("a", 6, 1, {.bias = false}) | batch_norm("bn1") | relu6 | conv("b", 6, 3, {.stride = 2, .padding = 1, .groups = 6, .bias = false}) | batch_norm("bn2") |
                  relu6 | conv("c", 3, 1, {.bias = false}) | batch_norm("bn3"))},
        Case{"gelu", {2, 5, 5}, 4, head(conv("a", 3, 3) | gelu)}, Case{"silu", {2, 5, 5}, 4, head(conv("a", 3, 3) | silu)},
        Case{"sigmoid", {2, 5, 5}, 4, head(conv("a", 3, 3) | sigmoid)}, Case{"tanh", {2, 5, 5}, 4, head(conv("a", 3, 3) | falconet::tanh)},
        Case{"dropout", {2, 5, 5}, 4, head(conv("a", 3, 3) | dropout(0.4))},
        Case{"concat", {2, 5, 5}, 4, head(concat({conv("a", 3, 3, {.padding = 1}), conv("b", 2, 1), Layer{}}))},
        Case{"multiply", {2, 5, 5}, 4, head([](Var x) { return (x | conv("a", 3, 3)) * (x | conv("b", 3, 3) | sigmoid); })},
        Case{"squeeze_and_excitation", {2, 5, 5}, 4, head([](Var x) {
               Var y = x | conv("a", 3, 3);
               return y * (y | global_avg_pool | conv("s", 3, 1) | sigmoid);
             })},
        Case{"softmax", {2, 4, 4}, 4, linear("a", 5) | softmax | linear("b", 4)},
        Case{"label_smoothing", {2, 4, 4}, 4, linear("a", 4), cross_entropy({.label_smoothing = 0.1})},
        Case{"mse", {2, 4, 4}, 4, linear("a", 5) | falconet::tanh | linear("b", 4), mse()},
        Case{"binary_cross_entropy", {2, 4, 4}, 4, linear("a", 5) | relu | linear("b", 4), binary_cross_entropy_with_logits()},
        Case{"partial_batch", {2, 4, 4}, 4, head(conv("a", 3, 3) | relu), cross_entropy(), true, 2}, Case{"mnist_cnn", {1, 28, 28}, 10, models::mnist_cnn(10)},
        Case{"lenet5", {1, 28, 28}, 10, models::lenet5(10)}, Case{"resnet_mini", {3, 16, 16}, 10, models::resnet_mini(10)},
        Case{"resnet8", {3, 16, 16}, 10, models::resnet_cifar(8, 10)}), testing::Bool()),
    [](auto const& info) { return std::string(std::get<0>(info.param).name) + (std::get<1>(info.param) ? "_all_fusions" : ""); });

}  // namespace
}  // namespace falconet
