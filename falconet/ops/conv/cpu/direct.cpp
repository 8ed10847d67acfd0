// Direct convolution, forward and data gradient: register tiles of (result pixels) x (vectors of result channels), every input
// value broadcast once per tile, weights repacked so that they stream. The filter gradient is in direct_filter.cpp,
// the data gradient of a small max-pooled map in direct_unpool.cpp.
//
//   y(n,p,q,k) = sum_{r,s,c} x(n, p*stride - pad + r*dilation, q*stride - pad + s*dilation, c) w(k,r,s,c)
//   dx(n,h,w,c) = sum_{r,s,k} dy(n, (h + pad - r*dilation)/stride, (w + pad - s*dilation)/stride, k) w(k,r,s,c), where exact
//
// Both gather: dx is a forward convolution of dy with the flipped, transposed filter, separately for each class of pixels
// modulo the stride. In NHWC the taps (s,c) of one filter row are one contiguous run of the input. Rows that need padding,
// or come max-pooled, are copied into a small padded buffer on the stack of the thread, once per task: no border cases in
// the loops, and absent filter rows are skipped. Related: Georganas et al., "Anatomy of high-performance deep learning
// convolutions on SIMD architectures", SC 2018.
// The register tiles are in direct_tile.h, the store slots in direct_store.h.
// bf16: where the processor has AVX512-BF16 and channels are even, two neighbouring ones are an element, the filter is packed in pairs, and a tile
// multiplies pairs (vdpbf16ps, f32 sums, subnormals as zero) at twice f32's rate; elsewhere rows are widened as they are staged.
//   Tile (AVX-512): 24 sums: 24x1, 12x2, 8x3 or 6x4 (pixels x vectors); loads per multiply-add 1/pixels + 1/vectors.
//   Cost: 2 n k p q c r s operations; reads x, writes y once, streams the packed filter from L1 or L2 per tile.
// Limits: f32 or bf16, nhwc, groups 1; store {bias, residual, relu or relu6, mask} or {bias, relu, max_pool}, bwd_data also load_dy {max_unpool}; in
// bf16 also statistics and masks of relu6, and no filter of which a pass exceeds L2.
#include "falconet/ops/conv/cpu/direct.h"

#ifdef FALCONET_ISA

#include "falconet/device/cpu/simd.h"
#include "falconet/ops/conv/cpu/direct_rows.h"
#include "falconet/ops/conv/cpu/direct_store.h"
#include "falconet/ops/conv/cpu/direct_tile.h"

