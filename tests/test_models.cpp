// torchvision's networks are torchvision's: parameters, keys, initial weights and logits (tools/record_pytorch.py), and they train.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "falconet/base/error.h"
#include "falconet/nn/models.h"
#include "falconet/plan/step.h"
#include "hashed_data.h"
#include "sanitized.h"

namespace falconet {
namespace {

nlohmann::json const& recorded() {
  static nlohmann::json const json = nlohmann::json::parse(std::ifstream(std::string(FALCONET_SOURCE_DIR) + "/tests/golden/torchvision.json"));
  return json;
}

ImageSpec spec_of(std::string const& name, int image) {
  ImageSpec spec = models::find(name).spec(10);
  spec.image = Shape{3, image, image};
  return spec;
}

// Parameters and states by key, of the network traced for one image, without memory for them.
std::map<std::string, Value> values_of(std::string const& name, int classes, int image = 224) {
  Graph graph;
  graph.training = true;
  Var const y = models::find(name).make(classes)(graph.input("images", {DType::f32, Shape{1, 3, image, image}, Layout::nchw}));
  EXPECT_EQ(y.shape(), (Shape{1, classes}));
  std::map<std::string, Value> out;
  for (auto const& v : graph.values)
    if (v.from < 0 && (v.role == Role::parameter || v.role == Role::state)) out[v.name] = v;
  return out;
}

struct Moments {
  double mean = 0, deviation = 0;
};
Moments start_of(Value const& v) {
  Tensor t({DType::f32, v.type.shape, Layout::nchw});
  initialise(t, v.init, 1, v.name);
  auto const n = v.type.shape.elements();
  Moments m;
  for (std::int64_t i = 0; i < n; ++i) m.mean += t.as<float>()[i] / double(n);
  for (std::int64_t i = 0; i < n; ++i) m.deviation += std::pow(t.as<float>()[i] - m.mean, 2) / double(n);
  m.deviation = std::sqrt(m.deviation);
  return m;
}

class Torchvision : public testing::TestWithParam<char const*> {};

TEST_P(Torchvision, has_the_parameters_and_keys_of_torchvision) {
  auto const& r = recorded().at(GetParam());
  std::int64_t parameters = 0;
  std::string keys;
  for (auto const& [name, v] : values_of(GetParam(), 1000)) {
    if (v.role == Role::parameter) parameters += v.type.shape.elements();
    keys += name + " " + v.type.shape.text() + "\n";
  }
  EXPECT_EQ(parameters, r.at("parameters").get<std::int64_t>());
  EXPECT_EQ(hashed::key(keys), r.at("keys").get<std::uint64_t>()) << keys;
}

TEST_P(Torchvision, gives_the_logits_of_pytorch_within_1e_4_of_the_largest) {
  auto const& r = recorded().at(GetParam());
  Model model(spec_of(GetParam(), r.at("image").get<int>()), models::find(GetParam()).make(10), {.device = "cpu"});
  hashed::fill_trained(*model.parameters());
  InferenceStep step(model, {.batch = r.at("batch").get<int>()});
  hashed::fill(step.images(), "images", std::sqrt(3.0));
  step.run();
  auto const truth = r.at("logits").get<std::vector<double>>();
  View const y = step.output();
  ASSERT_EQ(std::size_t(y.type.shape.elements()), truth.size());
  double largest = 0, worst = 0;
  for (std::size_t i = 0; i < truth.size(); ++i) {
    largest = std::max(largest, std::abs(truth[i]));
    double const off = std::abs(load_element(y, position(y.type, std::int64_t(i))) - truth[i]);
    worst = off <= worst ? worst : off;
  }
  RecordProperty("off", std::to_string(worst / largest));
  EXPECT_LE(worst, 1e-4 * largest);
}

TEST(Models, start_with_the_spread_of_torchvision) {
  auto const expect = [](std::string const& model, std::string const& key, double deviation, double mean = 0) {
    auto const m = start_of(values_of(model, 1000).at(key));
    EXPECT_NEAR(m.deviation, deviation, 0.05 * deviation + 1e-12) << model << " " << key;
    EXPECT_NEAR(m.mean, mean, 0.05 * std::max(deviation, 0.01)) << model << " " << key;
  };
  expect("resnet18", "layer1.0.conv2.weight", std::sqrt(2.0 / (64 * 9)));        // torch: kaiming_normal_, fan_out
  expect("resnet50", "layer2.0.downsample.0.weight", std::sqrt(2.0 / 512));
  expect("resnet50", "fc.weight", 1 / std::sqrt(3.0 * 2048));                    // U(-1 / sqrt(in), 1 / sqrt(in))
  expect("vgg16", "features.10.weight", std::sqrt(2.0 / (256 * 9)));
  expect("vgg16", "features.10.bias", 0);
  expect("vgg16", "classifier.6.weight", 0.01);
  expect("vgg16", "classifier.6.bias", 0);
  expect("mobilenet_v2", "features.14.conv.1.0.weight", std::sqrt(2.0 / (576 * 9)));   // fan_out whatever the groups
  expect("mobilenet_v2", "classifier.1.weight", 0.01);
  expect("mobilenet_v2", "features.2.conv.3.weight", 0, 1);
}

TEST_P(Torchvision, learns_a_small_batch) {
  std::string const name = GetParam();
  bool const vgg = name == "vgg16";                    // without batch norm and with much dropout: slower, and no smaller images
  Model model(spec_of(name, recorded().at(name).at("image").get<int>()), models::find(name).make(10), {.device = "cpu", .seed = 1});
  OptimizerOptions sgd;
  sgd.momentum = 0.9;
  TrainStep step(model, {.batch = vgg ? 2 : 4}, cross_entropy(), sgd);
  hashed::fill_batch(step.images(), step.targets(), 0, 10);
  step.state().learning_rate = name == "resnet50" ? 0.002f : 0.02f;
  double const first = step.run();
  double last = first;
  for (int i = 0; i < (sanitized ? 1 : vgg ? 3 : 11); ++i) last = step.run();
  if (!sanitized) {
    EXPECT_LT(last, (vgg ? 1.0 : 0.5) * first);
  }
  EXPECT_NEAR(first, std::log(10.0), 1.5);
}

INSTANTIATE_TEST_SUITE_P(of, Torchvision, testing::Values("resnet18", "resnet34", "resnet50", "vgg16", "mobilenet_v2"),
                         [](auto const& info) { return std::string(info.param); });

TEST(Models, of_bottlenecks_train_as_in_pytorch) {
  auto const& r = recorded().at("resnet50");
  Model model(spec_of("resnet50", 64), models::find("resnet50").make(10), {.device = "cpu"});
  OptimizerOptions sgd;
  sgd.momentum = 0.9;
  TrainStep step(model, {.batch = 4, .precision = DType::f64}, cross_entropy(), sgd);
  hashed::fill(*model.parameters());
  step.state().learning_rate = 0.01f;
  std::uint64_t at = 0;
  for (double truth : r.at("losses").get<std::vector<double>>()) {
    hashed::fill_batch(step.images(), step.targets(), at++, 10);
    EXPECT_NEAR(step.run(), truth, 1e-8) << "step " << at;
  }
}

TEST(Models, vgg16_says_which_images_it_takes) {
  EXPECT_EQ(values_of("vgg16", 5, 448).size(), values_of("vgg16", 5).size());
  try {
    values_of("vgg16", 10, 64);
    ADD_FAILURE() << "images of 64x64 were taken";
  } catch (Error const& e) {
    EXPECT_NE(std::string(e.what()).find("adaptive_avg_pool: images of 2x2"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace falconet
