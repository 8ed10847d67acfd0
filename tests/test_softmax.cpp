// Softmax and log-softmax: cases worked out by hand on every algorithm, gradients against differences (test_agreement
// compares every algorithm with the reference).
#include <gtest/gtest.h>

#include <cmath>

#include "agreement.h"
#include "falconet/base/error.h"
#include "falconet/ops/softmax/algorithms.h"
#include "falconet/ops/softmax/op.h"
#include "falconet/tensor/element.h"

using namespace falconet;

namespace {

std::vector<double> run(std::string const& text, std::string const& algorithm, Isa isa, std::vector<std::vector<double>> const& inputs) {
  auto const& table = algorithms_of("softmax");
  auto const operands = table.operands(text);
  std::vector<Tensor> memory;
  std::vector<View> views;
  for (std::size_t i = 0; i < operands.size(); ++i) {
    memory.emplace_back(operands[i].type);
    views.push_back(memory.back().view());
    std::memset(views.back().data, 0xff, operands[i].type.bytes());
    if (!operands[i].written)
      for (std::size_t at = 0; at < inputs[i].size(); ++at) store_element(views.back(), std::int64_t(at), inputs[i][at]);
  }
  Stream stream(agreement::pool(2), isa);
  table.bind(text, {algorithm, {}}, DeviceKind::cpu, views, {})(stream);
  std::vector<double> out;
  for (std::int64_t at = 0; at < memory.back().shape().elements(); ++at) out.push_back(load_element(views.back(), at));
  return out;
}
template <class Check>
void on_all(std::string const& text, std::vector<double> const& x, Check check) {
  for (int isa = 0; isa <= int(detected_isa()); ++isa) {
    DeviceFacts facts;
    facts.isa = Isa(isa);
    for (auto const& candidate : algorithms_of("softmax").candidates(text, facts)) {
      if (!candidate.refusal.empty()) continue;
      SCOPED_TRACE(candidate.algorithm + " on " + std::string(name(Isa(isa))) + ": " + text);
      check(run(text, candidate.algorithm, Isa(isa), {x}));
    }
  }
}
}  // namespace

TEST(softmax, problems_print_and_parse) {
  for (auto const& text : agreement::problems_of("softmax", 1e18)) {
    agreement::expect_round_trip<SoftmaxProblem>(text);
    EXPECT_EQ(SoftmaxProblem::parse(text).text(), text);
  }
  for (char const* bad : {"", "kind=softmax x=f32[3]", "kind=soft x=f32[2x3]", "kind=softmax dir=up x=f32[2x3]", "kind=softmax x=f32[2x0]"})
    EXPECT_THROW(SoftmaxProblem::parse(bad), Error) << bad;
}

TEST(softmax, known_probabilities_in_rows_and_in_images) {
  double const l3 = std::log(3.0);
  auto const near = [](std::vector<double> const& got, std::vector<double> const& expected) {
    ASSERT_EQ(got.size(), expected.size());
    for (std::size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], 1e-6) << i;
  };
  on_all("kind=softmax x=f32[2x2]", {0, l3, 7, 7}, [&](auto const& y) { near(y, {0.25, 0.75, 0.5, 0.5}); });
  on_all("kind=log_softmax x=f32[2x2]", {0, l3, 7, 7}, [&](auto const& y) { near(y, {std::log(0.25), std::log(0.75), -std::log(2.0), -std::log(2.0)}); });
  on_all("kind=softmax x=f32[1x2x1x2]nhwc", {0, l3, 7, 7}, [&](auto const& y) { near(y, {0.25, 0.75, 0.5, 0.5}); });
  on_all("kind=softmax x=f32[1x2x1x2]", {0, 7, l3, 7}, [&](auto const& y) { near(y, {0.25, 0.5, 0.75, 0.5}); });
  on_all("kind=softmax x=f32[1x3]", {3e38, 0, -3e38}, [&](auto const& y) { near(y, {1, 0, 0}); });
  on_all("kind=softmax x=f32[2x3]", {1, 2, NAN, 0, 0, 0}, [&](auto const& y) {
    EXPECT_TRUE(std::isnan(y[0]) && std::isnan(y[1]) && std::isnan(y[2]));
    EXPECT_NEAR(y[4], 1.0 / 3, 1e-6);
  });
}

TEST(softmax, gradients_are_central_differences) {
  std::vector<double> x, dy;
  for (int i = 0; i < 24; ++i) x.push_back(2 * std::sin(3.0 * i + 1)), dy.push_back(std::cos(5.0 * i));
  for (std::string kind : {"softmax", "log_softmax"})
    for (std::string shape : {"6x4", "2x3x2x2", "2x3x2x2]nhwc"}) {
      std::string const type = " x=f64[" + shape + (shape.back() == 'c' ? "" : "]");
      auto const y = run("kind=" + kind + type, "reference", Isa::plain, {x});
      auto const dx = run("kind=" + kind + " dir=bwd" + type, "reference", Isa::plain, {y, dy});
      for (std::size_t i = 0; i < x.size(); ++i) {
        auto up = x, down = x;
        up[i] += 1e-5, down[i] -= 1e-5;
        auto const above = run("kind=" + kind + type, "reference", Isa::plain, {up}), below = run("kind=" + kind + type, "reference", Isa::plain, {down});
        double slope = 0;
        for (std::size_t j = 0; j < x.size(); ++j) slope += dy[j] * (above[j] - below[j]) / 2e-5;
        EXPECT_NEAR(dx[i], slope, 1e-8) << kind << type << " " << i;
      }
    }
}

TEST(softmax, takes_rows_or_images_only) {
  Graph g;
  Var x = g.input("x", TensorType::parse("f32[2x3x4]"));
  try {
    channel_softmax(x, "head");
    ADD_FAILURE() << "accepted";
  } catch (Error const& e) {
    EXPECT_EQ(e.kind, ErrorKind::shape);
    EXPECT_EQ(e.layer, "head");
  }
}
