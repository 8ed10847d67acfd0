// The matrix product: its problem text, its shape rule and its linear layer.
#include "agreement.h"
#include "falconet/base/error.h"
#include "falconet/ops/gemm/algorithms.h"
#include "falconet/ops/gemm/op.h"

namespace {
using namespace falconet;
using namespace falconet::agreement;

std::string error_of(auto&& action) {
  try {
    action();
  } catch (Error const& e) {
    return e.message;
  }
  return "no error";
}

TEST(gemm_problem, prints_as_it_parses) {
  for (auto const& text : problems_of("gemm", 1e18)) {
    expect_round_trip<GemmProblem>(text);
    EXPECT_EQ(GemmProblem::parse(text).text(), text);
  }
  GemmProblem p;
  p.m = 3, p.trans_b = true, p.a_type = p.b_type = DType::bf16;
  p.store.residual = true, p.store.act = Activation::leaky_relu;
  EXPECT_EQ(p.text(), "m=3 n=1 k=1 ta=0 tb=1 types=bf16,bf16,f32 store=residual+leaky_relu");
}

TEST(gemm_problem, refuses_what_it_cannot_mean) {
  EXPECT_EQ(error_of([] { GemmProblem::parse("m=3 n=4"); }), "problem 'm=3 n=4' lacks 'k'");
  EXPECT_EQ(error_of([] { GemmProblem::parse("m=3 n=4 k=0"); }), "matrix product 'm=3 n=4 k=0': every size is at least 1 and below 2^31");
  EXPECT_EQ(error_of([] { GemmProblem::parse("m=3 n=4 k=5 store=pool"); }), "matrix product: unknown store slot 'pool'");
  EXPECT_EQ(error_of([] { GemmProblem::parse("m=3 n=4 k=5 types=f64,f32,f32"); }),
            "matrix product 'm=3 n=4 k=5 types=f64,f32,f32': f64 does not mix with other types");
  EXPECT_EQ(error_of([] { GemmProblem::parse("m=3 n=4 k=5 types=u8"); }),
            "matrix product 'm=3 n=4 k=5 types=u8': matrix products are of f64, f32 or bf16");
}

// Where all of B is packed at once and tasks are bands of rows: sizes that fill neither, operands in pairs with an odd k, every slot.
TEST(gemm, large_products_agree_with_the_reference) {
  for (char const* text : {"m=519 n=1013 k=487 ta=0 tb=0 types=f32 store=bias+relu", "m=261 n=801 k=1199 ta=1 tb=1 types=bf16 store=bias+residual+relu+mask",
                           "m=700 n=193 k=1901 ta=1 tb=0 types=bf16,bf16,f32", "m=300 n=900 k=950 ta=0 tb=1 types=bf16,f32,bf16 store=residual"})
    expect_agreement("gemm", text);
}

TEST(linear_layer, names_the_sizes_that_do_not_fit) {
  Graph g;
  Var x = g.input("x", {DType::f32, {64, 784}});
  Var w = g.parameter("fc1.weight", {DType::f32, {128, 800}}, {});
  Var b = g.parameter("fc1.bias", {DType::f32, {128}}, {});
  try {
    linear(x, w, b, "fc1");
    FAIL() << "accepted";
  } catch (Error const& e) {
    EXPECT_EQ(e.kind, ErrorKind::shape);
    EXPECT_EQ(e.layer, "fc1");
    EXPECT_EQ(e.message, "expects 800 inputs, x has 784; x is 784, the input");
  }
  Var image = g.input("image", {DType::f32, {64, 1, 28, 28}});
  EXPECT_EQ(error_of([&] { linear(image, w, b, "fc1"); }),
            "expects a matrix [batch, inputs], x has 4 axes; put flatten before it; x is 1x28x28, the input");
}

TEST(linear_layer, describes_itself_as_a_problem) {
  Graph g;
  Var x = g.input("x", {DType::f32, {64, 800}});
  Var y = linear(x, g.parameter("fc1.weight", {DType::f32, {128, 800}}, {}), g.parameter("fc1.bias", {DType::f32, {128}}, {}), "fc1");
  EXPECT_EQ(y.shape(), (Shape{64, 128}));
  TensorType const in[] = {x.type(), {DType::f32, {128, 800}}, {DType::f32, {128}}};
  EXPECT_EQ(g.nodes[0].op->problem(in, std::span(&y.type(), 1)), "m=64 n=128 k=800 ta=0 tb=1 types=f32 store=bias");
  EXPECT_EQ(g.nodes[0].op->attributes(), "b^T store=bias");
  // Mixed precision: the result follows x, the gradient of a parameter is f32.
  TensorType const half[] = {{DType::bf16, {64, 800}}, {DType::bf16, {128, 800}}, {DType::f32, {128}}};
  EXPECT_EQ(g.nodes[0].op->infer(half)[0].dtype, DType::bf16);
  TensorType const products[] = {{DType::bf16, {64, 128}}, {DType::bf16, {64, 800}}};
  EXPECT_EQ(GemmOp(true, false, {}, true).infer(products)[0], (TensorType{DType::f32, {128, 800}}));
}

}  // namespace
