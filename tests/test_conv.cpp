// Convolution as a value and as an operation: texts, operand orders, shape rules, gradients as nodes, and the reference's slots.
#include <gtest/gtest.h>

#include "agreement.h"
#include "conv_case.h"
#include "falconet/base/error.h"
#include "falconet/ops/conv/op.h"

namespace falconet {
namespace {

std::vector<std::string> names(ConvProblem const& p) {
  std::vector<std::string> out;
  for (auto const& o : p.operands()) out.push_back((o.written ? ">" : "") + o.name);
  return out;
}
using Names = std::vector<std::string>;

TEST(ConvProblem, PrintsWhatItParses) {
  for (auto text :
       {"fwd n256 c64 hw56 k64 rs3 p1 bf16 nhwc", "fwd n1 c1 hw1 k1 rs1 f32 nhwc", "bwd_data n2 c3 h4 w5 k6 r1 s2 f64 nchw",
        "bwd_filter n2 c6 h9 w7 k4 r3 s5 p0.1.2.3 st2.1 d1.2 g2 bf16,f32,bf16 nchw load_x=scale_shift+relu load_dy=two_operand+max_unpool2 store=bias",
        "fwd n64 c8 hw24 k8 rs5 f32 nhwc store=bias+relu+max_pool2", "fwd n8 c8 hw24 k8 rs3 p1 st3 d2 f32 nhwc load_x=scale_shift+gelu store=scale_shift+residual+squares",
        "bwd_data n64 c8 hw24 k8 rs5 f32 nhwc load_dy=two_operand store=residual+mask+dot", "fwd n2 c8 hw8 k8 rs3 p1 f32 nhwc math=tf32 store=bias+relu"})
    EXPECT_EQ(ConvProblem::parse(text).text(), text);
}

TEST(ConvProblem, ExtentsBeyondAnIntAreRefused) {   // 2^24 * (2^24 - 1) is negative in 32 bits
  for (auto text : {"n1 c1 hw16777216 k1 r16777216 s1 d16777216 f32 nhwc", "n1 c1 hw8 k1 r129 s1 d16777216 f32 nhwc", "n1 c1 hw8 k1 r1 s257 d8388608 f32 nhwc"})
    try {
      ConvProblem::parse(text);
      ADD_FAILURE() << text;
    } catch (Error const& e) {
      EXPECT_NE(e.message.find("the filter is larger than the padded image"), std::string::npos) << e.message;
    }
}

TEST(ConvProblem, SurvivesTextForEveryListedProblemAndManyRandomOnes) {
  for (auto const& list : agreement::lists_of("conv"))
    for (auto const& line : read_problem_list(list)) {
      auto const p = ConvProblem::parse(line);
      EXPECT_EQ(ConvProblem::parse(p.text()), p) << line;
    }
  std::mt19937 bits(7);
  auto below = [&](int limit) { return int(bits() % unsigned(limit)); };
  auto activation = [&] { return Activation(below(8)); };
  for (int i = 0; i < 2000; ++i) {
    ConvProblem p;
    p.direction = Direction(below(3));
    p.groups = 1 + below(3);
    p.n = 1 + below(9), p.c = p.groups * (1 + below(9)), p.k = p.groups * (1 + below(9));
    p.r = 1 + below(4), p.s = 1 + below(4), p.dilation_h = 1 + below(3), p.dilation_w = 1 + below(3);
    p.h = 12 + below(20), p.w = below(2) ? p.h : 12 + below(20);
    p.pad_top = below(3), p.pad_left = below(3), p.pad_bottom = below(3), p.pad_right = below(3);
    p.stride_h = 1 + below(2), p.stride_w = 1 + below(2);
    p.x_type = DType(below(3)), p.w_type = DType(below(3)), p.y_type = DType(below(3));
    p.layout = Layout(below(2));
    if (p.direction != Direction::bwd_data) p.load_x = {below(2) ? Affine::scale_shift : Affine::none, activation(), {}};
    if (p.direction != Direction::fwd) p.load_dy = {below(2) ? Affine::two_operand : Affine::none, activation(), {}};
    if (p.direction != Direction::fwd && below(2)) p.load_dy.unpool = {below(2) ? PoolSlot::max : PoolSlot::average, 2};
    p.store.bias = below(2);
    if (p.direction != Direction::bwd_filter) {
      p.store.affine = below(2) ? Affine::scale_shift : Affine::none;
      p.store.act = activation();
      p.store.stats = Stats(below(3));
      if (p.direction == Direction::fwd && below(2)) p.store.pool = below(3) ? PoolSlot{PoolSlot::max, std::uint8_t(2 + below(2))} : PoolSlot{PoolSlot::average, 2};
      else p.store.residual = below(2), p.store.mask = Mask(below(2));
    }
    if (p.one_type(DType::f32)) p.math = Math(below(2));
    EXPECT_EQ(ConvProblem::parse(p.text()), p) << p.text();
  }
}

// TF32 is a permission: whoever computes exactly runs such a problem like any other.
TEST(ConvProblem, ThatAllowsTf32IsRunByTheSameAlgorithmsOfTheCpu) {
  DeviceFacts const cpu;
  for (std::string const direction : {"fwd", "bwd_data", "bwd_filter"}) {
    auto const exact = conv_algorithms().candidates(direction + " n2 c8 hw9 k8 rs3 p1 f32 nhwc", cpu), allowed = conv_algorithms().candidates(direction + " n2 c8 hw9 k8 rs3 p1 f32 nhwc math=tf32", cpu);
    ASSERT_EQ(exact.size(), allowed.size());
    for (std::size_t i = 0; i < exact.size(); ++i) EXPECT_EQ(exact[i].refusal, allowed[i].refusal) << exact[i].algorithm;
  }
  agreement::expect_agreement("conv", "n2 c8 hw9 k8 rs3 p1 f32 nhwc math=tf32 store=bias+relu");
}

TEST(ConvProblem, RefusesNonsense) {
  for (auto text : {"fwd n0 c1 hw3 k1 rs1 f32 nhwc", "fwd n1 c3 hw3 k4 rs1 g2 f32 nhwc", "fwd n1 c1 hw3 k1 rs5 f32 nhwc", "fwd n1 q3", "sideways n1", "fwd n1 c1 hw8 k1 rs1 f16 nhwc",
                    "fwd n1 c1 hw3 k1 rs3 f32 nhwc store=max_pool2", "fwd n1 c1 hw8 k1 rs1 f32 nhwc store=max_pool99", "fwd n1 c1 hw8 k1 rs1 f32 nhwc store=average_pool3", "fwd n1 c1 hw8 k1 rs1 f32 nhwc load_dy=max_unpool2",
                    "bwd_data n1 c1 hw8 k1 rs1 f32 nhwc load_x=relu", "bwd_filter n1 c1 hw8 k1 rs1 f32 nhwc store=relu", "bwd_data n1 c1 hw8 k1 rs1 f32 nhwc store=max_pool2",
                    "fwd n1 c1 hw8 k1 rs1 f32 nhwc store=mask+max_pool2", "fwd n1 c1 hw8 k1 rs1 f32 nhwc stow=mask", "fwd n1 c1 hw8 k1 rs1 p1.2.3.4.5 f32 nhwc",
                    "fwd n1 c1 hw8 k1 rs1 bf16 nhwc math=tf32", "fwd n1 c1 hw8 k1 rs1 f32 nhwc math=fast",
                    "bwd n1 c1 hw8 k1 rs1 f32 nhwc store=bias", "bwd_data n1 c1 hw8 k1 rs1 f32 nhwc store=mask_x", "fwd n1 c1 hw8 k1 rs1 f32 nhwc store=dot_x",
                    "bwd_data n1 c1 hw8 k1 rs1 f32 nhwc load_x=scale_shift+relu", "bwd_data n1 c1 hw8 k1 rs1 f32 nhwc load_x=scale_shift+relu store=mask_x", "bwd_data n1 c1 hw8 k1 rs1 f32 nhwc load_x=relu store=mask_x+dot_x",
                    "bwd n1 c1 hw8 k1 rs1 f32 nhwc load_x=gelu store=mask_x"})
    EXPECT_THROW(ConvProblem::parse(text), Error) << text;
}

TEST(ConvProblem, ListsOperandsInOneOrder) {
  auto parsed = [](std::string const& text) { return names(ConvProblem::parse(text)); };
  EXPECT_EQ(parsed("fwd n2 c4 hw8 k6 rs3 f32 nhwc"), (Names{"x", "w", ">y"}));
  EXPECT_EQ(parsed("fwd n2 c4 hw8 k6 rs3 f32 nhwc store=bias+relu+max_pool2"), (Names{"x", "w", "bias", ">y", ">winner"}));
  EXPECT_EQ(parsed("fwd n2 c4 hw8 k6 rs3 f32 nhwc load_x=scale_shift+relu store=scale_shift+residual+squares"),
            (Names{"x", "w", "load_x", "store_affine", "residual", "step", ">y", ">stats"}));
  EXPECT_EQ(parsed("bwd_data n2 c4 hw8 k6 rs3 f32 nhwc"), (Names{"w", "dy", ">dx"}));
  EXPECT_EQ(parsed("bwd_data n2 c4 hw8 k6 rs3 f32 nhwc load_dy=two_operand+max_unpool2 store=residual+mask+dot"),
            (Names{"w", "dy", "load_dy", "load_dy_other", "winner", "residual", "mask", "step", ">dx", ">stats"}));
  EXPECT_EQ(parsed("bwd_filter n2 c4 hw8 k6 rs3 f32 nhwc store=bias"), (Names{"x", "dy", ">dw", ">db"}));
  EXPECT_EQ(parsed("bwd n2 c4 hw8 k6 rs3 f32 nhwc"), (Names{"x", "w", "dy", ">dx", ">dw"}));
  EXPECT_EQ(parsed("bwd n2 c4 hw8 k6 rs3 f32 nhwc load_x=scale_shift+relu6 load_dy=two_operand store=residual+mask_x+dot_x"),
            (Names{"x", "w", "dy", "load_x", "load_dy", "load_dy_other", "residual", "step", ">dx", ">stats", ">dw"}));
  EXPECT_EQ(parsed("bwd_data n2 c4 hw8 k6 rs3 f32 nhwc load_x=scale_shift+relu store=mask_x+dot_x"), (Names{"w", "dy", "load_x", "x", "step", ">dx", ">stats"}));
}

std::string message_of(auto body) {
  try {
    body();
  } catch (Error const& e) {
    EXPECT_EQ(e.kind, ErrorKind::shape);
    return e.message;
  }
  return "no error";
}

TEST(Conv2d, SaysWhatDoesNotFit) {
  Graph g;
  Var x = g.input("x", {DType::f32, Shape{2, 16, 32, 30}, Layout::nchw});
  Var flat = g.input("flat", {DType::f32, Shape{2, 64}, Layout::nchw});
  auto weight = [&, i = 0](Shape s) mutable { return g.parameter("w" + std::to_string(i++), {DType::f32, s, Layout::nchw}, {}); };
  auto conv = [&](Var from, Shape w, ConvOptions options, Shape bias = {}) {
    Var b = bias.rank() ? weight(bias) : Var();
    return message_of([&] { conv2d(from, weight(w), b, options, "net.conv1"); });
  };
  EXPECT_EQ(conv(x, {8, 16, 3, 3}, {}), "no error");
  EXPECT_EQ(conv(x, {9, 5, 3, 3}, {.groups = 3}), "3 groups do not divide 16 input channels; x is 16x32x30, the input");
  EXPECT_EQ(conv(x, {6, 4, 3, 3}, {.groups = 4}), "4 groups do not divide 6 output channels; x is 16x32x30, the input");
  EXPECT_EQ(conv(x, {8, 3, 3, 3}, {}), "the weight 8x3x3x3 expects 3 input channels, the input has 16; x is 16x32x30, the input");
  EXPECT_EQ(conv(x, {8, 16, 35, 3}, {.padding = {1, 0, 1, 0}}), "a filter of 35x3 does not fit into the padded input of 34x30; x is 16x32x30, the input");
  EXPECT_EQ(conv(x, {8, 16, 3, 3}, {.stride = {0, 1}}), "the stride should be at least 1, not 0x1; x is 16x32x30, the input");
  EXPECT_EQ(conv(x, {8, 16, 3, 3}, {.dilation = {1, 0}}), "the dilation should be at least 1, not 1x0; x is 16x32x30, the input");
  EXPECT_EQ(conv(x, {8, 16, 3, 3}, {.padding = {0, 0, -1, 0}}), "the padding should not be negative; x is 16x32x30, the input");
  EXPECT_EQ(conv(x, {8, 16, 3, 3}, {.groups = 0}), "groups should be at least 1, not 0; x is 16x32x30, the input");
  EXPECT_EQ(conv(x, {8, 16, 3, 3}, {}, {7}), "the bias of this convolution should be 8, not 7; x is 16x32x30, the input");
  EXPECT_EQ(conv(flat, {8, 64, 3, 3}, {}), "the input of a convolution has four axes (batch, channels, height, width), not 2x64; x is 64, the input");
  EXPECT_EQ(conv(x, {8, 16}, {}), "the weight of a convolution has four axes (out channels, in channels / groups, height, width), not 8x16; x is 16x32x30, the input");
}

TEST(Conv2d, ErrorsNameLayerAndLine) {
  Graph g;
  Var x = g.input("x", {DType::f32, Shape{1, 16, 8, 8}, Layout::nchw});
  Var w = g.parameter("w", {DType::f32, Shape{6, 5, 3, 3}, Layout::nchw}, {});
  try {
    conv2d(x, w, {}, {.groups = 3}, "layer2.0.conv1");
    FAIL();
  } catch (Error const& e) {
    EXPECT_EQ(e.layer, "layer2.0.conv1");
    EXPECT_NE(std::string(e.what()).find("layer2.0.conv1: 3 groups do not divide 16 input channels"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.where.file_name()).find("test_conv.cpp"), std::string::npos);
  }
}

TEST(Conv2d, InfersExtentsTypesAndLayouts) {
  Graph g;
  Var x = g.input("x", {DType::f32, Shape{2, 6, 9, 7}, Layout::nchw});
  Var w = g.parameter("w", {DType::f32, Shape{4, 3, 3, 5}, Layout::nchw}, {});
  Var y = conv2d(x, w, {}, {.stride = {2, 1}, .padding = {0, 1, 2, 3}, .dilation = {1, 2}, .groups = 2}, "conv");
  EXPECT_EQ(y.type(), (TensorType{DType::f32, Shape{2, 4, 5, 3}, Layout::nchw}));
  auto const& node = g.nodes.back();
  TensorType const xt{DType::bf16, Shape{2, 6, 9, 7}, Layout::nhwc}, wt{DType::bf16, Shape{4, 3, 3, 5}, Layout::nhwc};
  TensorType const in[] = {xt, wt};
  auto const out = node.op->infer(in);
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(out[0], (TensorType{DType::bf16, Shape{2, 4, 5, 3}, Layout::nhwc}));
  EXPECT_EQ(node.op->problem(in, out), "fwd n2 c6 h9 w7 k4 r3 s5 p0.1.2.3 st2.1 d1.2 g2 bf16 nhwc");
}

TEST(Conv2d, HasItsGradientsAsNodesOfTheOtherDirections) {
  Graph g;
  Var x = g.input("x", {DType::f32, Shape{2, 3, 9, 9}, Layout::nchw});
  Var w = g.parameter("w", {DType::f32, Shape{8, 3, 3, 3}, Layout::nchw}, {});
  Var b = g.parameter("b", {DType::f32, Shape{8}, Layout::nchw}, {});
  Var y = conv2d(x, w, b, {.stride = {2, 2}, .padding = {1, 1, 1, 1}}, "conv");
  Var dy = g.input("dy", y.type());
  Node const node = g.nodes.back();
  auto const grads = node.op->gradient(g, node, std::vector<Var>{dy});
  ASSERT_EQ(grads.size(), 3u);
  EXPECT_EQ(grads[0].type(), x.type());
  EXPECT_EQ(grads[1].type(), w.type());
  EXPECT_EQ(grads[2].type(), b.type());
  auto problem = [&](Node const& n) {
    std::vector<TensorType> in, out;
    for (ValueId v : n.in) in.push_back(g.values[std::size_t(v)].type);
    for (ValueId v : n.out) out.push_back(g.values[std::size_t(v)].type);
    return n.op->problem(in, out);
  };
  auto const& data = g.nodes[std::size_t(g.values[std::size_t(grads[0].id())].from)];
  auto const& filter = g.nodes[std::size_t(g.values[std::size_t(grads[1].id())].from)];
  EXPECT_EQ(data.direction, "bwd_data");
  EXPECT_EQ(filter.direction, "bwd_filter");
  EXPECT_EQ(problem(data), "bwd_data n2 c3 hw9 k8 rs3 p1 st2 f32 nchw");
  EXPECT_EQ(problem(filter), "bwd_filter n2 c3 hw9 k8 rs3 p1 st2 f32 nchw");
  EXPECT_EQ(g.result_direction, "fwd");
}

TEST(ConvOp, WithSlotsAsksForTheirOperandsAndGivesTheirResults) {
  OnStore store;
  store.bias = true;
  store.act = Activation::relu;
  store.pool = {PoolSlot::max, 2};
  auto const fused = ConvOp(Direction::fwd, {}).with_store(store);
  TensorType const x{DType::f32, Shape{2, 8, 24, 24}, Layout::nhwc}, w{DType::f32, Shape{8, 8, 5, 5}, Layout::nhwc}, bias{DType::f32, Shape{8}, Layout::nchw};
  auto const out = fused->infer(std::vector{x, w, bias});
  ASSERT_EQ(out.size(), 2u);
  EXPECT_EQ(out[0], (TensorType{DType::f32, Shape{2, 8, 10, 10}, Layout::nhwc}));
  EXPECT_EQ(out[1], (TensorType{DType::u8, Shape{2, 8, 10, 10}, Layout::nhwc}));
  EXPECT_EQ(fused->problem(std::vector{x, w, bias}, out), "fwd n2 c8 hw24 k8 rs5 f32 nhwc store=bias+relu+max_pool2");
  EXPECT_EQ(fused->attributes(), "fwd store=bias+relu+max_pool2");

  OnLoad unpool;
  unpool.unpool = {PoolSlot::max, 2};
  OnStore db;
  db.bias = true;
  auto const filter = ConvOp(Direction::bwd_filter, {}, w.shape).with_load_dy(unpool)->with_store(db);
  auto const grads = filter->infer(std::vector{x, out[0], out[1]});
  ASSERT_EQ(grads.size(), 2u);
  EXPECT_EQ(grads[0], w);
  EXPECT_EQ(grads[1], bias);
}

// Both gradients at once are those of the two directions, with x, its mask and its sums; so is a data gradient that reads x beside its result.
TEST(ConvReference, MakesBothGradientsAtOnce) {
  for (std::string const geometry : {"n3 c6 h7 w5 k6 rs3 p1 st2 g6", "n2 c4 h5 w6 k3 rs1"}) {
    ConvCase both(ConvProblem::parse("bwd " + geometry + " f64 nhwc load_x=scale_shift+relu6 load_dy=two_operand store=mask_x+dot_x"), Filling::normal);
    ConvCase data(ConvProblem::parse("bwd_data " + geometry + " f64 nhwc load_dy=two_operand store=mask6+dot_other"), Filling::normal, 2);
    ConvCase filter(ConvProblem::parse("bwd_filter " + geometry + " f64 nhwc load_x=scale_shift+relu6 load_dy=two_operand"), Filling::normal, 3);
    ConvCase of_x(ConvProblem::parse("bwd_data " + geometry + " f64 nhwc load_x=scale_shift+relu6 load_dy=two_operand store=mask_x+dot_x"), Filling::normal, 4);
    auto const same = [&](ConvCase const& to, std::string_view name, std::string_view as) {
      View const a = to.operand(name), b = both.operand(as);
      std::memcpy(a.data, b.data, b.type.bytes());
    };
    both.operand("step").as<StepState>()->valid_count = both.problem.n;      // the other directions know of no padding in dy
    for (auto const* name : {"w", "dy", "load_dy", "load_dy_other", "step"}) same(data, name, name);
    same(data, "other", "x");
    for (auto const* name : {"x", "dy", "load_x", "load_dy", "load_dy_other"}) same(filter, name, name);
    for (auto const* name : {"w", "dy", "load_x", "x", "load_dy", "load_dy_other", "step"}) same(of_x, name, name);
    View const x = both.operand("x"), vectors = both.operand("load_x"), mask = data.operand("mask");
    int const c = both.problem.c;
    for (std::int64_t i = 0; i < x.type.shape.elements(); ++i)
      store_element(mask, i, activate(Activation::relu6, load_element(vectors, i % c) * load_element(x, i) + load_element(vectors, c + i % c)));
    for (ConvCase* one : {&both, &data, &filter, &of_x}) one->run(conv_reference, 2, Isa::plain);
    auto const equal = [&](std::string_view name, ConvCase const& other) {
      for (std::int64_t i = 0; i < other.operand(name).type.shape.elements(); ++i)
        EXPECT_EQ(load_element(both.operand(name), i), load_element(other.operand(name), i)) << geometry << " " << name << " " << i;
    };
    equal("dx", data), equal("stats", data), equal("dw", filter), equal("dx", of_x), equal("stats", of_x);
  }
}

// The reference's slots, each against plain loops around the reference without slots.
struct Unfused {
  ConvProblem p;
  ConvCase fused;
  explicit Unfused(std::string const& text) : p(ConvProblem::parse(text)), fused(p, Filling::normal) { fused.run(conv_reference, 1, Isa::plain); }
  // The convolution alone, with x and dy as given.
  ConvCase alone(auto change) const {
    ConvProblem plain = p;
    plain.load_x = plain.load_dy = {}, plain.store = {};
    ConvCase c(plain, Filling::normal, 2);
    for (auto name : {"x", "w", "dy"})
      if (c.operand(name).data && fused.operand(name).data && c.operand(name).type == fused.operand(name).type)
        std::memcpy(c.operand(name).data, fused.operand(name).data, c.operand(name).type.bytes());
    change(c);
    c.run(conv_reference, 1, Isa::plain);
    return c;
  }
};

TEST(ConvReference, StoreSlotsComeInTheirOrderAfterTheConvolution) {
  Unfused const u("fwd n3 c4 hw6 k5 rs3 p1 f64 nhwc store=scale_shift+bias+residual+relu+mask+squares");
  auto const plain = u.alone([](ConvCase&) {});
  std::vector<double> sum(5), squares(5);
  for (std::int64_t i = 0; i < 3 * 6 * 6 * 5; ++i) {
    int const k = int(i % 5);
    double v = load_element(u.fused.operand("store_affine"), k) * load_element(plain.operand("y"), i) + load_element(u.fused.operand("store_affine"), 5 + k);
    v = std::max(0.0, v + load_element(u.fused.operand("bias"), k) + load_element(u.fused.operand("residual"), i));
    if (load_element(u.fused.operand("mask"), i) <= 0) v = 0;
    EXPECT_NEAR(load_element(u.fused.operand("y"), i), v, 1e-12);
    if (i >= 2 * 6 * 6 * 5) continue;                      // valid_count is 2
    sum[std::size_t(k)] += v;
    squares[std::size_t(k)] += v * v;
  }
  for (int k = 0; k < 5; ++k) {
    EXPECT_NEAR(load_element(u.fused.operand("stats"), k), sum[std::size_t(k)], 1e-10);
    EXPECT_NEAR(load_element(u.fused.operand("stats"), 5 + k), squares[std::size_t(k)], 1e-10);
  }
}

TEST(ConvReference, PoolsAndNamesTheWinner) {
  Unfused const u("fwd n2 c3 hw9 k4 rs3 f64 nchw store=bias+relu+max_pool3");
  auto const plain = u.alone([](ConvCase&) {});
  for (int nk = 0; nk < 2 * 4; ++nk)
    for (int i = 0; i < 2; ++i)
      for (int j = 0; j < 2; ++j) {
        double best = 0;
        int winner = no_winner;
        for (int r = 0; r < 3; ++r)
          for (int s = 0; s < 3; ++s) {
            double const v = load_element(plain.operand("y"), (nk * 7 + i * 3 + r) * 7 + j * 3 + s) + load_element(u.fused.operand("bias"), nk % 4);
            if (v > best) best = v, winner = r * 3 + s;
          }
        EXPECT_DOUBLE_EQ(load_element(u.fused.operand("y"), (nk * 2 + i) * 2 + j), best);
        EXPECT_EQ(load_element(u.fused.operand("winner"), (nk * 2 + i) * 2 + j), winner);
      }
}

TEST(ConvReference, AveragesWindowsAndSaysWhichPlacesPassed) {
  Unfused const u("fwd n2 c3 hw7 k4 rs3 f64 nhwc store=bias+relu6+average_pool2");
  auto const plain = u.alone([](ConvCase&) {});
  for (int n = 0; n < 2; ++n)
    for (int i = 0; i < 2; ++i)                              // 5x5 results: the last row and column are in no window
      for (int j = 0; j < 2; ++j)
        for (int k = 0; k < 4; ++k) {
          double sum = 0;
          int passed = 0;
          for (int place = 0; place < 4; ++place) {
            double const v = load_element(plain.operand("y"), ((n * 5 + 2 * i + place / 2) * 5 + 2 * j + place % 2) * 4 + k) + load_element(u.fused.operand("bias"), k);
            sum += std::min(6.0, std::max(0.0, v));
            if (v > 0 && v < 6) passed += 1 << place;
          }
          std::int64_t const at = ((n * 2 + i) * 2 + j) * 4 + k;
          EXPECT_NEAR(load_element(u.fused.operand("y"), at), sum / 4, 1e-12);
          EXPECT_EQ(load_element(u.fused.operand("winner"), at), passed);
        }
}

TEST(ConvReference, SharesAnAveragesGradientAmongThePlacesThatPassed) {
  Unfused const u("bwd_filter n2 c3 hw7 k4 rs3 f64 nhwc load_dy=average_unpool2 store=bias");
  auto const spread = [&](int n, int i, int j, int k) {
    if (i >= 4 || j >= 4) return 0.0;
    std::int64_t const from = ((n * 2 + i / 2) * 2 + j / 2) * 4 + k;
    return int(load_element(u.fused.operand("winner"), from)) >> (i % 2 * 2 + j % 2) & 1 ? load_element(u.fused.operand("dy"), from) / 4 : 0.0;
  };
  double db[4] = {};
  auto const plain = u.alone([&](ConvCase& c) {
    for (int n = 0; n < 2; ++n)
      for (int i = 0; i < 5; ++i)
        for (int j = 0; j < 5; ++j)
          for (int k = 0; k < 4; ++k) store_element(c.operand("dy"), ((n * 5 + i) * 5 + j) * 4 + k, spread(n, i, j, k)), db[k] += spread(n, i, j, k);
  });
  for (std::int64_t i = 0; i < 4 * 3 * 3 * 3; ++i) EXPECT_NEAR(load_element(u.fused.operand("dw"), i), load_element(plain.operand("dw"), i), 1e-12);
  for (int k = 0; k < 4; ++k) EXPECT_NEAR(load_element(u.fused.operand("db"), k), db[k], 1e-12);
}

TEST(ConvReference, LoadSlotsChangeOperandsBeforeTheConvolutionAndPaddingStaysZero) {
  Unfused const u("fwd n2 c3 hw5 k4 rs3 p1 f64 nhwc load_x=scale_shift+sigmoid");
  auto const plain = u.alone([&](ConvCase& c) {
    for (std::int64_t i = 0; i < 2 * 25 * 3; ++i)
      store_element(c.operand("x"), i, activate(Activation::sigmoid, load_element(u.fused.operand("load_x"), i % 3) * load_element(c.operand("x"), i) + load_element(u.fused.operand("load_x"), 3 + i % 3)));
  });
  for (std::int64_t i = 0; i < 2 * 25 * 4; ++i) EXPECT_NEAR(load_element(u.fused.operand("y"), i), load_element(plain.operand("y"), i), 1e-12);
}

TEST(ConvReference, UnpoolsDyAfterItsAffineAndSumsTheDotOfTheResult) {
  Unfused const u("bwd_data n3 c3 hw7 k4 rs3 p1 f64 nhwc load_dy=two_operand+max_unpool2 store=dot");
  auto const plain = u.alone([&](ConvCase& c) {
    View const dy = u.fused.operand("dy"), other = u.fused.operand("load_dy_other"), abc = u.fused.operand("load_dy");
    for (std::int64_t n = 0; n < 3; ++n)
      for (int i = 0; i < 7; ++i)
        for (int j = 0; j < 7; ++j)
          for (int k = 0; k < 4; ++k) {
            std::int64_t const from = ((n * 3 + i / 2) * 3 + j / 2) * 4 + k;
            bool const inside = i < 6 && j < 6;
            bool const wins = inside && load_element(u.fused.operand("winner"), from) == (i % 2) * 2 + j % 2;
            store_element(c.operand("dy"), ((n * 7 + i) * 7 + j) * 4 + k,
                        wins ? load_element(abc, k) * load_element(dy, from) + load_element(abc, 4 + k) * load_element(other, from) + load_element(abc, 8 + k) : 0);
          }
  });
  double dot[3] = {}, sum[3] = {};
  for (std::int64_t i = 0; i < 3 * 49 * 3; ++i) {
    EXPECT_NEAR(load_element(u.fused.operand("dx"), i), load_element(plain.operand("dx"), i), 1e-12);
    if (i >= 2 * 49 * 3) continue;
    dot[i % 3] += load_element(plain.operand("dx"), i) * load_element(u.fused.operand("mask"), i);
    sum[i % 3] += load_element(plain.operand("dx"), i);
  }
  for (int c = 0; c < 3; ++c) {
    EXPECT_NEAR(load_element(u.fused.operand("stats"), c), dot[c], 1e-10);
    EXPECT_NEAR(load_element(u.fused.operand("stats"), 3 + c), sum[c], 1e-10);
  }
}

// <dy, conv(x,w)> is linear in x and in w: its derivatives are exact differences, without any step size.
TEST(ConvReference, GradientsAreTheAdjointsOfTheForwardConvolution) {
  for (auto text : {"n2 c6 h9 w7 k4 r3 s5 p0.1.2.3 st2.1 d1.2 g2 f64 nhwc", "n2 c3 hw8 k5 rs3 p1 st3 f64 nchw", "n1 c4 hw5 k4 rs2 p1 g4 f64 nhwc"}) {
    auto problem = [&](char const* direction) { return ConvProblem::parse(std::string(direction) + " " + text); };
    ConvCase fwd(problem("fwd"), Filling::normal), data(problem("bwd_data"), Filling::normal, 2), filter(problem("bwd_filter"), Filling::normal, 3);
    auto share = [](ConvCase& to, char const* name, ConvCase& from) { std::memcpy(to.operand(name).data, from.operand(name).data, to.operand(name).type.bytes()); };
    share(data, "w", fwd), share(filter, "x", fwd), share(filter, "dy", data);
    for (ConvCase* c : {&fwd, &data, &filter}) c->run(conv_reference, 1, Isa::plain);
    auto dot = [](View a, View b) {
      double sum = 0;
      for (std::int64_t i = 0; i < a.type.shape.elements(); ++i) sum += load_element(a, i) * load_element(b, i);
      return sum;
    };
    double const loss = dot(fwd.operand("y"), data.operand("dy"));
    EXPECT_NEAR(dot(fwd.operand("x"), data.operand("dx")), loss, 1e-10) << text;
    EXPECT_NEAR(dot(fwd.operand("w"), filter.operand("dw")), loss, 1e-10) << text;
  }
}

}  // namespace
}  // namespace falconet
