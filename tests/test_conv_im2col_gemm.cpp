// The im2col product where it takes special paths: both layouts, every direction, mixed element types, and each of its slots,
// over the ugly shapes.
#include "agreement.h"
#include "falconet/ops/conv/algorithms.h"

namespace {
using namespace falconet;

class Im2colGemm : public testing::TestWithParam<std::tuple<Direction, Layout>> {};

TEST_P(Im2colGemm, agrees_with_the_reference_in_mixed_types_and_with_its_slots) {
  auto const [direction, layout] = GetParam();
  for (auto const& text : read_problem_list(FALCONET_SOURCE_DIR "/problems/conv/ugly.txt")) {
    auto p = ConvProblem::parse(text);
    bool const filter = direction == Direction::bwd_filter;
    p.direction = direction;
    p.layout = layout;
    p.load_x = p.load_dy = {};
    p.x_type = p.y_type = DType::bf16;
    p.w_type = filter ? DType::f32 : DType::bf16;
    p.store = {};
    p.store.bias = filter;
    p.store.residual = !filter;
    agreement::expect_agreement("conv", p.text());
    p.x_type = p.y_type = DType::f32;
    p.w_type = DType::bf16;
    p.store.bias = true;
    p.store.mask = filter ? Mask::none : Mask::relu;
    p.store.act = filter ? Activation::none : Activation::silu;
    agreement::expect_agreement("conv", p.text());
    if (HasFailure()) return;
  }
}
INSTANTIATE_TEST_SUITE_P(of, Im2colGemm,
                         testing::Combine(testing::Values(Direction::fwd, Direction::bwd_data, Direction::bwd_filter),
                                          testing::Values(Layout::nhwc, Layout::nchw)),
                         [](auto const& info) {
                           return std::string(name(std::get<0>(info.param))) + "_" + std::string(name(std::get<1>(info.param)));
                         });

}  // namespace
