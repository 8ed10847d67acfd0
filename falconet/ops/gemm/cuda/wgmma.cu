// Matrix products in bf16 on Hopper's tensor cores, as 1x1 convolutions of images of one pixel: the rows of op_a(a) are the images, and the
// three directions are the three ways in which a layer's operands lie in memory.
//   y = a b^T     x = a, filter b[n][k]: forward, with bias, residual and activation
//   y = a b       dy = a, filter b[k][n]: data gradient, with residual and mask
//   y = a^T b     dy = a[k][m], x = b[k][n]: filter gradient, y in bf16 or f32
// The kernels are ops/conv's implicit_gemm_wgmma and split_k_wgmma, with their configs, limits and costs.
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/gemm/cuda/wgmma.h"

namespace falconet {
namespace {

std::string unsuited(GemmProblem const& p) {
  if (p.a_type != DType::bf16 || p.b_type != DType::bf16) return "bf16 operands only";
  if (p.trans_a && p.trans_b) return "both operands transposed";
  if (p.m > ConvProblem::most || p.n > ConvProblem::most || p.k > ConvProblem::most) return "2^24 rows or columns or more";
  return {};
}
ConvProblem convolution_of(GemmProblem const& p) {
  ConvProblem c;
  c.x_type = c.y_type = DType::bf16;
  c.w_type = p.trans_a ? p.y_type : DType::bf16;
  c.layout = Layout::nhwc;
  c.store = p.store;
  c.direction = p.trans_a ? Direction::bwd_filter : p.trans_b ? Direction::fwd : Direction::bwd_data;
  if (p.trans_a) c.n = int(p.k), c.k = int(p.m), c.c = int(p.n);
  else if (p.trans_b) c.n = int(p.m), c.c = int(p.k), c.k = int(p.n);
  else c.n = int(p.m), c.k = int(p.k), c.c = int(p.n);
  return c;
}
Algorithm<ConvProblem> const& algorithm_of(GemmProblem const& p) { return p.trans_a ? conv_cuda_split_k_wgmma : conv_cuda_implicit_gemm_wgmma; }

std::string reject(GemmProblem const& p, DeviceFacts const& facts) {
  if (p.image.which != GemmImage::none) return "an operand that lies as images";
  if (auto why = unsuited(p); !why.empty()) return why;
  if (!p.trans_a && p.y_type != DType::bf16) return "results in bf16 only";
  return algorithm_of(p).reject(convolution_of(p), facts);
}
std::vector<Config> configs(GemmProblem const& p, DeviceFacts const& facts) { return algorithm_of(p).configs(convolution_of(p), facts); }
std::size_t scratch(GemmProblem const& p, Config const& config) { return algorithm_of(p).scratch(convolution_of(p), config); }
double seconds(GemmProblem const& p, DeviceFacts const& facts) { return algorithm_of(p).seconds(convolution_of(p), facts); }

void run(GemmProblem const& p, Config const& config, GemmArgs const& g, View memory, Stream& stream) {
  ConvArgs args;
  args.bias = g.bias, args.residual = g.residual, args.mask = g.mask;
  if (p.trans_a) args.y = g.a, args.x = g.b, args.w = g.y;
  else if (p.trans_b) args.x = g.a, args.w = g.b, args.y = g.y;
  else args.y = g.a, args.w = g.b, args.x = g.y;
  algorithm_of(p).run(convolution_of(p), config, args, memory, stream);
}

}  // namespace

Algorithm<GemmProblem> gemm_cuda_wgmma() {
  return {.name = "wgmma", .target = DeviceKind::cuda, .reject = reject, .configs = configs, .scratch = scratch, .seconds = seconds, .run = run};
}

}  // namespace falconet
