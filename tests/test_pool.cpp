// Pooling: the reference on cases worked out by hand, every algorithm against it, shapes, and the graph's gradient nodes.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "agreement.h"
#include "falconet/base/error.h"
#include "falconet/ops/fusion.h"
#include "falconet/ops/pool/algorithms.h"
#include "falconet/ops/pool/op.h"

using namespace falconet;

namespace {

constexpr float quiet_nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

// Runs every algorithm that accepts the problem on every instruction set, and hands the outputs to `check`.
template <class Check>
void run_all(std::string const& text, std::vector<float> const& first, std::vector<std::uint8_t> const& winner, Check check) {
  auto const& table = algorithms_of("pool");
  auto const operands = table.operands(text);
  for (int isa = 0; isa <= int(detected_isa()); ++isa) {
    DeviceFacts facts;
    facts.isa = Isa(isa);
    for (auto const& candidate : table.candidates(text, facts)) {
      if (!candidate.refusal.empty()) continue;
      SCOPED_TRACE(candidate.algorithm + " on " + std::string(name(Isa(isa))) + ": " + text);
      std::vector<Tensor> memory;
      std::vector<View> views;
      for (auto const& o : operands) {
        memory.emplace_back(o.type);
        std::memset(memory.back().as<void>(), 0xff, o.type.bytes());
        views.push_back(memory.back().view());
      }
      ASSERT_EQ(std::size_t(operands[0].type.shape.elements()), first.size());
      std::copy(first.begin(), first.end(), memory[0].as<float>());
      if (!winner.empty()) std::copy(winner.begin(), winner.end(), memory[1].as<std::uint8_t>());
      Stream stream(agreement::pool(2), Isa(isa));
      Buffer scratch(table.scratch(text, {candidate.algorithm, {}}, DeviceKind::cpu) + 1);
      table.bind(text, {candidate.algorithm, {}}, DeviceKind::cpu, views, {scratch.data(), {DType::u8, Shape{std::int64_t(scratch.bytes())}}})(stream);
      check(memory);
    }
  }
}
std::vector<float> floats(Tensor const& t) { return {t.as<float>(), t.as<float>() + t.shape().elements()}; }
std::vector<int> bytes(Tensor const& t) { return {t.as<std::uint8_t>(), t.as<std::uint8_t>() + t.shape().elements()}; }

}  // namespace

TEST(pool, problems_print_and_parse) {
  for (auto const& text : agreement::problems_of("pool", 1e18)) {
    agreement::expect_round_trip<PoolProblem>(text);
    EXPECT_EQ(PoolProblem::parse(text).text(), text);
  }
}

TEST(pool, bad_problems_are_refused_with_a_usage_error) {
  for (char const* text : {"", "kind=min", "kind=max n=1 c=1 h=2 w=2 p=1 q=1 r=2 s=2 stride=2 type=f32 layout=nhwc",
                           "kind=max n=1 c=1 h=2 w=2 p=2 q=1 r=2 s=2 stride=2.2 type=f32 layout=nhwc",
                           "kind=max n=1 c=1 h=2 w=2 p=1 q=1 r=2 s=2 stride=2.2 pad=2.0.0.0 type=f32 layout=nhwc",
                           "kind=max n=0 c=1 h=2 w=2 p=1 q=1 r=2 s=2 stride=2.2 type=f32 layout=nhwc",
                           "kind=max n=1 c=1 h=2 w=2 p=1 q=1 r=2 s=2 stride=0.2 type=f32 layout=nhwc",
                           "kind=max n=1 c=1 h=2 w=2 p=1 q=1 r=2 s=2 stride=2.2 type=f32 layout=nhwc more=1"}) {
    try {
      PoolProblem::parse(text);
      ADD_FAILURE() << "accepted " << text;
    } catch (Error const& e) {
      EXPECT_EQ(e.kind, ErrorKind::usage) << text;
    }
  }
}

TEST(pool, every_algorithm_agrees_with_the_reference) {
  for (auto const& p : agreement::problems_of("pool")) {
    bool const max = p.find("kind=max") != std::string::npos, forward = p.find("dir=bwd") == std::string::npos;
    agreement::Bounds bounds;
    bounds.exact_integers = max;
    if (max && forward) bounds.f32 = bounds.bf16 = bounds.index_mismatches = 0;   // nothing is rounded
    agreement::expect_agreement("pool", p, bounds);
  }
}

