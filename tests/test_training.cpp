// Whole networks learn exactly as in PyTorch: 100 losses from the same weights and batches (tools/record_pytorch.py).
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "falconet/nn/models.h"
#include "falconet/plan/step.h"
#include "falconet/train/schedule.h"
#include "error_text.h"
#include "hashed_data.h"
#include "sanitized.h"

namespace falconet {
namespace {

constexpr std::size_t steps = sanitized ? 10 : 100;

nlohmann::json const& recorded() {
  static nlohmann::json const json = nlohmann::json::parse(std::ifstream(std::string(FALCONET_SOURCE_DIR) + "/tests/golden/pytorch_losses.json"));
  return json;
}

std::vector<double> train(std::string const& name, DType precision, bool fuse = true) {
  auto const& r = recorded().at(name);
  auto const& d = models::find(name);
  auto const channels = std::size_t(d.image[0]);
  Model model({d.image, std::vector<float>(channels, 0.f), std::vector<float>(channels, 1.f), std::vector<std::string>(10, "class")}, d.make(10), {.device = "cpu"});
  StepOptions options;
  options.batch = r.at("batch").get<int>();
  options.precision = precision;
  options.fuse = fuse;
  OptimizerOptions sgd;
  sgd.momentum = recorded().at("momentum").get<double>();
  TrainStep step(model, options, cross_entropy(), sgd);
  hashed::fill(*model.parameters());
  step.state().learning_rate = recorded().at("learning_rate").get<float>();
  std::vector<double> losses;
  for (std::uint64_t s = 0; s < steps; ++s) {
    hashed::fill_batch(step.images(), step.targets(), s, 10);
    losses.push_back(step.run());
  }
  return losses;
}

std::vector<double> pytorch(std::string const& name, std::string const& precision) { return recorded().at(name).at(precision).get<std::vector<double>>(); }

double tail_mean(std::vector<double> const& a) {
  double sum = 0;
  for (std::size_t i = 80; i < 100; ++i) sum += a[i];
  return sum / 20;
}

class Training : public testing::TestWithParam<char const*> {};

TEST_P(Training, in_f64_gives_the_100_losses_of_pytorch_within_1e_8) {
  auto const ours = train(GetParam(), DType::f64), theirs = pytorch(GetParam(), "f64");
  for (std::size_t i = 0; i < steps; ++i) ASSERT_NEAR(ours[i], theirs[i], 1e-8) << "step " << i + 1;
}

// Rounding grows from step to step, in a residual network with batch norm a thousandfold in five (for PyTorch as for us), so the
// bound of the first ten steps is 1e-5 or twice the farthest that PyTorch's f32 has been from its f64 by then, and that of the
// others, which no two programs share, twice the farthest that it comes to be.
void expect_as_near_to_f64_as_pytorch(std::string const& name, std::vector<double> const& ours) {
  auto const truth = pytorch(name, "f64"), theirs = pytorch(name, "f32");
  double farthest = 0;
  for (std::size_t i = 0; i < steps; ++i) {
    for (std::size_t k = i; k < (i < 10 ? i + 1 : 100); ++k) farthest = std::max(farthest, std::abs(theirs[k] - truth[k]));
    EXPECT_NEAR(ours[i], truth[i], std::max(1e-5, 2 * farthest)) << "step " << i + 1;
  }
}

TEST_P(Training, in_f32_stays_as_near_to_f64_as_pytorch_does) { expect_as_near_to_f64_as_pytorch(GetParam(), train(GetParam(), DType::f32)); }
TEST_P(Training, without_fusion_stays_as_near) { expect_as_near_to_f64_as_pytorch(GetParam(), train(GetParam(), DType::f32, false)); }

TEST_P(Training, in_bf16_ends_as_near_to_f32_as_pytorch_does) {
  if (steps < 100) GTEST_SKIP() << "looks at steps 81 to 100";
  double const truth = tail_mean(pytorch(GetParam(), "f32"));
  EXPECT_LE(std::abs(tail_mean(train(GetParam(), DType::bf16)) - truth), 2 * std::abs(tail_mean(pytorch(GetParam(), "bf16")) - truth));
}

INSTANTIATE_TEST_SUITE_P(of, Training, testing::Values("mnist_cnn", "resnet20"), [](auto const& info) { return std::string(info.param); });

}  // namespace
}  // namespace falconet

// ---- steps of one's own ----
namespace falconet {
namespace {

// 1 + 2^-10 has no bf16: rounded, it would be 1.
TEST(TrainStepOfOnesOwn, in_bf16_compares_with_targets_as_they_are) {
  ImageSpec const spec{Shape{1, 4, 4}, {0.f}, {1.f}, {"all"}};
  for (auto const& loss : {mse(), binary_cross_entropy_with_logits()}) {
    Model model(spec, conv("conv1", 1, 1), {.device = "cpu", .threads = 1});
    for (auto& e : model.parameters()->entries()) std::memset(e.tensor.as<void>(), 0, e.tensor.type().bytes());
    TrainStep step(model, {.batch = 2, .precision = DType::bf16}, loss, sgd({}).options);
    float const target = 1 + 0x1p-10f;
    for (int i = 0; i < 32; ++i) step.images().as<float>()[i] = 1, step.targets().as<float>()[i] = target;
    EXPECT_NEAR(step.run(), loss.name == mse().name ? double(target) * double(target) : std::log(2.0), 1e-6) << loss.name;
    bool found = false;
    for (auto const& l : step.session().plan().step)
      found |= l.op == "loss" && l.problem.find("target=f32") != std::string::npos;
    EXPECT_TRUE(found);
  }
}

TEST(TrainStepOfOnesOwn, with_a_loss_that_is_not_finite_changes_nothing) {
  ImageSpec const spec{Shape{2, 6, 6}, {0.f, 0.f}, {1.f, 1.f}, {"a", "b"}};
  Model model(spec, conv("conv1", 4, 3) | batch_norm("bn1") | relu | conv("conv2", 3, 3) | batch_norm("bn2") | flatten | linear("fc", 2), {.device = "cpu", .threads = 1});
  TrainStep step(model, {.batch = 4}, cross_entropy(), adam({}).options);
  step.state().learning_rate = 0.01f;
  hashed::fill_batch(step.images(), step.targets(), 0, 2);
  step.run();
  auto const bytes = [&] {
    std::string out;
    for (auto const& e : model.parameters()->entries()) out.append(e.tensor.as<char>(), e.tensor.type().bytes());
    return out;
  };
  auto const before = bytes();
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    hashed::fill_batch(step.images(), step.targets(), 1, 2);
    step.images().as<float>()[5] = bad;
    EXPECT_NE(text_of_error([&] { step.run(); }, ErrorKind::numeric).find("step 2: the loss is NaN"), std::string::npos);
    EXPECT_TRUE(bytes() == before) << "after " << bad;
    EXPECT_EQ(step.state().step, 1);
  }
  hashed::fill_batch(step.images(), step.targets(), 1, 2);
  EXPECT_TRUE(std::isfinite(step.run()));
  EXPECT_FALSE(bytes() == before);
}

}  // namespace
}  // namespace falconet
