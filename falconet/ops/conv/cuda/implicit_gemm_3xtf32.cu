// Convolution as a matrix product in f32 on tensor cores, for any f32 problem. The kernel is implicit_gemm_tf32.cuh's: each factor is cut into two TF32 values
// when it is in registers, and three products of TF32 replace one of f32 (Ootomo and Yokota, *Recovering single precision accuracy from Tensor Cores while
// surpassing the FP32 theoretical peak performance*, 2022), at three times the work of a unit that is six times as fast. Sums of 16 products are made there and
// added with rounding, because tensor cores cut the last bits of a sum off. Small integers give exact results.
// Limits: those of implicit_gemm_tf32, but for the permission. Cost: 6 n k p q c r s operations in TF32; each operand from L2 once per tile of the other side.
#include "falconet/ops/conv/cuda/implicit_gemm_3xtf32.h"

#include "falconet/ops/conv/cuda/implicit_gemm_tf32.cuh"

namespace falconet {
namespace {

using namespace implicit_tf32;

constexpr Form form{{64, 64}, 0.33, 0.295, 3, 5};

std::size_t scratch(ConvProblem const& p, Config const&) { return scratch_of(p, form.tile); }
double seconds(ConvProblem const& p, DeviceFacts const&) { return seconds_with(p, form); }

void run(ConvProblem const& p, Config const&, ConvArgs const& args, View memory, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  Launcher<Factors::three> const launcher(p, form.tile, args, memory, stream);
  if (!launcher.with<4, 64, 64, 2, 2>()) launcher.with<1, 64, 64, 2, 2>();
  launcher.add();
  check_launch("conv implicit_gemm_3xtf32", p, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_implicit_gemm_3xtf32{
    .name = "implicit_gemm_3xtf32", .target = DeviceKind::cuda, .reject = reject_products, .scratch = scratch, .seconds = seconds, .run = run,
    .unasked = products_of_three};

}  // namespace falconet
