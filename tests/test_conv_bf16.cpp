// Convolutions whose images and filters are of bf16, with sums in f32: every algorithm of the CPU against the reference, over all lists of problems,
// and over shapes with each slot, where results pass through other code than in f32.
#include "agreement.h"
#include "conv_case.h"
#include "falconet/ops/conv/algorithms.h"

namespace {
using namespace falconet;

ConvProblem in_bf16(ConvProblem p, bool master_filter) {
  p.x_type = p.y_type = DType::bf16;
  p.w_type = master_filter && p.direction == Direction::bwd_filter ? DType::f32 : DType::bf16;
  p.math = Math::exact;
  return p;
}

class ConvBf16 : public testing::TestWithParam<std::tuple<std::string, Direction>> {};

TEST_P(ConvBf16, agrees_with_the_reference_over_every_list) {
  auto const& [list, direction] = GetParam();
  bool const suite = list.find("/benchdnn_") != list.npos || list.find("/deepbench_") != list.npos;   // long lists of much the same shapes
  int number = 0;
  for (auto const& line : read_problem_list(list)) {
    if (++number % (suite ? 16 : list.ends_with("ugly.txt") ? 1 : sanitized ? 8 : 2)) continue;
    auto p = ConvProblem::parse(line);
    p.direction = direction;
    if (!p.plain()) continue;
    agreement::expect_agreement("conv", within_reach(in_bf16(p, number % 4 != 0)).text());
    if (HasFailure()) return;
  }
}
INSTANTIATE_TEST_SUITE_P(Lists, ConvBf16,
                         testing::Combine(testing::ValuesIn(agreement::lists_of("conv")), testing::Values(Direction::fwd, Direction::bwd_data, Direction::bwd_filter)),
                         [](auto const& info) { return std::filesystem::path(std::get<0>(info.param)).stem().string() + "_" + std::string(name(std::get<1>(info.param))); });

class ConvBf16Slots : public testing::TestWithParam<char const*> {};

TEST_P(ConvBf16Slots, agree_with_the_reference) {
  for (auto shape : {"n2 c1 hw28 k8 rs5", "n3 c8 hw24 k8 rs5", "n2 c6 hw14 k16 rs5", "n2 c16 hw32 k16 rs3 p1", "n2 c16 hw9 k32 rs3 p1 st2", "n1 c3 hw13 k33 rs3 p1", "n2 c7 h9 w17 k3 r3 s5 p0.1.2.3",
                     "n1 c34 hw7 k20 rs1", "n3 c16 hw8 k64 rs1", "n3 c16 hw8 k64 rs1 st2", "n2 c64 hw8 k64 rs3 p1", "n2 c6 hw11 k12 rs3 p2 d2", "n1 c24 h5 w21 k40 rs3 p1", "n3 c20 hw9 k20 rs3 p1 g20",
                     "n2 c8 hw7 k8 rs3 p1 g2", "n1 c256 hw14 k64 rs3 p1"}) {
    auto p = in_bf16(ConvProblem::parse(std::string(shape) + " bf16 nhwc " + GetParam()), true);
    if (p.q() < 3) continue;
    // Results that lie between two bf16 may be rounded to either, which sums of them count: bounds of a rounding. Sums of whole numbers are exact.
    agreement::Bounds bounds;
    if (p.store.stats != Stats::none) bounds.f32 = 0x1p-8;
    agreement::expect_agreement("conv", p.text(), bounds);
    if (HasFailure()) return;
  }
}
INSTANTIATE_TEST_SUITE_P(Combinations, ConvBf16Slots,
                         testing::Values("fwd store=bias", "fwd store=relu", "fwd store=bias+relu6", "fwd store=bias+residual+relu", "fwd store=bias+relu+max_pool2", "fwd store=max_pool2", "fwd store=squares",
                                         "fwd store=relu+max_pool3", "bwd_data store=mask", "bwd_data store=mask6", "bwd_data store=residual", "bwd_data store=residual+mask", "bwd_data store=mask+dot",
                                         "bwd_data store=residual+mask+dot_other", "bwd_data load_dy=max_unpool2", "bwd_data load_dy=max_unpool3 store=mask", "bwd_filter store=bias",
                                         "bwd_filter load_dy=max_unpool2", "bwd_filter load_dy=max_unpool3 store=bias"));

}  // namespace
