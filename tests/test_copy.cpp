// Copies: flatten and reshape, conversions, concatenation and slices: cases worked out by hand, every algorithm against the
// reference (bit for bit: nothing is computed), shapes and gradient nodes.
#include <gtest/gtest.h>

#include "agreement.h"
#include "falconet/base/error.h"
#include "falconet/ops/copy/algorithms.h"
#include "falconet/ops/copy/op.h"

using namespace falconet;

namespace {
TensorType type(char const* text) { return TensorType::parse(text); }

// The reference's result for f32 operands that count up from 0, each input from where the one before ended.
std::vector<float> counted(std::string const& text) {
  auto const& table = algorithms_of("copy");
  std::vector<Tensor> memory;
  std::vector<View> views;
  float next = 0;
  for (auto const& o : table.operands(text)) {
    memory.emplace_back(o.type);
    for (std::int64_t i = 0; i < o.type.shape.elements(); ++i) memory.back().as<float>()[i] = o.written ? -1 : next++;
    views.push_back(memory.back().view());
  }
  Stream stream(agreement::pool(1), Isa::plain);
  table.bind(text, {"reference", {}}, DeviceKind::cpu, views, {})(stream);
  return {memory.back().as<float>(), memory.back().as<float>() + memory.back().shape().elements()};
}
}  // namespace

TEST(copy, problems_print_and_parse) {
  for (auto const& text : agreement::problems_of("copy", 1e18)) {
    agreement::expect_round_trip<CopyProblem>(text);
    EXPECT_EQ(CopyProblem::parse(text).text(), text);
  }
}

TEST(copy, bad_problems_are_refused_with_a_usage_error) {
  for (char const* text : {"", "kind=move", "kind=copy from=f32[2] to=f32[3]", "kind=concat to=f32[2x3] channels=1,1", "kind=concat to=f32[3] channels=3",
                           "kind=slice from=f32[2x3] to=f32[2x2] begin=2", "kind=slice from=f32[2x3] to=f32[3x2] begin=0",
                           "kind=copy from=f32[2] to=f32[2] begin=0", "kind=each from=f32 to=bf16 sizes=", "kind=each from=f32 to=bf16 sizes=3,-1",
                           "kind=each from=f32[2] to=bf16 sizes=2"}) {
    try {
      CopyProblem::parse(text);
      ADD_FAILURE() << "accepted " << text;
    } catch (Error const& e) {
      EXPECT_EQ(e.kind, ErrorKind::usage) << text;
    }
  }
}

TEST(copy, every_algorithm_agrees_with_the_reference_to_the_bit) {
  agreement::Bounds bounds;
  bounds.f32 = bounds.bf16 = bounds.index_mismatches = 0;
  for (auto const& p : agreement::problems_of("copy")) agreement::expect_agreement("copy", p, bounds);
}

TEST(copy, flatten_orders_by_channel_first_whatever_the_layout) {
  EXPECT_EQ(counted("kind=copy from=f32[1x2x2x2]nhwc to=f32[1x8]"), (std::vector<float>{0, 2, 4, 6, 1, 3, 5, 7}));
  EXPECT_EQ(counted("kind=copy from=f32[1x8] to=f32[1x2x2x2]nhwc"), (std::vector<float>{0, 4, 1, 5, 2, 6, 3, 7}));
  EXPECT_EQ(counted("kind=copy from=f32[1x2x2x2] to=f32[1x8]"), (std::vector<float>{0, 1, 2, 3, 4, 5, 6, 7}));
}

TEST(copy, concat_joins_channels_and_slice_takes_them_out) {
  EXPECT_EQ(counted("kind=concat to=f32[2x3] channels=1,2"), (std::vector<float>{0, 2, 3, 1, 4, 5}));
  EXPECT_EQ(counted("kind=concat to=f32[1x3x1x2]nhwc channels=1,2"), (std::vector<float>{0, 2, 3, 1, 4, 5}));
  EXPECT_EQ(counted("kind=concat to=f32[1x3x1x2] channels=1,2"), (std::vector<float>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(counted("kind=slice from=f32[2x3] to=f32[2x2] begin=1"), (std::vector<float>{1, 2, 4, 5}));
  EXPECT_EQ(counted("kind=slice from=f32[1x3x1x2]nhwc to=f32[1x1x1x2]nhwc begin=2"), (std::vector<float>{2, 5}));
}

TEST(copy, shapes_and_gradients_of_the_graph_nodes) {
  Graph g;
  Var x = g.input("x", type("f32[2x3x4x5]")), y = g.input("y", type("f32[2x7x4x5]"));
  EXPECT_EQ(flatten_rows(x).type(), type("f32[2x60]"));
  EXPECT_EQ(g.nodes.back().layer, "flatten");
  Node const flatten = g.nodes.back();
  Var const dy[] = {g.input("d", type("f32[2x60]"))};
  EXPECT_EQ(flatten.op->gradient(g, flatten, dy)[0].type(), type("f32[2x3x4x5]"));
  Var const both[] = {x, y};
  EXPECT_EQ(concat(both).type(), type("f32[2x10x4x5]"));
  Node const joined = g.nodes.back();
  Var const dz[] = {g.input("z", type("f32[2x10x4x5]"))};
  auto const parts = joined.op->gradient(g, joined, dz);
  EXPECT_EQ(parts[0].type(), x.type());
  EXPECT_EQ(parts[1].type(), y.type());
  TensorType const in[] = {type("f32[2x10x4x5]nhwc")}, out[] = {type("f32[2x7x4x5]nhwc")};
  EXPECT_EQ(g.nodes.back().op->problem(in, out), "kind=slice from=f32[2x10x4x5]nhwc to=f32[2x7x4x5]nhwc begin=3");
  EXPECT_EQ(convert(x, DType::bf16, Layout::nhwc).type(), type("bf16[2x3x4x5]nhwc"));
  EXPECT_EQ(reshape(x, {6, 20}).type(), type("f32[6x20]"));
}

TEST(copy, shapes_that_do_not_fit_are_shape_errors_that_name_the_layer) {
  Graph g;
  Var x = g.input("x", type("f32[2x3x4x5]")), y = g.input("y", type("f32[2x3x4x4]"));
  auto message = [](auto make) {
    try {
      make();
    } catch (Error const& e) {
      EXPECT_EQ(e.kind, ErrorKind::shape);
      EXPECT_EQ(e.layer, "here");
      return e.message;
    }
    return std::string("none");
  };
  Var const both[] = {x, y};
  EXPECT_NE(message([&] { concat(both, "here"); }).find("differs in more than that"), std::string::npos);
  EXPECT_NE(message([&] { reshape(x, {7}, "here"); }).find("cannot be reshaped"), std::string::npos);
}
