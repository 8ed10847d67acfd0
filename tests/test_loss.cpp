// Losses: cases worked out by hand, padded batches, labels out of range, every algorithm, and gradients (test_agreement compares
// every algorithm with the reference).
#include <gtest/gtest.h>

#include <cmath>

#include "agreement.h"
#include "falconet/base/error.h"
#include "falconet/ops/loss/algorithms.h"
#include "falconet/ops/loss/op.h"
#include "falconet/tensor/element.h"

using namespace falconet;

namespace {

struct Result {
  double loss = 0, correct = 0;
  std::vector<double> dx;
};

// Runs an algorithm on f32 or f64 operands; dloss, where the problem has one, is 1.
Result run(std::string const& text, std::string const& algorithm, Isa isa, std::vector<double> const& x, std::vector<double> const& target, int valid) {
  auto const& table = algorithms_of("loss");
  std::vector<Tensor> memory;
  std::vector<View> views;
  for (auto const& o : table.operands(text)) {
    memory.emplace_back(o.type);
    auto const v = memory.back().view();
    std::memset(v.data, 0xff, o.type.bytes());
    auto const fill = [&](std::vector<double> const& from) {
      EXPECT_EQ(from.size(), std::size_t(o.type.shape.elements())) << o.name;
      for (std::size_t i = 0; i < from.size(); ++i) store_element(v, std::int64_t(i), from[i]);
    };
    if (o.name == "x") fill(x);
    else if (o.name == "labels" || o.name == "target") fill(target);
    else if (o.name == "dloss") store_element(v, 0, 1);
    else if (o.name == "step") v.as<StepState>()[0] = StepState{.valid_count = valid};
    views.push_back(v);
  }
  Tensor scratch({DType::u8, Shape{std::int64_t(table.scratch(text, {algorithm, {}}, DeviceKind::cpu))}, Layout::nchw});
  Stream stream(agreement::pool(2), isa);
  table.bind(text, {algorithm, {}}, DeviceKind::cpu, views, scratch.view())(stream);
  Result result;
  auto const operands = table.operands(text);
  for (std::size_t i = 0; i < operands.size(); ++i) {
    if (operands[i].name == "loss") result.loss = load_element(views[i], 0);
    if (operands[i].name == "correct") result.correct = load_element(views[i], 0);
    if (operands[i].name == "dx")
      for (std::int64_t at = 0; at < operands[i].type.shape.elements(); ++at) result.dx.push_back(load_element(views[i], at));
  }
  return result;
}

template <class Check>
void on_all(std::string const& text, std::vector<double> const& x, std::vector<double> const& target, int valid, Check check) {
  for (int isa = 0; isa <= int(detected_isa()); ++isa) {
    DeviceFacts facts;
    facts.isa = Isa(isa);
    for (auto const& candidate : algorithms_of("loss").candidates(text, facts)) {
      if (!candidate.refusal.empty()) continue;
      SCOPED_TRACE(candidate.algorithm + " on " + std::string(name(Isa(isa))) + ": " + text);
      check(run(text, candidate.algorithm, Isa(isa), x, target, valid));
    }
  }
}
}  // namespace

TEST(loss, problems_print_and_parse) {
  for (auto const& text : agreement::problems_of("loss", 1e18)) {
    agreement::expect_round_trip<LossProblem>(text);
    EXPECT_EQ(LossProblem::parse(text).text(), text);
  }
}

TEST(loss, bad_problems_are_refused_with_a_usage_error) {
  for (char const* text : {"", "kind=hinge result=loss x=f32[2x3]", "kind=mse result=all x=f32[2x3]", "kind=cross_entropy result=loss x=f32[2x3x4]",
                           "kind=mse result=loss x=f32[scalar]", "kind=mse result=loss x=f32[0x3]", "kind=mse result=loss x=f32[2x3] more=1"}) {
    try {
      LossProblem::parse(text);
      ADD_FAILURE() << "accepted " << text;
    } catch (Error const& e) {
      EXPECT_EQ(e.kind, ErrorKind::usage) << text;
    }
  }
}

