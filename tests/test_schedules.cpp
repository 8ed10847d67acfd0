// The learning rate over a run: schedules beside their closed formulas and known values.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "falconet/base/error.h"
#include "falconet/train/schedule.h"

namespace falconet {
namespace {

constexpr double pi = 3.14159265358979323846;

TEST(Schedules, ConstantIsOneAndWarmsUpInEqualSteps) {
  for (std::int64_t step : {0, 1, 50, 99}) EXPECT_EQ(constant_rate().factor(step, 100, 10), 1.0);
  auto const warm = constant_rate(0.1);   // over 10 of 100 steps
  double const known[] = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0, 1.0};
  for (int step = 0; step < 12; ++step) EXPECT_NEAR(warm.factor(step, 100, 10), known[step], 1e-12) << step;
  EXPECT_EQ(warm.factor(99, 100, 10), 1.0);
  EXPECT_NEAR(constant_rate(0.25).factor(1, 10, 5), 2 / 2.5, 1e-12);   // the ramp need not end on a step,
  EXPECT_EQ(constant_rate(0.25).factor(2, 10, 5), 1.0);                // and stays at one
}

TEST(Schedules, StepDecaysAsStepLrAndMultiStepLr) {   // PyTorch's StepLR(step_size=2, gamma=0.5) and MultiStepLR([2, 5], gamma=0.1)
  auto const every = step_decay({.every_epochs = 2, .gamma = 0.5});
  double const known[] = {1, 1, 0.5, 0.5, 0.25, 0.25, 0.125};
  auto const at = step_decay({.at_epochs = {2, 5}, .gamma = 0.1});
  double const milestones[] = {1, 1, 0.1, 0.1, 0.1, 0.01, 0.01};
  for (int epoch = 0; epoch < 7; ++epoch)
    for (int step = 4 * epoch; step < 4 * epoch + 4; ++step) {
      EXPECT_NEAR(every.factor(step, 28, 4), known[epoch], 1e-12) << step;
      EXPECT_NEAR(at.factor(step, 28, 4), milestones[epoch], 1e-12) << step;
    }
  EXPECT_NEAR(step_decay({.at_epochs = {5, 2}, .gamma = 0.1}).factor(12, 28, 4), 0.1, 1e-12);   // in any order
  EXPECT_EQ(step_decay().factor(29, 100, 1), 1.0);
  EXPECT_NEAR(step_decay().factor(30, 100, 1), 0.1, 1e-12);
  // A ramp of 8 steps that meets the first decay, after 4.
  auto const warm = step_decay({.every_epochs = 1, .gamma = 0.5, .warmup = 8.0 / 28});
  EXPECT_NEAR(warm.factor(3, 28, 4), 4.0 / 8, 1e-12);
  EXPECT_NEAR(warm.factor(4, 28, 4), 0.5 * 5 / 8, 1e-12);
  EXPECT_NEAR(warm.factor(8, 28, 4), 0.25, 1e-12);
}

TEST(Schedules, CosineIsThatOfLoshchilovAndHutter) {   // 2017, eq. 5: min + (1 - min) (1 + cos(pi t / T)) / 2
  for (double least : {0.0, 0.1}) {
    auto const s = cosine({.final_factor = least});
    for (int step = 0; step <= 100; ++step) EXPECT_NEAR(s.factor(step, 101, 7), least + (1 - least) * (1 + std::cos(pi * step / 100)) / 2, 1e-12) << step;
    EXPECT_EQ(s.factor(0, 101, 7), 1.0);
    EXPECT_NEAR(s.factor(25, 101, 7), least + (1 - least) * 0.8535533905932737, 1e-12);
    EXPECT_NEAR(s.factor(50, 101, 7), (1 + least) / 2, 1e-12);
    EXPECT_NEAR(s.factor(100, 101, 7), least, 1e-12);
  }
  auto const warm = cosine({.warmup = 0.1, .final_factor = 0.2});   // 10 steps up, then from 1 at step 10 to 0.2 at step 99
  for (int step = 0; step < 10; ++step) EXPECT_NEAR(warm.factor(step, 100, 7), (step + 1) / 10.0, 1e-12);
  for (int step = 10; step < 100; ++step) EXPECT_NEAR(warm.factor(step, 100, 7), 0.2 + 0.8 * (1 + std::cos(pi * (step - 10) / 89)) / 2, 1e-12) << step;
  EXPECT_NEAR(warm.factor(99, 100, 7), 0.2, 1e-12);
}

TEST(Schedules, OneCycleRisesAndFallsAlongCosines) {   // PyTorch's defaults: from 1/25 to 1 at 30 % of the run, to 1/25/1e4
  auto const s = one_cycle();
  EXPECT_NEAR(s.factor(0, 101, 7), 0.04, 1e-12);
  EXPECT_NEAR(s.factor(15, 101, 7), 0.52, 1e-12);
  EXPECT_NEAR(s.factor(30, 101, 7), 1, 1e-12);
  EXPECT_NEAR(s.factor(65, 101, 7), (1 + 4e-6) / 2, 1e-12);
  EXPECT_NEAR(s.factor(100, 101, 7), 4e-6, 1e-12);
  for (int step = 0; step <= 30; ++step) EXPECT_NEAR(s.factor(step, 101, 7), 1 + (0.04 - 1) * (1 + std::cos(pi * step / 30)) / 2, 1e-12) << step;
  for (int step = 30; step <= 100; ++step) EXPECT_NEAR(s.factor(step, 101, 7), 4e-6 + (1 - 4e-6) * (1 + std::cos(pi * (step - 30) / 70)) / 2, 1e-12) << step;
  auto const other = one_cycle({.peak_at = 0.5, .start_factor = 0.1, .final_factor = 0.01});
  EXPECT_NEAR(other.factor(0, 11, 7), 0.1, 1e-12);
  EXPECT_NEAR(other.factor(5, 11, 7), 1, 1e-12);
  EXPECT_NEAR(other.factor(10, 11, 7), 0.01, 1e-12);
  EXPECT_NEAR(one_cycle({.peak_at = 0}).factor(0, 11, 7), 1, 1e-12);
}

TEST(Schedules, EveryFactorIsAFiniteShareOfTheRate) {
  for (auto const& s : {constant_rate(0.5), step_decay({.every_epochs = 1, .gamma = 0.3, .warmup = 0.5}), cosine({.warmup = 0.5}), one_cycle(), one_cycle({.peak_at = 0.99})})
    for (std::int64_t total : {1, 2, 3, 10, 1000})
      for (std::int64_t step = 0; step < total; ++step) {
        double const factor = s.factor(step, total, 3);
        EXPECT_TRUE(factor >= 0 && factor <= 1 + 1e-12) << s.kind << " at " << step << " of " << total << ": " << factor;
      }
}

TEST(Schedules, ValuesOutOfRangeAreRefused) {
  auto const refuses = [](std::function<void()> const& f, std::string const& what) {
    try {
      f();
      ADD_FAILURE() << "accepted: " << what;
    } catch (Error const& e) {
      EXPECT_EQ(int(e.kind), int(ErrorKind::usage));
      EXPECT_NE(e.message.find(what), std::string::npos) << e.message;
    }
  };
  for (double share : {-0.1, 1.0, double(NAN)}) {
    refuses([&] { constant_rate(share); }, "warmup");
    refuses([&] { cosine({.warmup = share}); }, "warmup");
    refuses([&] { step_decay({.warmup = share}); }, "warmup");
    refuses([&] { one_cycle({.peak_at = share}); }, "peak_at");
  }
  refuses([] { step_decay({.every_epochs = 0}); }, "every 1 or more epochs");
}

}  // namespace
}  // namespace falconet
