// The 1x1 product and direct convolution where they take special paths: each store slot, weights that are dealt to tasks, sums in pieces, results that
// are written past the caches; and the reasons for which the product refuses.
#include "agreement.h"
#include "falconet/ops/conv/algorithms.h"

namespace {
using namespace falconet;

TEST(Pointwise, agrees_with_the_reference_with_every_slot) {
  for (char const* text : {"n1 c1 hw1 k8 rs1 f32 nhwc", "n2 c7 h3 w5 k33 rs1 f32 nhwc", "n3 c33 hw7 k8 rs1 f32 nhwc", "n1 c130 h5 w4 k65 rs1 f32 nhwc", "n2 c16 h9 w11 k48 rs1 st2 f32 nhwc",
                           "n1 c40 h7 w10 k20 rs1 st3.2 f32 nhwc", "n1 c64 hw12 k112 rs1 f32 nhwc"})
    for (auto direction : {Direction::fwd, Direction::bwd_data})
      for (auto act : {Activation::none, Activation::relu, Activation::relu6})
        for (int slots = 0; slots < 8; ++slots) {
          auto p = ConvProblem::parse(text);
          p.direction = direction;
          p.store.bias = slots & 1, p.store.residual = slots & 2, p.store.mask = slots & 4 ? Mask::relu : Mask::none;
          p.store.act = act;
          agreement::expect_agreement("conv", p.text());
          if (HasFailure()) return;
        }
}

// Of an algorithm alone: nobody else has all of these slots, and the reference takes its time.
void expect_masks_and_statistics(std::string const& algorithm, std::vector<std::string> const& problems) {
  auto const& table = conv_algorithms();
  for (auto const& text : problems)
    for (char const* slots : {"mask6", "squares", "bias+relu6+squares", "bias+relu+squares", "residual+mask+dot", "bias+residual+mask6+dot_other", "dot_other"}) {
      std::string const problem = text + " store=" + slots;
      // Results up to 6 say nothing of the sums of hundreds before them, which rounding errors are relative to.
      if (text.find("1100") != std::string::npos && problem.find("relu6") != std::string::npos) continue;
      int compared = 0;
      for (Isa isa : {Isa::plain, Isa::avx2, Isa::avx512}) {
        if (isa > detected_isa()) continue;
        DeviceFacts facts;
        facts.isa = isa;
        for (auto const& c : table.candidates(problem, facts)) {
          if (c.algorithm != algorithm) continue;
          ASSERT_EQ(c.refusal, "") << problem;
          for (bool integers : {false, true}) {          // with whole numbers a third of the batch is padding
            agreement::Operands operands(table.operands(problem), integers);
            ASSERT_EQ(agreement::run_guarded(table, problem, {"reference", {}}, isa, 2, operands), "") << problem;
            auto const expected = operands.outputs();
            std::vector<std::string> first;
            for (int threads : {1, 2, 3}) {
              ASSERT_EQ(agreement::run_guarded(table, problem, {algorithm, {}}, isa, threads, operands), "") << problem;
              if (threads == 1) first = operands.outputs();
              EXPECT_TRUE(operands.outputs() == first) << problem << ": other bytes with " << threads << " threads";
            }
            std::size_t output = 0;
            for (auto const& o : operands.list())
              if (o.written) {
                EXPECT_EQ(agreement::difference(o.type, expected[output], first[output], integers ? 0 : 1e-5, 0), "") << problem << ": " << o.name << " on " << name(isa);
                ++output;
              }
            EXPECT_EQ(output, first.size());
            ++compared;
            if (testing::Test::HasFailure()) return;
          }
        }
      }
      EXPECT_GE(compared, 2) << problem;
    }
}

TEST(Pointwise, agrees_with_the_reference_with_masks_and_statistics) {
  expect_masks_and_statistics("pointwise", {"n3 c7 h3 w5 k33 rs1 f32 nhwc", "n4 c33 hw7 k8 rs1 f32 nhwc", "n5 c40 h7 w10 k20 rs1 st3.2 f32 nhwc", "n6 c64 hw12 k112 rs1 f32 nhwc",
                                            "n3 c1100 h5 w7 k130 rs1 f32 nhwc", "bwd_data n4 c40 hw9 k30 rs1 f32 nhwc", "bwd_data n3 c130 hw5 k1100 rs1 f32 nhwc"});
}

TEST(Depthwise, agrees_with_the_reference_with_masks_and_statistics) {
  expect_masks_and_statistics("depthwise", {"n3 c16 hw9 k16 rs3 p1 g16 f32 nhwc", "n4 c20 h7 w11 k20 rs3 p1 st2 g20 f32 nhwc", "n5 c6 hw8 k6 rs5 p2 g6 f32 nhwc", "n3 c33 h9 w6 k33 r3 s2 p0.1 d2 g33 f32 nhwc",
                                            "bwd_data n3 c40 hw11 k40 rs3 p1 g40 f32 nhwc", "bwd_data n4 c18 h9 w12 k18 rs3 p1 st2 g18 f32 nhwc", "bwd_data n3 c16 hw9 k16 rs1 st3 g16 f32 nhwc"});
}

TEST(Depthwise, agrees_with_the_reference_with_every_plain_slot) {
  for (char const* text : {"n2 c16 hw9 k16 rs3 p1 g16 f32 nhwc", "n1 c40 h7 w11 k40 rs3 p1 st2 g40 f32 nhwc", "n2 c17 h8 w19 k17 r2 s4 p1.2 st3.1 g17 f32 nhwc"})
    for (auto direction : {Direction::fwd, Direction::bwd_data})
      for (auto act : {Activation::none, Activation::relu, Activation::relu6})
        for (int slots = 0; slots < 4; ++slots) {
          auto p = ConvProblem::parse(text);
          p.direction = direction;
          p.store.bias = slots & 1, p.store.residual = slots & 2;
          p.store.act = act;
          agreement::expect_agreement("conv", p.text());
          if (HasFailure()) return;
        }
}

// Against im2col_gemm, which shares no code with them but the packing: these are too large for the reference's loops.
TEST(Pointwise, large_filters_and_large_results_agree_with_im2col_gemm) {
  auto const& table = conv_algorithms();
  DeviceFacts facts;
  facts.isa = detected_isa();
  for (std::string text : {"n1 c2048 hw7 k512 rs1 f32 nhwc store=bias+relu", "n1 c512 hw7 k2048 rs1 f32 nhwc store=bias+residual+relu", "n1 c1100 h5 w7 k530 rs1 f32 nhwc store=bias+relu6",
                           "n2 c320 hw14 k512 rs1 st2 f32 nhwc store=bias", "bwd_data n1 c512 hw7 k2048 rs1 f32 nhwc store=residual", "n1 c512 hw7 k512 rs3 p1 f32 nhwc store=bias+residual+relu",
                           "n1 c300 hw14 k260 rs3 p1 st2 f32 nhwc store=bias+relu", "bwd_data n1 c256 hw14 k256 rs3 p1 f32 nhwc store=residual", "n1 c3 hw112 k96 rs1 f32 nhwc store=bias+residual+relu",
                           "n43 c16 hw56 k64 rs1 f32 nhwc store=bias+residual+relu6", "n11 c24 hw112 k64 rs1 f32 nhwc"}) {
    agreement::Operands operands(table.operands(text), false);
    ASSERT_EQ(agreement::run_guarded(table, text, {"im2col_gemm", {}}, facts.isa, 3, operands), "") << text;
    auto const expected = operands.outputs();
    int compared = 0;
    for (auto const& c : table.candidates(text, facts)) {
      if ((c.algorithm != "pointwise" && c.algorithm != "direct") || !c.refusal.empty()) continue;
      ++compared;
      std::vector<std::string> first;
      for (int threads : {1, 2, 3}) {
        ASSERT_EQ(agreement::run_guarded(table, text, {c.algorithm, c.configs.front()}, facts.isa, threads, operands), "") << text << ": " << c.algorithm;
        if (threads == 1) first = operands.outputs();
        EXPECT_TRUE(operands.outputs() == first) << text << ": " << c.algorithm << " gives other bytes with " << threads << " threads";
      }
      ASSERT_EQ(agreement::run_prepared(table, text, {c.algorithm, c.configs.front()}, facts.isa, 2, operands), "") << text << ": " << c.algorithm << ", prepared";
      EXPECT_TRUE(operands.outputs() == first) << text << ": " << c.algorithm << ", prepared";
      EXPECT_EQ(agreement::difference(operands.list().back().type, expected[0], first[0], 1e-5, 0), "") << text << ": " << c.algorithm;
    }
    EXPECT_GE(compared, text.find("rs1") == std::string::npos ? 1 : 2) << text;
  }
}

TEST(Pointwise, large_filter_gradients_agree_with_im2col_gemm) {
  auto const& table = conv_algorithms();
  for (std::string text : {"bwd_filter n12 c512 hw14 k260 rs1 f32 nhwc", "bwd_filter n9 c300 h29 w27 k512 rs1 st2 f32 nhwc", "bwd_filter n2 c64 hw56 k48 rs1 f32 nhwc",
                           "bwd_filter n11 c512 hw14 k260 rs1 bf16,f32,bf16 nhwc", "bwd_filter n3 c70 h15 w9 k33 rs1 st2.1 bf16 nhwc"}) {
    agreement::Operands operands(table.operands(text), false);
    ASSERT_EQ(agreement::run_guarded(table, text, {"im2col_gemm", {}}, detected_isa(), 3, operands), "") << text;
    auto const expected = operands.outputs();
    for (Isa isa : {Isa::plain, detected_isa()})
      for (int threads : {1, 3}) {
        ASSERT_EQ(agreement::run_guarded(table, text, {"pointwise", {}}, isa, threads, operands), "") << text;
        auto const type = operands.list().back().type;
        EXPECT_EQ(agreement::difference(type, expected[0], operands.outputs()[0], type.dtype == DType::bf16 ? 2e-2 : 2e-5, 0), "") << text;
      }
  }
}

TEST(Pointwise, refuses_what_it_cannot_do_and_says_why) {
  auto const refusal = [](std::string const& text) {
    for (auto const& c : conv_algorithms().candidates(text, DeviceFacts{}))
      if (c.algorithm == "pointwise") return c.refusal;
    return std::string("no such algorithm");
  };
  EXPECT_EQ(refusal("n1 c8 hw8 k8 rs1 f32 nhwc"), "");
  EXPECT_NE(refusal("n1 c8 hw8 k8 rs3 f32 nhwc").find("1x1"), std::string::npos);
  EXPECT_NE(refusal("n1 c8 hw8 k8 rs1 bf16 nhwc").find("AVX512-BF16"), std::string::npos);   // of a plain processor
  EXPECT_NE(refusal("n1 c8 hw8 k8 rs1 f32 nchw").find("nhwc"), std::string::npos);
  EXPECT_NE(refusal("n1 c8 hw8 k8 rs1 p1 f32 nhwc").find("padding"), std::string::npos);
  EXPECT_NE(refusal("n1 c8 hw8 k8 rs1 g2 f32 nhwc").find("groups"), std::string::npos);
  EXPECT_NE(refusal("bwd_filter n1 c8 hw8 k8 rs1 f32 nhwc store=bias").find("filter gradient"), std::string::npos);
  EXPECT_NE(refusal("bwd_data n1 c8 hw8 k8 rs1 st2 f32 nhwc").find("stride"), std::string::npos);
}

}  // namespace
