// implicit_gemm_wgmma, data gradient. With h = stride * i + a, the rows p = (h + pad - r) / stride that reach h are i + (a + pad - r) /
// stride for the taps r that make it whole: per residue (a, b) a stride-1 walk over dy with a subset of the taps, and dx's pixels of
// that residue form a sub-lattice.
#include <algorithm>

#include "falconet/ops/conv/cuda/implicit_gemm_wgmma_launch.cuh"

namespace falconet::wgmma_conv {
namespace {

// One axis of one residue.
struct Axis {
  int extent, taps, first, step, lower, upper;
};
Axis axis_of(int extent, int out_extent, int filter, int pad, int stride, int dilation, int residue) {
  Axis a{};
  a.extent = (extent - residue + stride - 1) / stride;
  int const lowest_tap = (residue + pad) % stride;
  a.taps = lowest_tap < filter ? (filter - lowest_tap + stride - 1) / stride : 0;
  a.first = lowest_tap + stride * (a.taps - 1);   // displacement 0 belongs to the last tap
  a.step = -stride;
  a.lower = (residue + pad - lowest_tap) / stride - (a.taps - 1) * dilation;
  a.upper = a.lower + a.extent - out_extent;
  return a;
}

struct Residue {
  int h, w;
  Axis rows, columns;
};

template <Ending ending, bool lattice>
void launch(ConvProblem const& p, Tile tile, Work work, Residue const* residues, ConvArgs const& args, View scratch, cudaStream_t stream) {
  auto with = [&](auto form) {
    using F = decltype(form);
    work.channel_tiles = (p.c + F::channels - 1) / F::channels;
    for (int i = 0; i < work.parts; ++i) {
      auto const& rows = residues[i].rows;
      auto const& columns = residues[i].columns;
      work.part[i].first_tile = work.tiles;
      work.tiles += (work.part[i].pixels + F::pixels - 1) / F::pixels * work.channel_tiles;
      bool const reached = rows.taps * columns.taps > 0;   // else nothing is fetched
      work.source[i] = im2col_map(args.y.data,
                                  {.n = p.n, .h = p.p(), .w = p.q(), .c = p.k, .stride_n = std::int64_t(p.p()) * p.q() * p.k, .stride_h = std::int64_t(p.q()) * p.k,
                                   .stride_w = p.k, .lower_h = reached ? rows.lower : 0, .lower_w = reached ? columns.lower : 0, .upper_h = reached ? rows.upper : 0,
                                   .upper_w = reached ? columns.upper : 0},
                                  64, F::pixels);
    }
    work.filter = tiled_map(args.w.data, {p.c, p.r * p.s, p.k}, {p.c, std::int64_t(p.r) * p.s * p.c}, {64, 1, 64});
    launch_form<F>(p, work, scratch, args.stats.as<float>(), stream);
  };
  if (tile == Tile{128, 256, false}) return with(Form<128, 256, ending, true, lattice, false>{});
  if (tile == Tile{256, 128, false}) return with(Form<256, 128, ending, true, lattice, false>{});
  if (tile == Tile{256, 64, false}) return with(Form<256, 64, ending, true, lattice, false>{});
  if constexpr (!lattice) {
    if (tile == Tile{64, 256, true}) return with(Form<64, 256, ending, true, false, true>{});
    if (tile == Tile{128, 128, true}) return with(Form<128, 128, ending, true, false, true>{});
  }
  if (tile == Tile{128, 64, false}) return with(Form<128, 64, ending, true, lattice, false>{});
  fail_unknown(tile);
}

}  // namespace

void launch_data(ConvProblem const& p, Tile tile, ConvArgs const& args, View scratch, void* stream) {
  Work work;
  bool const lattice = p.stride_h > 1 || p.stride_w > 1;
  Residue residues[most_parts];
  int count = 0;
  for (int a = 0; a < std::min(p.stride_h, p.h); ++a)
    for (int b = 0; b < std::min(p.stride_w, p.w); ++b)
      residues[count++] = {a, b, axis_of(p.h, p.p(), p.r, p.pad_top, p.stride_h, p.dilation_h, a), axis_of(p.w, p.q(), p.s, p.pad_left, p.stride_w, p.dilation_w, b)};
  // The longest sums first.
  std::stable_sort(residues, residues + count, [](Residue const& a, Residue const& b) { return a.rows.taps * a.columns.taps > b.rows.taps * b.columns.taps; });
  work.parts = count;
  for (int i = 0; i < count; ++i) {
    auto const& [a, b, rows, columns] = residues[i];
    work.part[i] = {.pixels = p.n * rows.extent * columns.extent, .image = rows.extent * columns.extent, .columns = columns.extent, .lower_h = rows.lower,
                    .lower_w = columns.lower, .taps_h = rows.taps, .taps_w = columns.taps, .dilation_h = p.dilation_h, .dilation_w = p.dilation_w,
                    .first_r = rows.first, .first_s = columns.first, .step_r = rows.step, .step_s = columns.step};
    if (rows.taps * columns.taps == 0) work.part[i].taps_h = work.part[i].taps_w = 0;
    std::int64_t const first = (std::int64_t(a) * p.w + b) * p.c;
    int const pixels = work.part[i].pixels;
    auto map = [&](View v, int n, int h, int w) {
      bf16* const from = v.as<bf16>() + first;
      if (!lattice) return tiled_map(from, {p.c, pixels}, {p.c}, {64, 64});
      return im2col_map(from, {.n = n, .h = h, .w = w, .c = p.c, .stride_n = std::int64_t(p.h) * p.w * p.c, .stride_h = std::int64_t(p.stride_h) * p.w * p.c,
                               .stride_w = std::int64_t(p.stride_w) * p.c},
                        64, 64);
    };
    work.result[i] = map(args.x, p.n, rows.extent, columns.extent);
    if (p.store.residual) work.residual[i] = map(args.residual, p.n, rows.extent, columns.extent);
    if (p.store.mask == Mask::bits) work.mask[i] = tiled_map(args.mask.data, {p.c / 16, pixels}, {p.c / 16}, {(tile.channels > 128 ? tile.channels : 128) / 16, 64}, 0);
    else if (args.mask) work.mask[i] = map(args.mask, p.n, rows.extent, columns.extent);
    if (args.other) work.other[i] = map(args.other, p.n, rows.extent, columns.extent);
  }
  work.channels = p.c;
  work.blocks_of_64 = (p.k + 63) / 64;
  work.filter_width = p.s;
  work.has_residual = p.store.residual;
  bool const of_x = p.store.mask == Mask::of_x;
  work.masked = p.store.mask != Mask::none && !of_x;
  work.mask_most = p.store.mask == Mask::relu6 || (of_x && p.load_x.act == Activation::relu6) ? 6.f : HUGE_VALF;
  if (of_x) work.load_x = args.load_x.as<float>();
  work.has_stats = p.store.stats != Stats::none;
  bool const other = p.store.stats == Stats::dot_other;
  work.has_mask = work.masked || (work.has_stats && !other && !of_x);
  work.step = args.step;
  auto const s = static_cast<cudaStream_t>(stream);
  bool const plain = p.store == OnStore{};
  if (plain && lattice) launch<Ending::store, true>(p, tile, work, residues, args, scratch, s);
  else if (plain) launch<Ending::store, false>(p, tile, work, residues, args, scratch, s);
  else if (p.store.mask == Mask::bits) launch<Ending::gradient_bits, false>(p, tile, work, residues, args, scratch, s);
  else if (of_x && lattice) launch<Ending::gradient_x, true>(p, tile, work, residues, args, scratch, s);
  else if (of_x) launch<Ending::gradient_x, false>(p, tile, work, residues, args, scratch, s);
  else if (other && lattice) launch<Ending::gradient_other, true>(p, tile, work, residues, args, scratch, s);
  else if (other) launch<Ending::gradient_other, false>(p, tile, work, residues, args, scratch, s);
  else if (lattice) launch<Ending::gradient, true>(p, tile, work, residues, args, scratch, s);
  else launch<Ending::gradient, false>(p, tile, work, residues, args, scratch, s);
}

}  // namespace falconet::wgmma_conv
