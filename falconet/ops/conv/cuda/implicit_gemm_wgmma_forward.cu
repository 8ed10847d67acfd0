// implicit_gemm_wgmma, forward: the walk over x, the endings, the tiles.
#include "falconet/ops/conv/cuda/implicit_gemm_wgmma_launch.cuh"

namespace falconet::wgmma_conv {
namespace {

template <Ending ending>
void launch(ConvProblem const& p, Tile tile, Work work, ConvArgs const& args, View scratch, cudaStream_t stream) {
  auto with = [&](auto form) {
    using F = decltype(form);
    work.source[0] = im2col_map(args.x.data,
                                {.n = p.n, .h = p.h, .w = p.w, .c = p.c, .stride_n = std::int64_t(p.h) * p.w * p.c, .stride_h = std::int64_t(p.w) * p.c, .stride_w = p.c,
                                 .lower_h = -p.pad_top, .lower_w = -p.pad_left, .upper_h = p.pad_bottom - (p.r - 1) * p.dilation_h,
                                 .upper_w = p.pad_right - (p.s - 1) * p.dilation_w, .step_h = p.stride_h, .step_w = p.stride_w},
                                64, F::pixels);
    work.filter = tiled_map(args.w.data, {p.c, p.r * p.s, p.k}, {p.c, std::int64_t(p.r) * p.s * p.c}, {64, 1, F::channels});
    work.channel_tiles = (p.k + F::channels - 1) / F::channels;
    work.tiles = (work.part[0].pixels + F::pixels - 1) / F::pixels * work.channel_tiles;
    launch_form<F>(p, work, scratch, args.stats.as<float>(), stream);
  };
  if (tile == Tile{128, 256, false}) return with(Form<128, 256, ending, false, false, false>{});
  if (tile == Tile{256, 128, false}) return with(Form<256, 128, ending, false, false, false>{});
  if (tile == Tile{256, 64, false}) return with(Form<256, 64, ending, false, false, false>{});
  if (tile == Tile{64, 256, true}) return with(Form<64, 256, ending, false, false, true>{});
  if (tile == Tile{128, 128, true}) return with(Form<128, 128, ending, false, false, true>{});
  if (tile == Tile{128, 64, false}) return with(Form<128, 64, ending, false, false, false>{});
  fail_unknown(tile);
}

}  // namespace

void launch_forward(ConvProblem const& p, Tile tile, ConvArgs const& args, View scratch, void* stream) {
  Work work;
  work.part[0] = {.pixels = p.n * p.p() * p.q(), .image = p.p() * p.q(), .columns = p.q(), .step_h = p.stride_h, .step_w = p.stride_w, .lower_h = -p.pad_top,
                  .lower_w = -p.pad_left, .taps_h = p.r, .taps_w = p.s, .dilation_h = p.dilation_h, .dilation_w = p.dilation_w};
  work.channels = p.k;
  work.blocks_of_64 = (p.c + 63) / 64;
  work.filter_width = p.s;
  work.result[0] = tiled_map(args.y.data, {p.k, work.part[0].pixels}, {p.k}, {64, 64});
  if ((work.has_residual = p.store.residual)) work.residual[0] = tiled_map(args.residual.data, {p.k, work.part[0].pixels}, {p.k}, {64, 64});
  if (p.store.affine != Affine::none) work.affine = args.store_affine.as<float>();
  if (p.store.bias) work.bias = args.bias.as<float>();
  work.clamp = p.store.act != Activation::none;
  work.highest = p.store.act == Activation::relu6 ? 6.f : 3.402823466e38f * 2;
  work.has_stats = p.store.stats != Stats::none;
  work.step = args.step;
  auto const s = static_cast<cudaStream_t>(stream);
  if (work.has_stats) launch<Ending::squares>(p, tile, work, args, scratch, s);
  else if (p.store == OnStore{}) launch<Ending::store>(p, tile, work, args, scratch, s);
  else launch<Ending::pointwise>(p, tile, work, args, scratch, s);
}

}  // namespace falconet::wgmma_conv
