// Inference plans: batch norm folded into filters, what depends on parameters alone computed once for each version of them, filters packed once;
// the same results as unfolded plans to rounding, whoever changes the parameters and from however many threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <thread>

#include "falconet/base/random.h"
#include "falconet/nn/layers.h"
#include "falconet/nn/models.h"
#include "falconet/plan/step.h"
#include "falconet/tensor/element.h"

namespace falconet {
namespace {

ImageSpec spec_of(Shape image, int classes) {
  auto const c = std::size_t(image[0]);
  return {image, std::vector<float>(c, 0.5f), std::vector<float>(c, 0.25f), std::vector<std::string>(std::size_t(classes), "class")};
}
Layer part(char const* name, char const* norm, int out, int side, int stride, int groups = 1, bool bias = false) {
  return conv(name, out, side, {.stride = stride, .padding = side / 2, .groups = groups, .bias = bias}) | batch_norm(norm);
}
// Everything that folds: a stem behind a pool, bottlenecks with strides and skips, an inverted residual with relu6, convolutions with biases and
// groups, channels that fill no vector, batch norm behind a linear layer; and one that must not: batch norm of a value that is read twice.
Layer all_kinds() {
  auto const bottleneck = [](int width, int stride) -> Layer {
    return [=](Var x) {
      Var y = x | part("conv1", "bn1", width, 1, 1) | relu | part("conv2", "bn2", width, 3, stride) | relu | part("conv3", "bn3", 4 * width, 1, 1);
      Var skip = y.shape() == x.shape() ? x : x | scope("downsample", part("0", "1", 4 * width, 1, stride));
      return relu(y + skip);
    };
  };
  Layer const inverted = [](Var x) { return x + (x | part("expand", "bn1", 96, 1, 1) | relu6 | part("depth", "bn2", 96, 3, 1, 96) | relu6 | part("project", "bn3", 64, 1, 1)); };
  Layer const twice = [](Var x) {
    Var y = x | conv("conv", 23, 3, {.padding = 1});
    return (y | batch_norm("bn")) + y;
  };
  return part("conv1", "bn1", 24, 7, 2) | relu | max_pool(2) | stage("layer1", {bottleneck(16, 1), bottleneck(16, 1), bottleneck(40, 2)}) |
         part("squeeze", "bn2", 64, 1, 1, 4, true) | scope("inverted", inverted) | scope("twice", twice) | leaky_relu(0.1) | global_avg_pool | linear("fc1", 33) |
         batch_norm("bn3") | relu | linear("fc2", 10);
}

// Values as after training: no scale of one, no mean of zero.
void unsettle(Model& model, std::uint64_t seed) {
  for (auto& e : model.parameters()->entries()) {
    if (e.tensor.shape().rank() != 1) continue;
    bool const variance = e.name.ends_with("running_var"), scale = e.name.ends_with("weight");
    for (std::int64_t i = 0; i < e.tensor.shape().elements(); ++i) {
      double const z = normals(draw(random_key(seed, hash(e.name)), 0, std::uint64_t(i)))[0];
      store_element(e.tensor.view(), i, variance ? 0.3 + z * z : scale ? 1 + 0.3 * z : 0.3 * z);
    }
  }
}
void fill(View images, std::uint64_t seed) {
  for (std::int64_t i = 0; i < images.type.shape.elements(); ++i) store_element(images, i, normals(draw(random_key(seed, 1), 0, std::uint64_t(i)))[0]);
}
std::vector<double> output_of(InferenceStep& step, std::uint64_t seed = 5) {
  fill(step.images(), seed);
  step.run();
  std::vector<double> out;
  for (std::int64_t i = 0; i < step.output().type.shape.elements(); ++i) out.push_back(load_element(step.output(), i));
  return out;
}
std::vector<double> output_of(Model& model, StepOptions o) {
  InferenceStep step(model, o);
  return output_of(step);
}
// The largest difference, in units of the root mean square.
double distance(std::vector<double> const& a, std::vector<double> const& b) {
  double square = 0, most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) square += a[i] * a[i], most = std::max(most, std::abs(a[i] - b[i]));
  return most / std::sqrt(square / double(a.size()));
}
std::unique_ptr<Model> model_of(int threads = 1) {
  auto model = std::make_unique<Model>(spec_of({3, 44, 40}, 10), all_kinds(), ModelOptions{.device = "cpu", .seed = 3, .threads = threads});
  unsettle(*model, 7);
  return model;
}

TEST(Inference, a_folded_plan_agrees_with_an_unfolded_one) {
  for (auto [precision, bound] : {std::pair{DType::f32, 2e-5}, {DType::f64, 1e-12}, {DType::bf16, 6e-2}})
    for (int batch : {1, 3})
      for (bool every_rule : {false, true}) {
        auto const model = model_of();
        StepOptions o{.batch = batch, .precision = precision};
        o.fuse = false;
        auto const plain = output_of(*model, o);
        o.fuse = true;
        o.fuse_baselines = every_rule;
        auto const folded = output_of(*model, o);
        EXPECT_LT(distance(plain, folded), bound) << name(precision) << ", batch " << batch << (every_rule ? ", every fusion" : "");
      }
}

TEST(Inference, networks_agree_with_their_unfolded_plans) {
  for (auto name : {"resnet20", "mnist_cnn", "resnet_mini"}) {
    auto const& d = models::find(name);
    Model model(spec_of(d.image, d.classes), d.make(d.classes), {.device = "cpu", .seed = 1, .threads = 2});
    unsettle(model, 9);
    StepOptions o{.batch = 2};
    o.fuse = false;
    auto const plain = output_of(model, o);
    o.fuse = true;
    EXPECT_LT(distance(plain, output_of(model, o)), 5e-5) << name;
  }
}

// One launch a convolution: nothing of batch norm, of a skip or of an activation is left between them.
TEST(Inference, batch_norm_skips_and_activations_leave_the_step) {
  auto const& d = models::find("resnet20");
  Model model(spec_of(d.image, d.classes), d.make(d.classes), {.device = "cpu", .threads = 1});
  InferenceStep step(model, {.batch = 1});
  auto const& plan = step.session().plan();
  int folded = 0, packed = 0;
  for (auto const& l : plan.prepare) folded += l.problem.starts_with("function=fold"), packed += l.packs;
  EXPECT_EQ(folded, 21);
  EXPECT_EQ(packed, 21);
  for (auto const& l : plan.step) {
    EXPECT_NE(l.op, "batch_norm") << l.layer;
    EXPECT_NE(l.op, "elementwise") << l.layer;
    if (l.op == "conv") {
      EXPECT_GT(l.prepared_bytes, 0) << l.layer;
    }
  }
  EXPECT_EQ(Plan::parse(plan.text()), plan);
}

TEST(Inference, a_plan_that_trains_prepares_nothing) {
  auto const model = model_of();
  TrainStep step(*model, {.batch = 2}, cross_entropy(), OptimizerOptions{});
  EXPECT_TRUE(step.session().plan().prepare.empty());
  for (auto const& l : step.session().plan().step) EXPECT_EQ(l.prepared_bytes, 0) << l.layer;
}

// Whoever changes the parameters, the next prediction is that of a step that has just been made.
TEST(Inference, what_is_folded_is_renewed_when_parameters_change) {
  for (auto precision : {DType::f32, DType::bf16}) {
    auto const model = model_of(2);
    StepOptions const o{.batch = 2, .precision = precision};
    InferenceStep old(*model, o);
    auto const first = output_of(old);
    EXPECT_EQ(first, output_of(old));

    TrainStep train(*model, {.batch = 4, .precision = precision}, cross_entropy(), OptimizerOptions{});
    fill(train.images(), 3);
    for (int i = 0; i < 4; ++i) train.targets().as<std::int32_t>()[i] = i;
    train.state().learning_rate = 0.05f;
    for (int i = 0; i < 3; ++i) {
      train.run();
      auto const now = output_of(old);
      EXPECT_EQ(now, output_of(*model, o)) << "after training step " << i + 1;
      EXPECT_NE(now, first);
    }
    // As a loader of weights does it; a statistic, then a filter, then a filter that is packed without folding.
    for (auto key : {"bn1.running_var", "layer1.2.conv2.weight", "fc2.weight"}) {
      auto const before = output_of(old);
      auto* entry = model->parameters()->find(key);
      for (std::int64_t i = 0; i < entry->tensor.shape().elements(); ++i) store_element(entry->tensor.view(), i, 1.5 * load_element(entry->tensor.view(), i) + 0.01);
      auto const now = output_of(old);
      EXPECT_EQ(now, output_of(*model, o)) << key;
      EXPECT_NE(now, before) << key;
    }
  }
}

TEST(Inference, threads_that_share_parameters_predict_the_same) {
  auto const model = model_of();
  auto const expected = output_of(*model, {.batch = 2});
  std::vector<std::vector<double>> got(4);
  std::vector<std::thread> threads;
  std::vector<std::unique_ptr<InferenceStep>> steps;
  for (std::size_t i = 0; i < got.size(); ++i) steps.push_back(std::make_unique<InferenceStep>(*model, StepOptions{.batch = 2}, std::make_shared<ThreadPool>(1)));
  for (std::size_t i = 0; i < got.size(); ++i)
    threads.emplace_back([&, i] {
      for (int again = 0; again < 5; ++again) got[i] = output_of(*steps[i]);
    });
  for (auto& t : threads) t.join();
  for (auto const& g : got) EXPECT_EQ(g, expected);
}

TEST(Inference, results_do_not_depend_on_the_number_of_threads) {
  std::vector<std::vector<double>> got;
  for (int threads : {1, 2, 3}) got.push_back(output_of(*model_of(threads), {.batch = 3}));
  EXPECT_EQ(got[0], got[1]);
  EXPECT_EQ(got[0], got[2]);
}

}  // namespace
}  // namespace falconet