namespace falconet::FALCONET_ISA {
namespace {

constexpr long kRowsTogether = 4096;    // floats of sums

// How a class of columns meets its taps in memory.
struct Columns {
  GatherTaps taps;
  int positions, runs, run, groups;     // runs of `run` floats; packed groups of weights per filter row
  long run_step;
};
Columns columns_of(DirectGather const& g, int cls) {
  Columns c{};
  c.taps = taps_of(g.col, cls);
  c.positions = positions_of(g.col, cls);
  bool const joined = c.taps.step == 1 || c.taps.count == 1;
  c.runs = c.taps.count == 0 ? 0 : joined ? 1 : c.taps.count;
  c.run = joined ? c.taps.count * g.in_c : g.in_c;
  c.run_step = long(c.taps.step) * g.in_c;
  // A run's remainder of a group takes one packed vector per float.
  c.groups = c.runs * (c.run / g.group + (g.group > 1 ? c.run % g.group : 0));
  return c;
}

struct Block {
  int first, vectors;                   // of vectors of result channels
};
Block block_of(DirectGather const& g, int b) {
  int const all = (g.out_c + g.lanes - 1) / g.lanes, each = all / g.blocks, more = all % g.blocks;
  return {b * each + (b < more ? b : more), each + (b < more)};
}

// to[t][lane] = from[lane * step + t]: four by four, a cache line of each row at a time.
void transpose(float const* from, long step, int rows, int lanes, int width, float* to) {
  int t0 = 0;
#if HWY_TARGET != HWY_SCALAR
  hn::FixedTag<float, 4> const d;
  for (; t0 + 16 <= rows; t0 += 16)
    for (int lane = 0; lane + 4 <= lanes; lane += 4)
      for (int t = t0; t < t0 + 16; t += 4) {
        float const* const at = from + lane * step + t;
        auto const a = hn::LoadU(d, at), b = hn::LoadU(d, at + step), c = hn::LoadU(d, at + 2 * step), e = hn::LoadU(d, at + 3 * step);
        auto const ac = hn::InterleaveLower(d, a, c), be = hn::InterleaveLower(d, b, e);
        auto const high_ac = hn::InterleaveUpper(d, a, c), high_be = hn::InterleaveUpper(d, b, e);
        float* const out = to + t * width + lane;
        hn::StoreU(hn::InterleaveLower(d, ac, be), d, out);
        hn::StoreU(hn::InterleaveUpper(d, ac, be), d, out + width);
        hn::StoreU(hn::InterleaveLower(d, high_ac, high_be), d, out + 2 * width);
        hn::StoreU(hn::InterleaveUpper(d, high_ac, high_be), d, out + 3 * width);
      }
#endif
  for (int t = 0; t < rows; ++t) {
    for (int lane = t < t0 ? lanes / 4 * 4 : 0; lane < lanes; ++lane) to[t * width + lane] = from[lane * step + t];
    for (int lane = lanes; lane < width; ++lane) to[t * width + lane] = 0;
  }
}

// Packs the weights of one block in the order in which the tiles read them: class, filter row, run, group, vector, lane.
void pack(DirectGather const& g, int block) {
  Block const b = block_of(g, block);
  int const R = g.row.taps, S = g.col.taps, group = g.group, width = b.vectors * g.lanes, first = b.first * g.lanes;
  int const filled = g.out_c - first < width ? g.out_c - first : width;
  int all_rows = 0, all_groups = 0;
  for (int i = 0; i < classes_of(g.row); ++i) all_rows += taps_of(g.row, i).count;
  for (int j = 0; j < classes_of(g.col); ++j) all_groups += columns_of(g, j).groups;
  float* const packed = g.packed + long(b.first) * g.lanes * group * all_rows * all_groups;
  // From one result channel to the next, from one input channel to the next, and from tap to tap, in w[k][r][s][c].
  long const out_step = g.row.transposed ? 1 : long(R) * S * g.in_c, in_step = g.row.transposed ? long(R) * S * g.out_c : 1;
  long const tap_step = g.row.transposed ? g.out_c : g.in_c;
  int const together = g.row.transposed ? 32 : g.in_c;    // input channels at a time: so many pages of w are in use
  for (int c0 = 0; c0 < g.in_c; c0 += together) {
    int const c1 = c0 + together < g.in_c ? c0 + together : g.in_c;
    float* to = packed;
    for (int i = 0; i < classes_of(g.row); ++i) {
      GatherTaps const rows = taps_of(g.row, i);
      for (int j = 0; j < classes_of(g.col); ++j) {
        Columns const cols = columns_of(g, j);
        for (int r = 0; r < rows.count; ++r) {
          float const* const row = g.filter + long(rows.tap + r * rows.tap_step) * S * tap_step + first * out_step;
          if (group == 1) {
            for (int s = 0; s < cols.taps.count; ++s, to += long(g.in_c) * width) {
              float const* const from = row + (cols.taps.tap + s * cols.taps.tap_step) * tap_step;
              if (!g.row.transposed) transpose(from, out_step, g.in_c, filled, width, to);
              else
                for (int c = c0; c < c1; ++c) {
                  copy(from + c * in_step, to + long(c) * width, filled);
                  zero(to + long(c) * width + filled, width - filled);
                }
            }
            continue;
          }
          for (int u = 0; u < cols.runs; ++u)
            for (int t = 0; t < cols.run;) {
              int const n = t < cols.run / group * group ? group : 1;   // floats in this vector
              zero(to, width * group);
              for (int e = 0; e < n; ++e, ++t) {
                float const* const from = row + (cols.taps.tap + (u + t / g.in_c) * cols.taps.tap_step) * tap_step + t % g.in_c * in_step;
                for (int lane = 0; lane < filled; ++lane) to[lane * group + e] = from[lane * out_step];
              }
              to += width * group;
            }
        }
      }
    }
  }
}

void stage_rows(DirectGather const& g, int image, int begin, int end, float* to) {
  int const columns = int(g.pitch / g.in_c);
  auto const* const in_bf16 = reinterpret_cast<std::uint16_t const*>(g.in);
  for (int row = begin; row < end; ++row, to += g.pitch) {
    if (!g.unpool) {
      long const at = (long(image) * g.row.in + row) * g.col.in * g.in_c;
      if (g.odd_c)
        copy_row_padded(in_bf16 + (long(image) * g.row.in + row) * g.col.in * g.odd_c, g.col.in, g.odd_c, g.first_col, columns, reinterpret_cast<std::uint16_t*>(to));
      else if (g.bf16 && !g.pairs) copy_row(in_bf16 + at, g.col.in, g.in_c, g.first_col, columns, to);
      else copy_row(g.in + at, g.col.in, g.in_c, g.first_col, columns, to);
      continue;
    }
    int const rows = g.row.in / g.unpool, width = g.col.in / g.unpool, pooled = row / g.unpool;
    if (pooled >= rows) {
      zero(to, g.pitch);
      continue;
    }
    long const at = (long(image) * rows + pooled) * width * g.in_c;
    if (g.pairs)
      unpool_row(in_bf16 + 2 * at, g.in_winner + 2 * at, width, g.unpool, row % g.unpool, 2 * g.in_c, g.first_col, columns, reinterpret_cast<std::uint16_t*>(to), 2 * g.in_c);
    else if (g.bf16) unpool_row(in_bf16 + at, g.in_winner + at, width, g.unpool, row % g.unpool, g.in_c, g.first_col, columns, to, g.in_c);
    else unpool_row(g.in + at, g.in_winner + at, width, g.unpool, row % g.unpool, g.in_c, g.first_col, columns, to, g.in_c);
  }
}

void task(DirectGather const& g, int const task_number) {
  int number = task_number;
  HWY_ALIGN float stage[direct_stage_floats];
  HWY_ALIGN float row_sums[direct_row_floats];
  int const split = number / (g.images * g.bands), first_block = g.blocks * split / g.splits, end_block = g.blocks * (split + 1) / g.splits;
  number -= split * g.images * g.bands;
  int const image = number / g.bands, needed = g.pool ? g.row.out / g.pool * g.pool : g.row.out;
  int const begin = number % g.bands * g.band, end = begin + g.band < needed ? begin + g.band : needed;
  int low = first_input(g.row, begin), high = last_input(g.row, end) + 1;
  low = low < 0 ? 0 : low, high = high > g.row.in ? g.row.in : high;
  float const* input = g.in + long(image) * g.row.in * g.pitch + g.first_col * g.in_c;   // of row 0, were it there
  if (g.staged) {
    stage_rows(g, image, low, high, stage);
    input = stage - low * g.pitch;
  }

  GatherTaps rows[direct_max_classes];
  Columns cols[direct_max_classes];
  int const row_classes = classes_of(g.row), col_classes = classes_of(g.col);
  int all_rows = 0, all_groups = 0, most_rows = 1, most_run = 1;
  for (int i = 0; i < row_classes; ++i) {
    rows[i] = taps_of(g.row, i);
    all_rows += rows[i].count;
    if (rows[i].count > most_rows) most_rows = rows[i].count;
  }
  for (int j = 0; j < col_classes; ++j) {
    cols[j] = columns_of(g, j);
    all_groups += cols[j].groups;
    if (cols[j].runs == 1 && cols[j].run > most_run) most_run = cols[j].run;
  }
  for (int j = 0; j < col_classes; ++j)
    if (cols[j].runs > 1) most_run = 1 << 30;            // several runs are taken whole

  for (int block = first_block; block < end_block; ++block) {
    Block const b = block_of(g, block);
    int const first = b.first * g.lanes, width = b.vectors * g.lanes;
    bool const in_place = !g.pool && !g.bf16 && first + width <= g.out_c;          // sums go straight to the result
    bool const finish = !in_place || g.mask_on;
    float const* const bias = !finish && g.bias_on ? g.bias + first : nullptr;   // as the sums are stored, where that is all
    float const* const residual = !finish && g.residual_on ? g.residual : nullptr;
    int const chunk = in_place ? g.row_chunk : most_rows;               // filter rows of a pass, and floats of a run
    int const run_chunk = in_place && chunk == 1 && g.group == 1 ? g.run_chunk : most_run;
    long const group_floats = long(b.vectors) * g.lanes * g.group;
    float const* const weights = g.packed + long(b.first) * g.lanes * g.group * all_rows * all_groups;
    // Rows of bf16 that are finished together: as many as stay in L1.
    long const row_floats = long(g.col.out) * width;
    int const together = g.bf16 && !g.pool && row_floats <= kRowsTogether / 2 ? int(kRowsTogether / row_floats) : 1;
    int const most_pixels = kSums / b.vectors < g.max_tile ? kSums / b.vectors : g.max_tile;

    for (int from = 0, run_from = 0; from < most_rows; run_from + run_chunk < most_run ? run_from += run_chunk : (run_from = 0, from += chunk)) {
      // Weights that stream from beyond L2: the tiles of this pass ask for those of the next, which follow in memory.
      long const pass = g.heavy && row_classes == 1 && col_classes == 1 && group_floats > 16 ? (run_chunk < most_run ? run_chunk : long(chunk) * all_groups) * group_floats : 0;
      float const* ahead = weights + (from * long(all_groups) + run_from) * group_floats + pass;
      float const* const ahead_end = ahead + pass;
      for (int h = begin; h < end; ++h) {
        int const a = h % row_classes;
        bool const start = from == 0 && run_from == 0, last = from + chunk >= most_rows && run_from + run_chunk >= most_run;
        GatherTaps const& r = rows[a];
        int const base = h / row_classes * step_in(g.row) + r.first;    // input row of tap 0
        int lo = base < 0 ? ceil_div(-base, r.step) : 0, hi = base < g.row.in ? (g.row.in - 1 - base) / r.step + 1 : 0;
        lo = lo < from ? from : lo, hi = hi > r.count ? r.count : hi, hi = hi > from + chunk ? from + chunk : hi;
        if (lo > hi) lo = hi;
        int before = 0;                                                 // filter rows of the classes before this one
        for (int i = 0; i < a; ++i) before += rows[i].count;
        long const pixel = (long(image) * g.row.out + h) * g.col.out;
        float* const out = in_place ? g.out + pixel * g.out_c + first : row_sums + (g.pool ? h % g.pool : (h - begin) % together) * long(g.col.out) * width;
        long const out_step = in_place ? g.out_c : width;

        bool const store = start || (last && !finish && (bias || residual || g.relu));   // also where no tap of this pass meets the image
        int const past = g.stream && start && last && in_place && !finish;
        if (hi > lo || store) {
          long at = before * long(all_groups) * group_floats;
          for (int j = 0; j < col_classes; at += r.count * long(cols[j].groups) * group_floats, ++j) {
            Columns const& c = cols[j];
            int const tiles = (c.positions + most_pixels - 1) / most_pixels;
            int const run = c.run <= run_from ? 0 : c.run - run_from < run_chunk ? c.run - run_from : run_chunk;
            if (tiles == 0 || (run == 0 && !store)) continue;
            int const each = c.positions / tiles, more = c.positions % tiles;
            TileKernel const small = tile_for(g, b.vectors, each), large = more ? tile_for(g, b.vectors, each + 1) : small;
            long const pixel_step = long(step_in(g.col)) * g.in_c;
            long const ahead_step = ahead < ahead_end ? 16 : 0;
            Tile t{input + (base + lo * r.step) * g.pitch + long(c.taps.first - g.first_col) * g.in_c + run_from, r.step * g.pitch, c.run_step, pixel_step,
                   c.runs ? hi - lo : 0, c.runs, run, weights + at + (lo * long(c.groups) + run_from) * group_floats, out + j * out_step,
                   col_classes * out_step, !start, last ? bias : nullptr, last && residual ? residual + (out + j * out_step - g.out) : nullptr,
                   last && !finish ? g.relu : 0, g.far, past, ahead, ahead_step};
            for (int i = 0; i < tiles; ++i) {
              int const pixels = each + (i < more);
              (i < more ? large : small)(t);
              if (t.ahead_step) ahead += 16L * t.rows * t.runs * t.run, t.ahead = ahead, t.ahead_step = ahead < ahead_end ? 16 : 0;
              t.x += pixels * pixel_step;
              t.out += pixels * t.out_step;
              if (t.residual) t.residual += pixels * t.out_step;
            }
          }
        }
        if (!last || !finish) continue;
        if (g.bf16 && !g.pool) {
          int const before = (h - begin) % together;
          if (before + 1 == together || h + 1 == end)
            finish_bf16(g, row_sums, out_step, before + 1, image, task_number, pixel - long(before) * g.col.out, first, first + width < g.out_c ? width : g.out_c - first);
          continue;
        }
        with_lanes(g.lanes, [&](auto d) {
          if (!g.pool) finish_row(d, g, out, out_step, pixel, first, b.vectors);
          else if (h % g.pool == g.pool - 1)
            pool_row(d, g, row_sums, long(g.col.out) * width, width, (long(image) * (g.row.out / g.pool) + h / g.pool) * (g.col.out / g.pool), first, b.vectors);
        });
      }
    }
  }
#if HWY_ARCH_X86
  if (g.stream) __builtin_ia32_sfence();                 // before other threads are told that the results are there
#endif
}

}  // namespace

extern DirectGatherKernels const direct_gather{kLanes, kRegisters, pack, task};
}  // namespace falconet::FALCONET_ISA

