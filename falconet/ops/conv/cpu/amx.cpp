// Convolution on AMX's tiles of bf16 with sums in f32, in all three directions: im2col_gemm.cpp, whose packed pairs along the summed dimension are
// what the tiles read, with the product of ops/gemm/cpu/amx.cpp. Config emulated: 0, the instructions, where the processor has them and the system
// grants the tiles' room; 1, plain C++ of the same meaning (device/cpu/amx.h) on every other machine, which no plan takes unless it is pinned: it
// proves the algorithm, not the instructions. Limits: bf16 (dw also in f32), nhwc; any stride, dilation, padding and grouping; slots bias, residual,
// activation, mask, and db. Cost: 2 n k p q (c/groups) r s operations at up to 2,048 a cycle; every patch element is copied once per about 250
// columns of the result, which is the limit.
#include <cmath>

#include "falconet/ops/conv/algorithms.h"

namespace falconet {
namespace {

std::string reject(ConvProblem const& p, DeviceFacts const& facts) {
  bool const filter = p.direction == Direction::bwd_filter;
  if (p.x_type != DType::bf16 || p.y_type != DType::bf16 || (p.w_type != DType::bf16 && !filter)) return "tiles are of bf16";
  if (p.layout != Layout::nhwc) return "needs nhwc";
  return conv_im2col_gemm.reject(p, facts);
}
bool here(DeviceFacts const& facts) { return facts.isa == Isa::avx512 && has_amx(); }
std::string unasked(DeviceFacts const& facts) { return here(facts) ? "" : "no AMX here: its tiles would be emulated"; }
std::vector<Config> configs(ConvProblem const&, DeviceFacts const& facts) { return {Config{{"emulated", here(facts) ? 0 : 1}}}; }

// A product of 16 x 16 x 32 in 16 cycles, of which half is reached, at 2.5 GHz, and im2col_gemm's copies; emulated, 2e9 a second.
double seconds(ConvProblem const& p, DeviceFacts const& facts) {
  if (!here(facts)) return p.operations() / 2e9 + 1e-5;
  bool const data = p.direction == Direction::bwd_data;
  double const pixels = data ? double(p.n) * p.h * p.w : double(p.n) * p.p() * p.q();
  double const depth = double(p.r) * p.s * (data ? double(p.k) / p.stride_h / p.stride_w : p.c);   // of all groups
  double const columns = double(p.direction == Direction::fwd ? p.k : p.c) / p.groups, waste = std::ceil(columns / 16) * 16 / columns;
  return (p.operations() * waste / 512 + pixels * depth * 0.65 + 4000) / 2.5e9;
}

std::size_t scratch(ConvProblem const& p, Config const& config) { return conv_im2col_gemm.scratch(p, config); }
std::size_t prepared(ConvProblem const& p, Config const& config) { return conv_im2col_gemm.prepared(p, config); }
void prepare(ConvProblem const& p, Config const& config, ConvArgs const& args, View to, Stream& stream) { conv_im2col_gemm.prepare(p, config, args, to, stream); }
void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View scratch, Stream& stream) { conv_im2col_gemm.run(p, config, args, scratch, stream); }

}  // namespace

Algorithm<ConvProblem> const conv_amx{
    .name = "amx", .target = DeviceKind::cpu, .reject = reject, .configs = configs, .scratch = scratch, .seconds = seconds, .run = run,
    .prepares = "w", .prepared = prepared, .prepare = prepare, .unasked = unasked};

}  // namespace falconet
