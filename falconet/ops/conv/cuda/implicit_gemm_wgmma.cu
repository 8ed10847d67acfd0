// implicit_gemm_wgmma: forward and data gradient in bf16 on Hopper; the method is told in implicit_gemm_wgmma.cuh. This file says what it
// accepts, which tiles it offers, and what it costs.
#include <algorithm>
#include <cmath>
#include <vector>

#include "falconet/base/error.h"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/implicit_gemm_wgmma.h"

namespace falconet {
namespace wgmma_conv {

constexpr Tile default_tile{128, 256, false};
constexpr int multiprocessors = 132;   // of the H100 and H200; the grid is fixed so that results do not depend on the card

Tile tile_of(Config const& c) {
  return {c.get("pixels", default_tile.pixels), c.get("channels", default_tile.channels), c.get("alternate", default_tile.alternate) != 0};
}
void fail_unknown(Tile t) {
  fail(ErrorKind::usage, "implicit_gemm_wgmma has no tile of " + std::to_string(t.pixels) + " pixels by " + std::to_string(t.channels) + " channels" +
                             (t.alternate ? ", alternating, here" : " here"));
}
int blocks_for(int tiles, int channel_tiles, bool keeps_channels) {
  int const most = keeps_channels ? multiprocessors / channel_tiles * channel_tiles : multiprocessors;
  return keeps_channels ? std::min(most, (tiles + channel_tiles - 1) / channel_tiles * channel_tiles) : std::min(most, tiles);
}

}  // namespace wgmma_conv

namespace {
using namespace wgmma_conv;

struct Extent {
  std::int64_t pixels;
  int channels, sum;   // of the result; depth of the sum
};
Extent extent_of(ConvProblem const& p) {
  if (p.direction == Direction::fwd) return {std::int64_t(p.n) * p.p() * p.q(), p.k, p.c * p.r * p.s};
  return {std::int64_t(p.n) * p.h * p.w, p.c, std::max(1, p.k * p.r * p.s / (p.stride_h * p.stride_w))};
}

std::string reject(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (facts.compute_capability != 90) return "needs a Hopper GPU (compute capability 9.0)";
  if (p.direction == Direction::bwd_filter) return "forward and data gradient only";
  if (!p.one_type(DType::bf16) || p.layout != Layout::nhwc) return "bf16 and nhwc only";
  if (p.groups != 1) return "groups";
  if (p.c % 8 || p.k % 8) return "channels must be multiples of 8";
  if (p.load_dy != OnLoad{} || (p.load_x != OnLoad{} && p.direction == Direction::fwd)) return "slots on load";
  bool const forward = p.direction == Direction::fwd;
  auto const& s = p.store;
  if (s.pool.kind != PoolSlot::none) return "pooling";
  if (forward) {
    if (s.mask != Mask::none || s.stats == Stats::dot || s.stats == Stats::dot_other) return "forward with a mask";
    if (s.stats != Stats::none && (s.affine != Affine::none || s.bias || s.residual || s.act != Activation::none)) return "statistics beside other store slots";
    if (s.affine == Affine::two_operand) return "a result has no second operand";
    if (s.act != Activation::none && s.act != Activation::relu && s.act != Activation::relu6) return "only relu and relu6";
    if (p.stride_h > 8 || p.stride_w > 8) return "strides above 8";
  } else {
    if (s.affine != Affine::none || s.bias || s.act != Activation::none || s.stats == Stats::squares) return "data gradient with forward slots";
    if (s.mask == Mask::of_x && (s.residual || p.load_x.act == Activation::none)) return "a mask of x beside a residual or without relu or relu6";
    if (s.mask == Mask::bits && (p.c % 128 || p.stride_h > 1 || p.stride_w > 1)) return "a mask as bits of channels that are no multiple of 128, or with a stride";
    if (p.stride_h * p.stride_w > 4) return "a data gradient with stride above 2";
    if ((p.stride_h > 1 || p.stride_w > 1) && (p.dilation_h > 1 || p.dilation_w > 1)) return "a data gradient with stride and dilation";
  }
  // The copy engine's corners are -128..127 and its tap displacements 0..255.
  auto corner = [](int v) { return v >= -128 && v <= 127; };
  int const reach_h = (p.r - 1) * p.dilation_h, reach_w = (p.s - 1) * p.dilation_w;
  if (reach_h > 120 || reach_w > 120 || p.pad_top > 120 || p.pad_left > 120 || p.pad_bottom > 120 || p.pad_right > 120) return "a filter or padding above 120";
  if (!forward && (!corner(p.pad_top - reach_h + p.h - p.p()) || !corner(p.pad_left - reach_w + p.w - p.q())) && p.stride_h == 1 && p.stride_w == 1)
    return "a filter or padding above 120";
  if (!forward && (!corner((p.h + p.stride_h - 1) / p.stride_h - p.p() + p.pad_top) || !corner((p.w + p.stride_w - 1) / p.stride_w - p.q() + p.pad_left)))
    return "a gradient whose walk leaves the copy engine's corners";
  if (extent_of(p).pixels >= std::int64_t(1) << 30 || std::int64_t(p.n) * p.p() * p.q() >= std::int64_t(1) << 30) return "2^30 pixels or more";
  if (s.stats != Stats::none && (forward ? p.k : p.c) > 132 * 64) return "statistics of more channels than blocks can keep";
  return {};
}

// Seconds of one tile shape: waves of tiles, each a product at the rate of the tensor cores or of the fetches from L2, and an ending, with
// whole slices of every tensor that is read beside the result, which alternating warpgroups hide; or the bytes of the tensors. Constants
// measured on an H200.
double seconds_with(ConvProblem const& p, Tile tile) {
  Extent const e = extent_of(p);
  double const tiles = double((e.pixels + tile.pixels - 1) / tile.pixels) * ((e.channels + tile.channels - 1) / tile.channels);
  double const steps = (e.sum + 63) / 64, waves = std::ceil(tiles / multiprocessors);
  double const product = 2.0 * tile.pixels * tile.channels * 64 / 6.0e12, fetch = (tile.pixels + tile.channels) * 128 / 9.5e10;
  auto const& s = p.store;
  int const beside = int(s.residual) + int(s.mask == Mask::relu || s.mask == Mask::relu6 || s.stats == Stats::dot) + int(s.stats == Stats::dot_other || s.stats == Stats::dot_x);
  bool const lattice = p.direction == Direction::bwd_data && p.stride_h * p.stride_w > 1;
  bool const pointwise = p.direction == Direction::fwd && (s.affine != Affine::none || s.bias || s.residual || s.act != Activation::none);
  // Alternating, a warpgroup ends a whole tile by itself; for these endings alone is that in the constants.
  double const alone = pointwise && tile.alternate ? 2 : 1;
  double const ending = alone * ((pointwise ? 2.6e-6 : 0.6e-6) * tile.pixels * tile.channels / 32768 + beside * 2.0 * tile.pixels * tile.channels / (lattice ? 1.9e10 : 3e10));
  double const sum = steps * std::max(product, fetch) + (pointwise && tile.alternate ? 0.8e-6 : 0);   // a turn's change is seen where sums are short
  double const each = tile.alternate ? std::max(sum, (sum + ending) / 2) : sum + ending;
  double const work = waves * each + (tile.alternate ? ending : 0), memory = bytes_of(p.operands()) / 3.9e12;
  return 3e-6 + std::max(work, memory) + (pointwise ? 0.1 * std::min(work, memory) : 0);   // where memory is the limit, less work is still better
}

std::vector<Config> configs(ConvProblem const& p, DeviceFacts const&) {
  Extent const e = extent_of(p);
  bool const alternates = p.direction == Direction::fwd || (p.stride_h == 1 && p.stride_w == 1);
  std::vector<Tile> tiles;
  for (Tile t : {Tile{128, 256, false}, Tile{256, 128, false}, Tile{256, 64, false}, Tile{128, 64, false}, Tile{64, 256, true}, Tile{128, 128, true}})
    if ((alternates || !t.alternate) && (t.channels == 64 || t.channels / 2 < e.channels)) tiles.push_back(t);
  std::stable_sort(tiles.begin(), tiles.end(), [&](Tile a, Tile b) { return seconds_with(p, a) < seconds_with(p, b); });
  std::vector<Config> out;
  for (Tile t : tiles) out.push_back(Config{{"pixels", t.pixels}, {"channels", t.channels}, {"alternate", int(t.alternate)}});
  return out;
}

std::size_t scratch(ConvProblem const& p, Config const& c) {
  return p.store.stats == Stats::none ? 0 : std::size_t(multiprocessors) * 2 * 2 * tile_of(c).channels * sizeof(float);
}

double seconds(ConvProblem const& p, DeviceFacts const& facts) { return seconds_with(p, tile_of(configs(p, facts).front())); }

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View scratch, Stream& stream) {
  (p.direction == Direction::fwd ? launch_forward : launch_data)(p, tile_of(config), args, scratch, stream.cuda());
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_implicit_gemm_wgmma{
    .name = "implicit_gemm_wgmma", .target = DeviceKind::cuda, .reject = reject, .configs = configs, .scratch = scratch, .seconds = seconds, .run = run};

}  // namespace falconet