#else

#include <algorithm>
#include <cmath>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/conv/algorithms.h"
#include "falconet/ops/conv/cpu/direct_plan.h"
#include "falconet/ops/conv/cpu/stored_statistics.h"

namespace falconet {
namespace {

// Input pixels in a row that all results of a row meet, from the first met column on.
struct MetColumns {
  int first, count;
};
MetColumns met_columns(GatherAxis const& col) {
  int const first = first_input(col, 0);
  return {first, last_input(col, col.out) + 1 - first};
}

constexpr long direct_heavy_bytes = 1 << 20;             // packed weights from which bands should be few

// Forward in bf16, of a flattened problem: an odd number of channels, such as an image's three, becomes pairs with a zero. One would not gain.
bool pads(ConvProblem const& p, Isa isa) { return p.x_type == DType::bf16 && p.direction == Direction::fwd && p.c % 2 == 1 && p.c >= 3 && in_pairs(isa, 2); }

// Everything about the problem; pointers are filled in by the run.
DirectGather plan_of(ConvProblem const& problem, Config const& config, Isa isa) {
  ConvProblem const p = flattened(problem);
  auto const& kernels = FALCONET_KERNELS(isa, direct_gather);
  bool const back = p.direction == Direction::bwd_data;
  DirectGather g{};
  g.row = {back ? p.p() : p.h, back ? p.h : p.p(), p.r, p.stride_h, p.dilation_h, p.pad_top, back};
  g.col = {back ? p.q() : p.w, back ? p.w : p.q(), p.s, p.stride_w, p.dilation_w, p.pad_left, back};
  g.images = p.n;
  g.in_c = back ? p.k : p.c;
  g.out_c = back ? p.c : p.k;
  g.bf16 = p.x_type == DType::bf16;
  if (pads(p, isa)) g.odd_c = g.in_c++;
  g.pairs = g.bf16 && in_pairs(isa, g.in_c);
  if (g.pairs) g.in_c /= 2;
  g.unpool = p.load_dy.unpool.kind == PoolSlot::max ? p.load_dy.unpool.size : 0;
  g.pool = p.store.pool.kind == PoolSlot::max ? p.store.pool.size : 0;
  g.bias_on = p.store.bias, g.relu = p.store.act == Activation::relu ? 1 : p.store.act == Activation::relu6 ? 6 : 0;
  g.mask_on = p.store.mask != Mask::none, g.residual_on = p.store.residual;

  g.far = std::size_t(g.images) * std::size_t(g.row.out) * std::size_t(g.col.out) * std::size_t(g.out_c) >= direct_far_floats && !g.pool;
  g.stream = !g.bf16 && !g.pool && !g.mask_on && g.out_c % 16 == 0 &&
             std::size_t(g.images) * std::size_t(g.row.out) * std::size_t(g.col.out) * std::size_t(g.out_c) >= direct_stream_floats;

  int const V = kernels.vector_lanes, sums = kernels.registers == 32 ? 24 : 12;
  g.group = 1;
  bool const half = V == 16 && !g.pairs && g.out_c <= 8 && g.out_c > 4 && config.get("half", 0);
  while (!half && !g.pairs && g.group < V / 4 && g.out_c <= V / (2 * g.group)) g.group *= 2;
  g.lanes = half ? 8 : V / g.group;
  int const all = (g.out_c + g.lanes - 1) / g.lanes;
  int const most = std::clamp(config.get("vectors", kernels.registers == 32 ? 4 : 3), 1, 4);
  g.blocks = (all + most - 1) / most;
  g.vectors = (all + g.blocks - 1) / g.blocks;
  g.max_tile = std::clamp(config.get("tile", sums), 1, g.pairs ? 12 : sums);

  auto const met = met_columns(g.col);
  g.first_col = met.first;
  g.staged = g.unpool || (g.bf16 && !g.pairs) || g.odd_c || met.first < 0 || met.first + met.count > g.col.in;
  g.pitch = long(g.staged ? met.count : g.col.in) * g.in_c;
  long const run_bytes = 4L * g.col.taps * g.in_c * g.vectors * g.lanes, chunk_bytes = 192 << 10;
  g.row_chunk = int(std::max<long>(1, chunk_bytes / run_bytes));
  long const run_pieces = (run_bytes + chunk_bytes - 1) / chunk_bytes;
  g.run_chunk = int((g.col.taps * g.in_c + run_pieces - 1) / run_pieces);

  // Bands: staged rows within half the buffer (of L2), and enough tasks for several cores even for one image. Weights that exceed L2 are
  // read anew for each band: then few bands, and the blocks of result channels are dealt to tasks too.
  g.heavy = run_bytes / g.vectors * all * g.row.taps >= direct_heavy_bytes;
  int const most_splits = g.heavy ? std::min(g.blocks, 8) : 1;
  int const unit = std::max(1, g.pool), rows = g.pool ? g.row.out / g.pool * g.pool : g.row.out;
  auto const staged_rows = [&](int band) {
    return g.row.transposed ? (band + (g.row.taps - 1) * g.row.dilation) / g.row.stride + 2 : (band - 1) * g.row.stride + (g.row.taps - 1) * g.row.dilation + 1;
  };
  long const limit = g.heavy && g.staged ? long(direct_stage_floats) : long(direct_stage_floats) / 2;
  g.band = rows;
  while (g.band > unit && (staged_rows(g.band) * g.pitch > limit || g.images * ((rows + g.band - 1) / g.band) * most_splits < 8)) g.band = (g.band / 2 + unit - 1) / unit * unit;
  g.bands = (rows + g.band - 1) / g.band;
  g.splits = 1;
  while (2 * g.splits <= most_splits && g.images * g.bands * g.splits < 8) g.splits *= 2;   // an even deal
  return g;
}

// The filter as floats or pairs in the order of w, from which it is packed; forward, bf16 of even channels already lies in pairs.
long unpacked_floats(ConvProblem const& p, DirectGather const& g) {
  bool const pairs = g.pairs;
  if (g.odd_c) return long(g.out_c) * g.row.taps * g.col.taps * g.in_c;
  if (p.w_type != DType::bf16 || (pairs && p.direction == Direction::fwd)) return 0;
  return long(p.k) / (pairs ? 2 : 1) * p.r * p.s * p.c;
}
long packed_floats(DirectGather const& g, int vector_lanes) {
  long const all = (g.out_c + g.lanes - 1) / g.lanes;
  long const taps = long(g.row.taps) * g.col.taps * g.in_c;             // one vector each at most
  return all * vector_lanes * taps;
}

// What statistics begin behind.
std::size_t filter_bytes(ConvProblem const& p, Config const& config) {
  std::size_t most = 0;
  for (Isa isa : {Isa::plain, Isa::avx2, Isa::avx512}) {
    DirectGather const g = plan_of(p, config, isa);
    long const floats = (packed_floats(g, FALCONET_KERNELS(isa, direct_gather).vector_lanes) + 15) / 16 * 16 + unpacked_floats(p, g);
    most = std::max(most, sizeof(float) * std::size_t(floats));
  }
  return (most + 63) / 64 * 64;
}
int tasks_of(DirectGather const& g) { return g.images * g.bands * g.splits; }

std::string reject_gather(ConvProblem const& problem, Isa here) {
  ConvProblem const p = flattened(problem);
  bool const back = p.direction == Direction::bwd_data;
  if (back && std::max(p.stride_h, p.stride_w) > direct_max_classes) return "strides of a data gradient are at most 8";
  bool const bf16 = p.x_type == DType::bf16;
  if (p.store.affine != Affine::none || (p.store.stats != Stats::none && !bf16)) return "store slots are bias, residual, relu, mask and max_pool";
  if (p.store.act != Activation::none && p.store.act != Activation::relu && p.store.act != Activation::relu6) return "of the activations it has relu and relu6";
  if (p.store.act == Activation::relu6 && p.pooled_y()) return "before max_pool it has relu alone";
  if (p.store.mask == Mask::relu6 && !bf16) return "a mask of relu6";
  if (p.store.stats != Stats::none && (p.n != problem.n || p.c != problem.c || p.pooled_y())) return "statistics of 1x1 filters, or of a pooled map";
  if (p.load_dy.affine != Affine::none || p.load_dy.act != Activation::none || p.load_x != OnLoad{}) return "of the load slots it has max_unpool";
  for (Isa isa : {Isa::plain, Isa::avx2, Isa::avx512}) {
    if (bf16 && isa != here) continue;
    DirectGather const g = plan_of(problem, {}, isa);
    if (bf16 && 4L * g.row.taps * g.col.taps * g.in_c * g.vectors * g.lanes > (1 << 20)) return "the filter of a block of channels exceeds L2";
    long const rows = g.row.transposed ? (g.row.taps - 1) * g.row.dilation / g.row.stride + 2 : (std::max(1, g.pool) - 1) * g.row.stride + (g.row.taps - 1) * g.row.dilation + 1;
    if (g.staged && (g.band > std::max(1, g.pool) ? 0 : rows) * g.pitch > long(direct_stage_floats)) return "input rows of one result row exceed its buffer of 256 KiB";
    if (long(std::max(1, g.pool)) * g.col.out * g.lanes * 4 > long(direct_row_floats)) return "result rows exceed its buffer of 128 KiB";
  }
  return {};
}

void prepare(ConvProblem const& p, Config const& config, ConvArgs const& args, View to, Stream& stream) {
  auto const& kernels = FALCONET_KERNELS(stream.isa(), direct_gather);
  DirectGather g = plan_of(p, config, stream.isa());
  g.filter = args.w.as<float const>();
  g.packed = to.as<float>();
  if (g.bf16 && unpacked_floats(p, g)) {
    float* const unpacked = g.packed + (packed_floats(g, kernels.vector_lanes) + 15) / 16 * 16;
    long const row = long(p.r) * p.s * p.c;
    if (g.odd_c) {
      auto const* const w = args.w.as<std::uint16_t const>();
      auto* const padded = reinterpret_cast<std::uint16_t*>(unpacked);
      long const taps = long(g.row.taps) * g.col.taps, c = g.odd_c;
      stream.threads().run(g.out_c, [&](int k) {
        for (long tap = k * taps; tap < (k + 1) * taps; ++tap) {
          std::copy_n(w + tap * c, c, padded + tap * (c + 1));
          padded[tap * (c + 1) + c] = 0;
        }
      });
    } else if (g.pairs) join_rows(args.w.as<bf16 const>(), p.k, row, unpacked, stream);
    else {
      bf16 const* const w = args.w.as<bf16 const>();
      stream.threads().run(p.k, [&](int k) { std::transform(w + k * row, w + (k + 1) * row, unpacked + k * row, [](bf16 v) { return to_float(v); }); });
    }
    g.filter = unpacked;
  }
  stream.threads().run(g.blocks, [&](int block) { kernels.pack(g, block); });
}

void run_gather(ConvProblem const& p, Config const& config, ConvArgs const& args, View scratch, Stream& stream) {
  auto const& kernels = FALCONET_KERNELS(stream.isa(), direct_gather);
  DirectGather g = plan_of(p, config, stream.isa());
  bool const back = p.direction == Direction::bwd_data;
  g.in = (back ? args.y : args.x).as<float const>();
  g.out = (back ? args.x : args.y).as<float>();
  g.bias = args.bias.as<float const>();
  g.mask = args.mask.as<float const>();
  g.residual = args.residual.as<float const>();
  g.in_winner = back ? args.winner.as<std::uint8_t const>() : nullptr;
  g.out_winner = back ? nullptr : args.winner.as<std::uint8_t>();
  if (reinterpret_cast<std::uintptr_t>(g.out) % 64) g.stream = 0;
  if (args.prepared) g.packed = args.prepared.as<float>();
  else prepare(p, config, args, scratch, stream), g.packed = scratch.as<float>();
  double* const totals = reinterpret_cast<double*>(scratch.as<char>() + (args.prepared ? 0 : filter_bytes(p, config)));
  if (g.bf16) {
    g.slots = stored_rows_of(p, args, totals);
    g.slots.out = g.out, g.slots.step = g.out_c;
    g.valid_images = args.step ? std::clamp<int>(args.step->valid_count, 0, p.n) : p.n;
    if (g.slots.totals) clear_statistics(p, tasks_of(g), totals, stream);
  }
  stream.threads().run(tasks_of(g), [&](int task) { kernels.task(g, task); });
  if (g.slots.totals) add_statistics(p, tasks_of(g), totals, args, stream);
}

std::string reject(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  bool const filter_of_bf16 = p.direction == Direction::bwd_filter && p.x_type == DType::bf16 && p.y_type == DType::bf16 && p.w_type == DType::f32;
  if (!p.one_type(DType::f32) && !p.one_type(DType::bf16) && !filter_of_bf16) return "needs f32 or bf16";
  if (p.layout != Layout::nhwc) return "needs nhwc";
  if (p.groups != 1) return "needs groups 1";
  if (p.average_pooled()) return "of the pools it has max_pool";
  return p.direction == Direction::bwd_filter ? direct_filter_reject(p, facts.isa) : reject_gather(p, facts.isa);
}

bool sparse(ConvProblem const& p, Config const& config) { return !config.get("dense", 0) && direct_unpool_accepts(p); }

std::vector<Config> configs(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.direction == Direction::bwd_filter) return {Config{}};
  if (sparse(p, {})) return {Config{}, Config{{"dense", 1}}};
  int const wide = p.direction == Direction::fwd ? p.k : p.c;
  Config const two{{"vectors", 2}}, half{{"half", 1}};
  if (wide > 32) return {Config{}, two};
  if (facts.isa != Isa::avx512 || wide > 8 || wide <= 4 || plan_of(p, {}, facts.isa).pairs) return {Config{}};
  // Processors that split AVX-512 loads gain from half vectors of 8 channels; the others from two input channels in one vector.
  bool const split = facts.name.find("AMD") != std::string::npos;
  return split ? std::vector{half, Config{}} : std::vector{Config{}, half};
}

// tile: pixels of a tile at most; vectors: of result channels beside one another, at most.
std::vector<LaunchRange> ranges(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.direction == Direction::bwd_filter) return {};
  bool const registers = facts.isa == Isa::avx512;
  return {{"tile", 1, registers ? 24 : 12, false}, {"vectors", 1, registers ? 4 : 3, false}};
}

