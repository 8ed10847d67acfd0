// Depthwise convolutions 3x3, padding 1, stride 1 and 2, in bf16 channels-last, on Hopper: rows come by the copy engine (depthwise_tma.cuh). Forward with a
// batch norm's scale, shift and activation on load, and both gradients at once between two batch norms, so that neither the normalised map nor the
// gradient of the convolution's result is ever written. Sums of each block are added in a fixed order by a second kernel.
// Limits: channels a multiple of 8; on store only sums of squares forward, and mask and sums of x in the gradients.
#include <algorithm>

#include "falconet/device/cuda/check.h"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/depthwise.cuh"
#include "falconet/ops/conv/cuda/depthwise_tma.cuh"

namespace falconet {
namespace depthwise_tma {

Walk walk_of(ConvProblem const& p, Way const& way) {
  Walk w;
  w.rows = p.p(), w.columns = p.q();
  w.bands = (w.rows + way.band - 1) / way.band;
  w.band = (w.rows + w.bands - 1) / w.bands;
  w.bands = (w.rows + w.band - 1) / w.band;
  w.across = (w.columns + lanes_wide(way.lanes) - 1) / lanes_wide(way.lanes);
  w.items = p.n * w.bands * w.across;
  w.groups = (p.c + 2 * way.lanes - 1) / (2 * way.lanes);
  w.slots = std::clamp(resident * warps / w.groups, 1, w.items);
  w.blocks = (w.slots * w.groups + warps - 1) / warps;
  w.by_across = FastDivide(w.across), w.by_bands = FastDivide(w.bands), w.by_groups = FastDivide(w.groups);
  return w;
}

namespace {

int sets_of(ConvProblem const& p) { return p.direction == Direction::bwd ? 11 : p.store.stats == Stats::none ? 0 : 2; }

// Relative time: turns of the warps that run at once, times rows of an item and those before its first.
double cost_of(ConvProblem const& p, Way const& way) {
  Walk const w = walk_of(p, way);
  int const turns = (w.items + w.slots - 1) / w.slots;
  return (turns + 0.3) * (w.band + (p.stride_h == 1 ? 1.0 : 0.5)) * std::ceil(double(w.blocks) / resident) * w.groups * way.lanes;
}
std::vector<Way> ways_of(ConvProblem const& p) {
  std::vector<std::pair<double, Way>> ways;
  for (int lanes : {32, 16}) {
    int last = 0;
    for (int bands : {1, 2, 3, 4, 5, 6, 8, 12, 16}) {
      int const band = (p.p() + bands - 1) / bands;
      if (band == last || (bands > 1 && band < 4)) break;
      last = band;
      ways.emplace_back(cost_of(p, {lanes, band}), Way{lanes, band});
    }
  }
  std::stable_sort(ways.begin(), ways.end(), [](auto const& a, auto const& b) { return a.first < b.first; });
  std::vector<Way> out;
  for (auto const& way : ways) out.push_back(way.second);
  return out;
}

std::string reject(ConvProblem const& p, DeviceFacts const& facts) {
  if (facts.compute_capability != 90) return "needs a Hopper GPU (compute capability 9.0)";
  if (p.direction != Direction::fwd && p.direction != Direction::bwd) return "forward, and both gradients at once";
  if (p.groups != p.c || p.k != p.c) return "depthwise convolutions only: groups, channels and filters are not the same number";
  if (p.x_type != DType::bf16 || p.y_type != DType::bf16 || (p.w_type != DType::bf16 && p.w_type != DType::f32) || p.layout != Layout::nhwc) return "bf16 and nhwc only";
  if (p.c % 8) return "channels must be a multiple of 8";
  if (p.r != 3 || p.s != 3 || p.pad_top != 1 || p.pad_left != 1 || p.pad_bottom != 1 || p.pad_right != 1) return "3x3 filters with padding 1 only";
  if (p.stride_h != p.stride_w || p.stride_h > 2) return "strides 1 and 2 only";
  if (p.dilation_h != 1 || p.dilation_w != 1) return "dilation";
  auto const clips = [](Activation a) { return a == Activation::relu || a == Activation::relu6; };
  OnStore store;
  if (p.direction == Direction::fwd) {
    if (p.load_x.act != Activation::none && !clips(p.load_x.act)) return "only relu and relu6";
    store.stats = p.store.stats == Stats::squares ? Stats::squares : Stats::none;
    if (p.store != store) return "of the store slots only sums of squares";
  } else {
    OnLoad two;
    two.affine = Affine::two_operand;
    store.mask = Mask::of_x, store.stats = Stats::dot_x;
    if (p.load_x.affine != Affine::scale_shift || !clips(p.load_x.act) || p.load_dy != two || p.store != store)
      return "both gradients only between two batch norms, with relu or relu6 in front";
  }
  std::int64_t const limit = std::int64_t(1) << 30, pixels = std::int64_t(p.h) * p.w;
  if (pixels * p.c >= limit || p.n * pixels >= limit || p.c > 1 << 20) return "2^30 elements of an image or more";
  return {};
}

std::vector<Config> configs(ConvProblem const& p, DeviceFacts const&) {
  std::vector<Config> out;
  for (Way const& way : ways_of(p))
    if (out.size() < 6) out.push_back({{"lanes", way.lanes}, {"rows", way.band}});
  return out;
}
std::vector<LaunchRange> ranges(ConvProblem const& p, DeviceFacts const&) {
  return {{"lanes", 16, 32, true}, {"rows", 1, p.p(), false}};
}
Way chosen(ConvProblem const& p, Config const& c) {
  Way const best = ways_of(p).front();
  return {c.get("lanes", best.lanes), c.get("rows", best.band)};
}

std::size_t scratch(ConvProblem const& p, Config const& c) {
  return sizeof(float) * std::size_t(sets_of(p)) * std::size_t(p.c) * (sets_of(p) ? std::size_t(walk_of(p, chosen(p, c)).slots) : 0);
}

double seconds(ConvProblem const& p, DeviceFacts const&) { return 4e-6 + bytes_of(p.operands()) / 3.0e12 + (sets_of(p) ? 3e-6 : 0); }

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View memory, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  Way const way = chosen(p, config);
  int const sets = sets_of(p), slots = walk_of(p, way).slots;
  bool const both = p.direction == Direction::bwd;
  float* const partial = sets ? memory.as<float>() : nullptr;
  both ? launch_gradients(p, way, args, partial, stream) : launch_forward(p, way, args, partial, stream);
  check_launch("conv depthwise_tma", p, stream);
  if (!sets) return;
  depthwise::add_partial_sums(partial, slots, sets, p.c, both ? 9 : 0, both ? args.dw.as<float>() : args.stats.as<float>(), both ? args.stats.as<float>() : nullptr, stream);
  check_launch("conv depthwise_tma, its sums", p, stream);
}

}  // namespace
}  // namespace depthwise_tma

Algorithm<ConvProblem> const conv_cuda_depthwise_tma{.name = "depthwise_tma",
                                                     .target = DeviceKind::cuda,
                                                     .reject = depthwise_tma::reject,
                                                     .configs = depthwise_tma::configs,
                                                     .scratch = depthwise_tma::scratch,
                                                     .seconds = depthwise_tma::seconds,
                                                     .run = depthwise_tma::run,
                                                     .ranges = depthwise_tma::ranges};

}  // namespace falconet