TEST(pool, max_takes_the_first_of_equal_values_and_stores_where_it_was) {
  // two channels of a 3x4 image, window 2x2, stride 1x2
  run_all("kind=max n=1 c=2 h=3 w=4 p=2 q=2 r=2 s=2 stride=1.2 type=f32 layout=nhwc",
          {1, 9, 1, 8, 5, 7, 6, 6,     // row 0: pixels (c0, c1)
           1, 5, 1, 4, 7, 3, 2, 2,     // row 1
           0, 1, 3, 1, 7, 1, 9, 0},    // row 2
          {}, [](std::vector<Tensor> const& t) {
            EXPECT_EQ(floats(t[1]), (std::vector<float>{1, 9, 7, 7, 3, 5, 9, 3}));
            EXPECT_EQ(bytes(t[2]), (std::vector<int>{0, 0, 2, 0, 3, 0, 3, 0}));
          });
}

TEST(pool, nan_wins_and_minus_infinity_alone_is_found) {
  run_all("kind=max n=1 c=1 h=2 w=4 p=1 q=2 r=2 s=2 stride=2.2 type=f32 layout=nhwc", {1, 2, -infinity, -infinity, quiet_nan, 5, -infinity, -infinity}, {},
          [](std::vector<Tensor> const& t) {
            auto const y = floats(t[1]);
            EXPECT_TRUE(std::isnan(y[0]));
            EXPECT_EQ(y[1], -infinity);
            EXPECT_EQ(bytes(t[2]), (std::vector<int>{2, 0}));
          });
}

TEST(pool, padding_never_wins) {
  run_all("kind=max n=1 c=1 h=2 w=2 p=2 q=2 r=2 s=2 stride=2.2 pad=1.1.1.1 type=f32 layout=nhwc", {-1, -2, -3, -4}, {},
          [](std::vector<Tensor> const& t) {
            EXPECT_EQ(floats(t[1]), (std::vector<float>{-1, -2, -3, -4}));
            EXPECT_EQ(bytes(t[2]), (std::vector<int>{3, 2, 1, 0}));
          });
}

TEST(pool, the_gradient_of_max_adds_up_where_windows_overlap_and_skips_windows_without_winner) {
  // 1x3 image, windows {0,1} and {1,2}; then one channel whose window has no winner
  run_all("kind=max dir=bwd n=1 c=1 h=1 w=3 p=1 q=2 r=1 s=2 stride=1.1 type=f32 layout=nhwc", {10, 100}, {1, 0},
          [](std::vector<Tensor> const& t) { EXPECT_EQ(floats(t[2]), (std::vector<float>{0, 110, 0})); });
  run_all("kind=max dir=bwd n=1 c=2 h=2 w=2 p=1 q=1 r=2 s=2 stride=2.2 type=f32 layout=nhwc", {10, 100}, {no_winner, 2},
          [](std::vector<Tensor> const& t) { EXPECT_EQ(floats(t[2]), (std::vector<float>{0, 0, 0, 0, 0, 100, 0, 0})); });
}

TEST(pool, average_divides_by_what_the_window_holds) {
  // padding counts in the corner (4), what lies past it in ceil mode does not
  run_all("kind=average n=1 c=1 h=3 w=3 p=2 q=2 r=2 s=2 stride=2.2 pad=1.1.0.0 type=f32 layout=nhwc", {4, 8, 12, 16, 20, 24, 28, 32, 36}, {},
          [](std::vector<Tensor> const& t) { EXPECT_EQ(floats(t[1]), (std::vector<float>{1, 5, 11, 28})); });
  run_all("kind=average n=1 c=1 h=3 w=3 p=2 q=2 r=2 s=2 stride=2.2 pad=1.1.0.0 include_pad=0 type=f32 layout=nhwc", {4, 8, 12, 16, 20, 24, 28, 32, 36},
          {}, [](std::vector<Tensor> const& t) { EXPECT_EQ(floats(t[1]), (std::vector<float>{4, 10, 22, 28})); });
  run_all("kind=average n=1 c=1 h=3 w=3 p=2 q=2 r=2 s=2 stride=2.2 type=f32 layout=nhwc", {4, 8, 12, 16, 20, 24, 28, 32, 36}, {},
          [](std::vector<Tensor> const& t) { EXPECT_EQ(floats(t[1]), (std::vector<float>{12, 18, 30, 36})); });
}