TEST(loss, cross_entropy_of_known_probabilities) {
  // softmax of (log 1, log 3) is (1/4, 3/4); two rows, one right
  std::vector<double> const x = {0, std::log(3.0), 0, std::log(3.0)};
  on_all("kind=cross_entropy result=both x=f32[2x2]", x, {1, 0}, 2, [](Result const& r) {
    EXPECT_NEAR(r.loss, (std::log(4.0 / 3) + std::log(4.0)) / 2, 1e-6);
    EXPECT_EQ(r.correct, 1);
    double const expected[] = {0.125, -0.125, -0.375, 0.375};
    for (int i = 0; i < 4; ++i) EXPECT_NEAR(r.dx[std::size_t(i)], expected[i], 1e-6);
  });
  // smoothing 0.2: targets 0.9 and 0.1
  on_all("kind=cross_entropy result=both x=f32[2x2] smoothing=0.2", x, {1, 0}, 2, [](Result const& r) {
    EXPECT_NEAR(r.loss, (0.9 * std::log(4.0 / 3) + 0.1 * std::log(4.0) + 0.9 * std::log(4.0) + 0.1 * std::log(4.0 / 3)) / 2, 1e-6);
    EXPECT_NEAR(r.dx[0], (0.25 - 0.1) / 2, 1e-6);
    EXPECT_NEAR(r.dx[2], (0.25 - 0.9) / 2, 1e-6);
  });
}

TEST(loss, huge_logits_neither_overflow_nor_lose_their_differences) {
  on_all("kind=cross_entropy result=both x=f32[2x3]", {1e30, 0, -1e30, 5000, 5000, 5000}, {0, 1}, 2, [](Result const& r) {
    EXPECT_NEAR(r.loss, std::log(3.0) / 2, 1e-6);
    EXPECT_EQ(r.correct, 1);   // of equal maxima the first counts, and that is not the label
    EXPECT_NEAR(r.dx[0], 0, 1e-6);
    EXPECT_NEAR(r.dx[4], -1.0 / 3, 1e-6);
  });
}

TEST(loss, padded_rows_count_in_nothing) {
  std::vector<double> x, target;
  for (int i = 0; i < 6 * 70; ++i) x.push_back(std::sin(i));
  for (int n = 0; n < 6; ++n) target.push_back(n * 11);
  auto with_nan = x;
  for (int i = 4 * 70; i < 6 * 70; ++i) with_nan[std::size_t(i)] = NAN;
  target[5] = 1000;   // even a label out of range
  for (std::string result : {"both", "gradient"}) {
    std::string const text = "kind=cross_entropy result=" + result + " x=f32[6x70] smoothing=0.1";
    auto const expected = run(text, "reference", Isa::plain, x, target, 4);
    on_all(text, with_nan, target, 4, [&](Result const& r) {
      EXPECT_NEAR(r.loss, expected.loss, 1e-5);
      EXPECT_EQ(r.correct, expected.correct);
      for (std::size_t i = 0; i < 4 * 70; ++i) EXPECT_NEAR(r.dx[i], expected.dx[i], 1e-6);
      for (std::size_t i = 4 * 70; i < 6 * 70; ++i) EXPECT_EQ(r.dx[i], 0);
    });
  }
  on_all("kind=mse result=both x=f32[3x2] target=f32", {1, 2, 3, 4, NAN, NAN}, {0, 0, 0, 0, 0, 0}, 2, [](Result const& r) {
    EXPECT_FLOAT_EQ(float(r.loss), 7.5f);
    EXPECT_EQ(r.dx, (std::vector<double>{0.5, 1, 1.5, 2, 0, 0}));
  });
  on_all("kind=bce result=both x=f32[2x2] target=f32", {1, 2, 3, 4}, {0, 0, 0, 0}, 0, [](Result const& r) {
    EXPECT_EQ(r.loss, 0);
    EXPECT_EQ(r.dx, (std::vector<double>{0, 0, 0, 0}));
  });
}

TEST(loss, binary_cross_entropy_is_stable_at_both_ends) {
  on_all("kind=bce result=both x=f32[4x1] target=f32", {0, 200, -200, 200}, {0.5, 1, 0, 0}, 4, [](Result const& r) {
    EXPECT_NEAR(r.loss, (std::log(2.0) + 200) / 4, 1e-4);
    EXPECT_NEAR(r.dx[0], 0, 1e-7);
    EXPECT_NEAR(r.dx[1], 0, 1e-7);
    EXPECT_NEAR(r.dx[2], 0, 1e-7);
    EXPECT_NEAR(r.dx[3], 0.25, 1e-7);
  });
}