std::size_t scratch(ConvProblem const& p, Config const& config) {
  if (p.direction == Direction::bwd_filter) return direct_filter_scratch(p);
  if (sparse(p, config)) return direct_unpool_scratch(p);
  int tasks = 0;
  if (p.store.stats != Stats::none)
    for (Isa isa : {Isa::plain, Isa::avx2, Isa::avx512}) tasks = std::max(tasks, tasks_of(plan_of(p, config, isa)));
  return filter_bytes(p, config) + statistics_bytes(p, tasks);
}

// Of run_gather, the packed filter.
std::size_t prepared(ConvProblem const& p, Config const& config) { return p.direction == Direction::bwd_filter || sparse(p, config) ? 0 : filter_bytes(p, config); }

// One core of 3.5 GHz with two (plain: one) multiply-adds a cycle at 60 % of its peak, and its share of memory bandwidth.
double seconds(ConvProblem const& p, DeviceFacts const& facts) {
  double const lanes = facts.isa == Isa::avx512 ? 16 : facts.isa == Isa::avx2 ? 8 : 2;
  int const wide = p.direction == Direction::bwd_data ? p.c : p.k;
  double const used = wide / (std::ceil(wide / lanes) * lanes);
  int const summed = p.direction == Direction::fwd ? p.c : p.k;
  bool const padded = pads(p, facts.isa), pairs = p.x_type == DType::bf16 && (p.direction == Direction::bwd_filter || padded || in_pairs(facts.isa, summed));
  double const per_second = 0.6 * 3.5e9 * 2 * 2 * lanes * (pairs ? (p.direction == Direction::bwd_filter ? 1.45 : padded ? 1.7 * p.c / (p.c + 1) : 1.7) * used : wide * 2 > lanes ? used : 0.8);
  bool const filter_1x1 = p.direction == Direction::bwd_filter && p.r * p.s == 1;
  double const seconds = std::max(p.operations() / per_second, bytes_of(p.operands()) / (filter_1x1 ? 15e9 : 12e9));
  return seconds + 2e-6;
}

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View scratch, Stream& stream) {
  if (p.direction == Direction::bwd_filter) direct_filter_run(p, args, scratch, stream);
  else if (sparse(p, config)) direct_unpool_run(p, args, scratch, stream);
  else run_gather(p, config, args, scratch, stream);
}

}  // namespace

