// Convolution as a matrix product in TF32 on tensor cores, for problems that allow it (math=tf32). The kernel is implicit_gemm_tf32.cuh's. Both factors are
// f32 and are rounded to the nearest TF32 value (10 bits of mantissa, ties away from zero) on their way into shared memory. Products of two such values
// are exact in f32, and sums are f32: |error| <= 2^-10 sum |u| |v|, and the rounding of the sums. So small integers give exact results.
// Limits: f32 channels-last without groups, no slots of operands as they are read, compute capability 8.0; of a data gradient strides of at most 4
// in all, and not dilation beside stride. Operands at multiples of 16 bytes, as plans place them. Cost: 2 n k p q c r s operations; each operand from
// L2 once per tile of the other side.
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/implicit_gemm_tf32.cuh"

namespace falconet {
namespace {

using namespace implicit_tf32;

constexpr Form forms[] = {{{128, 128}, 0.78, 0.47, 2}, {{128, 64}, 0.55, 0.40, 3}, {{64, 64}, 0.36, 0.22, 5}};

Form form_of(Config const& c) {
  for (auto const& f : forms)
    if (c.get("tile_m", 64) == f.tile.m && c.get("tile_n", 64) == f.tile.n) return f;
  fail(ErrorKind::usage, "implicit_gemm_tf32 has no tile '" + c.text() + "'");
}

std::string reject(ConvProblem const& p, DeviceFacts const& facts) { return p.math != Math::tf32 ? "only where TF32 is allowed (math=tf32)" : reject_products(p, facts); }

std::vector<Config> configs(ConvProblem const& p, DeviceFacts const&) {
  std::vector<Form> all;
  for (auto const& f : forms)
    if (by_four(p) || f.tile.n == 64) all.push_back(f);
  std::stable_sort(all.begin(), all.end(), [&](Form const& a, Form const& b) { return seconds_with(p, a) < seconds_with(p, b); });
  std::vector<Config> out;
  for (auto const& f : all) out.push_back(Config{{"tile_m", f.tile.m}, {"tile_n", f.tile.n}});
  return out;
}
std::size_t scratch(ConvProblem const& p, Config const& c) { return scratch_of(p, form_of(c).tile); }
double seconds(ConvProblem const& p, DeviceFacts const& facts) { return seconds_with(p, form_of(configs(p, facts).front())); }

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View memory, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  Launcher<Factors::rounded> const launcher(p, form_of(config).tile, args, memory, stream);
  bool const found = launcher.with<4, 128, 128, 2, 4>() || launcher.with<4, 128, 64, 2, 2>() || launcher.with<4, 64, 64, 2, 2>() || launcher.with<1, 128, 64, 4, 2>() ||
                     launcher.with<1, 64, 64, 2, 2>();
  if (!found) fail(ErrorKind::usage, "implicit_gemm_tf32 has no tile '" + config.text() + "' for this problem");
  launcher.add();
  check_launch("conv implicit_gemm_tf32", p, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_implicit_gemm_tf32{
    .name = "implicit_gemm_tf32", .target = DeviceKind::cuda, .reject = reject, .configs = configs, .scratch = scratch, .seconds = seconds, .run = run};

}  // namespace falconet