TEST(loss, a_label_out_of_range_or_a_nan_makes_the_loss_nan) {
  for (int columns : {3, 100})
    for (double label : {-1.0, double(columns)}) {
      auto const text = "kind=cross_entropy result=both x=f32[2x" + std::to_string(columns) + "]";
      std::vector<double> x(std::size_t(2 * columns), 0.25);
      on_all(text, x, {1, label}, 2, [](Result const& r) { EXPECT_TRUE(std::isnan(r.loss)); });
      x[1] = NAN;
      on_all(text, x, {1, 1}, 2, [](Result const& r) { EXPECT_TRUE(std::isnan(r.loss)); });
      x[1] = 0.25, x[std::size_t(columns) + 2] = NAN;
      on_all(text, x, {1, 1}, 2, [&](Result const& r) {
        EXPECT_TRUE(std::isnan(r.loss));
        EXPECT_TRUE(std::isnan(r.dx[std::size_t(columns)]));
        EXPECT_FALSE(std::isnan(r.dx[0]));
      });
    }
  on_all("kind=bce result=loss x=f32[2x1] target=f32", {0, NAN}, {0, 0}, 2, [](Result const& r) { EXPECT_TRUE(std::isnan(r.loss)); });
}

TEST(loss, a_gradient_that_arrives_scales_the_result) {
  std::vector<double> const x = {0.5, -1, 2, 0.25, 1, -3};
  auto const one = run("kind=cross_entropy result=both x=f64[2x3] smoothing=0.1", "reference", Isa::plain, x, {2, 0}, 2);
  auto const many = run("kind=cross_entropy result=both x=f64[2x3] smoothing=0.1 dloss=128", "reference", Isa::plain, x, {2, 0}, 2);
  for (std::size_t i = 0; i < 6; ++i) EXPECT_DOUBLE_EQ(many.dx[i], 128 * one.dx[i]);
}

TEST(loss, gradients_are_central_differences) {
  std::vector<double> x, t;
  for (int i = 0; i < 12; ++i) x.push_back(2 * std::sin(3.0 * i + 1)), t.push_back(0.5 + 0.5 * std::cos(i));
  for (std::string kind : {"cross_entropy", "mse", "bce"}) {
    bool const labels = kind == "cross_entropy";
    auto const text = "kind=" + kind + " result=both x=f64[4x3]" + (labels ? " smoothing=0.1" : " target=f64");
    std::vector<double> const target = labels ? std::vector<double>{2, 0, 1, 1} : t;
    auto const at = run(text, "reference", Isa::plain, x, target, 3);
    for (std::size_t i = 0; i < x.size(); ++i) {
      auto up = x, down = x;
      up[i] += 1e-5, down[i] -= 1e-5;
      double const slope = (run(text, "reference", Isa::plain, up, target, 3).loss - run(text, "reference", Isa::plain, down, target, 3).loss) / 2e-5;
      EXPECT_NEAR(at.dx[i], slope, 1e-9) << kind << " " << i;
    }
  }
}

TEST(loss, shapes_that_do_not_fit_are_shape_errors) {
  Graph g;
  auto value = [&](char const* name, char const* type) { return g.input(name, TensorType::parse(type)); };
  Var const logits = value("logits", "f32[4x3]"), labels = value("labels", "i32[4]"), few = value("few", "i32[3]"), step = g.step();
  Var const image = value("image", "f32[4x3x2x2]"), floats = value("floats", "f32[4]");
  auto message = [](auto make) {
    try {
      make();
    } catch (Error const& e) {
      EXPECT_EQ(e.kind, ErrorKind::shape);
      return e.message;
    }
    return std::string("none");
  };
  auto const out = cross_entropy(logits, labels, step, 0.1);
  EXPECT_EQ(out.loss.shape(), Shape{});
  EXPECT_EQ(out.correct.shape(), Shape{});
  EXPECT_EQ(g.nodes.back().layer, "cross_entropy");
  EXPECT_NE(message([&] { cross_entropy(logits, few, step); }).find("one i32 label per row"), std::string::npos);
  EXPECT_NE(message([&] { cross_entropy(logits, floats, step); }).find("one i32 label per row"), std::string::npos);
  EXPECT_NE(message([&] { cross_entropy(image, labels, step); }).find("[N,C]"), std::string::npos);
  EXPECT_NE(message([&] { cross_entropy(logits, labels, step, 1.5); }).find("label_smoothing"), std::string::npos);
  EXPECT_NE(message([&] { mse(logits, image, step); }).find("a target like x"), std::string::npos);
}