TEST(pool, shapes_follow_the_window_the_padding_and_ceil_mode) {
  Graph g;
  Var x = g.input("x", {DType::f32, Shape{2, 3, 9, 8}, Layout::nchw});
  EXPECT_EQ(max_pool(x, {}).shape(), (Shape{2, 3, 4, 4}));
  EXPECT_EQ(max_pool(x, {.window = {3, 3}, .stride = {2, 2}}).shape(), (Shape{2, 3, 4, 3}));
  EXPECT_EQ(max_pool(x, {.window = {3, 3}, .stride = {2, 2}, .ceil_mode = true}).shape(), (Shape{2, 3, 4, 4}));
  EXPECT_EQ(avg_pool(x, {.window = {2, 2}, .padding = {1, 1, 1, 1}, .ceil_mode = true}).shape(), (Shape{2, 3, 6 - 1, 5}));
  EXPECT_EQ(avg_pool(x, {.window = {3, 2}, .stride = {1, 1}, .padding = {2, 0, 0, 1}}).shape(), (Shape{2, 3, 9, 8}));
  EXPECT_EQ(global_average(x).shape(), (Shape{2, 3, 1, 1}));
}

TEST(pool, windows_that_do_not_fit_are_shape_errors_that_name_the_layer) {
  Graph g;
  Var x = g.input("x", {DType::f32, Shape{2, 3, 4, 4}, Layout::nchw}), rows = g.input("rows", {DType::f32, Shape{2, 3}, Layout::nchw});
  auto message = [&](Var v, PoolOptions const& o) {
    try {
      max_pool(v, o, "stem.pool");
    } catch (Error const& e) {
      EXPECT_EQ(e.kind, ErrorKind::shape);
      EXPECT_EQ(e.layer, "stem.pool");
      return e.message;
    }
    return std::string("none");
  };
  EXPECT_NE(message(x, {.window = {5, 5}}).find("larger than the padded image"), std::string::npos);
  EXPECT_NE(message(x, {.window = {2, 2}, .padding = {2, 0, 0, 0}}).find("smaller than the window"), std::string::npos);
  EXPECT_NE(message(x, {.window = {0, 2}}).find("at least 1"), std::string::npos);
  EXPECT_NE(message(rows, {}).find("[N,C,H,W]"), std::string::npos);
}

TEST(pool, operations_describe_themselves_as_problems) {
  Graph g;
  Var x = g.input("x", {DType::f32, Shape{2, 3, 9, 8}, Layout::nhwc});
  max_pool(x, {.window = {3, 3}, .stride = {2, 2}, .padding = {1, 1, 1, 1}});
  Node const node = g.nodes.back();
  TensorType const in[] = {x.type()};
  std::vector<TensorType> out = node.op->infer(in);
  EXPECT_EQ(node.op->problem(in, out), "kind=max n=2 c=3 h=9 w=8 p=5 q=4 r=3 s=3 stride=2.2 pad=1.1.1.1 type=f32 layout=nhwc");
  EXPECT_EQ(out[1].text(), "u8[2x3x5x4]nhwc");
  EXPECT_EQ(node.layer, "max_pool");
  Var const dy = g.input("dy", out[0]);
  Var const dys[] = {dy, Var{}};
  Var const dx = node.op->gradient(g, node, dys)[0];
  EXPECT_EQ(dx.type(), x.type());
  Node const& gradient = g.nodes.back();
  TensorType const gradient_in[] = {out[0], out[1]}, gradient_out[] = {dx.type()};
  EXPECT_EQ(gradient.op->problem(gradient_in, gradient_out),
            "kind=max dir=bwd n=2 c=3 h=9 w=8 p=5 q=4 r=3 s=3 stride=2.2 pad=1.1.1.1 type=f32 layout=nhwc");
}
