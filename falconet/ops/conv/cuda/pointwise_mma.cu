// 1x1 convolutions of stride 1 between few channels and six times as many, in bf16 channels-last, on Hopper, bound by memory: forward with a batch norm's scale,
// shift and activation on load, and both gradients at once with the gradient of the batch norm behind on load, so that neither is ever written. What is made on
// load is rounded to bf16, as both factors of a tensor core's product are. Blocks' sums are added in a fixed order by a second kernel.
// Limits: the pairs of channels that are built; on store sums of squares forward; residual and sums, or mask and sums of x, in the gradients.
#include <algorithm>

#include "falconet/device/cuda/check.h"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/block_sums.cuh"
#include "falconet/ops/conv/cuda/pointwise_mma.cuh"

namespace falconet {
namespace pointwise_mma {
namespace {

constexpr int multiprocessors = 132;   // of the H100 and H200; fixed, so that results do not depend on the card

// out[i] = sum over the blocks of partial[block][i], in f64, 32 shares of the blocks first; from `split` on into rest.
__global__ void __launch_bounds__(1024) add_blocks(float const* partial, int blocks, int elements, int split, float* out, float* rest) {
  add_over_blocks(partial, blocks, elements, [&](int i, double total) { (i < split ? out[i] : rest[i - split]) = float(total); });
}

std::string reject(ConvProblem const& p, DeviceFacts const& facts) {
  if (facts.compute_capability != 90) return "needs a Hopper GPU (compute capability 9.0)";
  if (p.direction != Direction::fwd && p.direction != Direction::bwd) return "forward, and both gradients at once";
  if (p.x_type != DType::bf16 || p.y_type != DType::bf16 || (p.w_type != DType::bf16 && p.w_type != DType::f32) || p.layout != Layout::nhwc) return "bf16 and nhwc only";
  if (p.groups != 1) return "groups";
  if (p.r != 1 || p.s != 1 || p.stride_h != 1 || p.stride_w != 1 || p.pad_top || p.pad_left || p.pad_bottom || p.pad_right) return "1x1 filters with stride 1 and no padding only";
  auto const clips = [](Activation a) { return a == Activation::relu || a == Activation::relu6; };
  bool const loads = p.load_x != OnLoad{};
  if (loads && (p.load_x.affine != Affine::scale_shift || (p.load_x.act != Activation::none && !clips(p.load_x.act)))) return "x is scaled and shifted, with relu or relu6, or nothing";
  OnStore store;
  if (p.direction == Direction::fwd) {
    if (!has_forward(p.c, p.k)) return "not built for so many channels";
    store.stats = p.store.stats == Stats::squares ? Stats::squares : Stats::none;
    if (p.store != store) return "of the store slots only sums of squares";
  } else {
    if (!has_gradients(p.c, p.k, loads)) return "not built for so many channels";
    OnLoad two;
    two.affine = Affine::two_operand;
    if (p.load_dy != two) return "dy is the gradient of a batch norm";
    if (loads) {
      if (!clips(p.load_x.act)) return "both gradients behind a batch norm with relu or relu6 only";
      store.mask = Mask::of_x, store.stats = Stats::dot_x;
    } else {
      store.residual = p.store.residual, store.stats = p.store.stats == Stats::dot_other ? Stats::dot_other : Stats::none;
    }
    if (p.store != store) return "the gradients have residual and sums, or mask and sums of x";
  }
  if (std::int64_t(p.n) * p.h * p.w >= std::int64_t(1) << 31) return "2^31 pixels or more";
  return {};
}

int elements_of(ConvProblem const& p) {
  if (p.direction == Direction::fwd) return p.store.stats == Stats::none ? 0 : 2 * p.k;
  return p.c * p.k + (p.store.stats == Stats::none ? 0 : 2 * p.c);
}
std::size_t scratch(ConvProblem const& p, Config const&) { return sizeof(float) * std::size_t(blocks_of(p)) * std::size_t(elements_of(p)); }

double seconds(ConvProblem const& p, DeviceFacts const&) { return 3e-6 + bytes_of(p.operands()) / (p.direction == Direction::fwd ? 4.0e12 : 3.2e12) + (p.direction == Direction::bwd ? 3e-6 : 0); }

void run(ConvProblem const& p, Config const&, ConvArgs const& args, View memory, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  int const elements = elements_of(p);
  bool const both = p.direction == Direction::bwd;
  float* const partial = elements ? memory.as<float>() : nullptr;
  both ? launch_gradients(p, args, partial, stream) : launch_forward(p, args, partial, stream);
  check_launch("conv pointwise_mma", p, stream);
  if (!elements) return;
  float* const stats = p.store.stats == Stats::none ? nullptr : args.stats.as<float>();
  launch_ahead(add_blocks, dim3(unsigned((elements + 31) / 32)), dim3(32, 32), 0, 1, stream, static_cast<float const*>(partial), blocks_of(p), elements, both ? p.c * p.k : elements,
               both ? args.dw.as<float>() : stats, stats);
  check_launch("conv pointwise_mma, its sums", p, stream);
}

}  // namespace

int tiles_of(ConvProblem const& p, Launch l) { return int((std::int64_t(p.n) * p.h * p.w + l.pixels - 1) / l.pixels); }
int blocks_of(ConvProblem const& p) {
  Launch const l = p.direction == Direction::fwd ? forward_launch(p) : gradients_launch(p);
  return std::min(tiles_of(p, l), multiprocessors * l.blocks);
}

}  // namespace pointwise_mma

Algorithm<ConvProblem> const conv_cuda_pointwise_mma{.name = "pointwise_mma",
                                                     .target = DeviceKind::cuda,
                                                     .reject = pointwise_mma::reject,
                                                     .scratch = pointwise_mma::scratch,
                                                     .seconds = pointwise_mma::seconds,
                                                     .run = pointwise_mma::run};

}  // namespace falconet