bool in_pairs(Isa isa, int channels) { return isa == Isa::avx512 && channels % 2 == 0 && has_bf16_products(); }

void join_rows(bf16 const* from, int rows, long row, float* to, Stream& stream) {
  stream.threads().run(rows / 2, [&](int pair) {
    bf16 const *const even = from + 2L * pair * row, *const odd = even + row;
    auto* const joined = reinterpret_cast<std::uint32_t*>(to) + pair * row;
    for (long i = 0; i < row; ++i) joined[i] = even[i].bits | std::uint32_t(odd[i].bits) << 16;
  });
}

ConvProblem flattened(ConvProblem p) {
  if (p.pooled_y() || p.stride_h != 1 || p.stride_w != 1 || p.pad_top || p.pad_left || p.pad_bottom || p.pad_right) return p;
  bool const per_channel_x = p.direction == Direction::bwd_data && p.store.bias;
  if (p.r == p.h && p.s == p.w && p.dilation_h == 1 && p.dilation_w == 1 && !per_channel_x) {   // an image is one pixel of c*h*w channels
    p.c *= p.h * p.w;
    p.h = p.w = p.r = p.s = 1;
  }
  if (p.r != 1 || p.s != 1) return p;
  // All pixels are alike: rows of up to 256 of them, of as many image rows as divide the batch, and four rows at least.
  int const rows = p.n * p.h;
  int joined = 1;
  for (int g = 2; g <= rows / 4 && g * p.w <= 256; ++g)
    if (rows % g == 0) joined = g;
  p.n = 1;
  p.h = rows / joined;
  p.w *= joined;
  return p;
}

Algorithm<ConvProblem> const conv_direct{
    .name = "direct", .target = DeviceKind::cpu, .reject = reject, .configs = configs, .scratch = scratch, .seconds = seconds, .run = run,
    .ranges = ranges, .prepares = "w", .prepared = prepared, .prepare = prepare};

}  // namespace falconet

#endif
