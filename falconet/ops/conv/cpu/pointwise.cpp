// 1x1 convolution as a matrix product without copies: pixels of the image are its rows as they lie in memory, only the filter is packed.
//   forward        y[pixel, k]  = sum_c x[pixel, c] w[k, c]        any stride: rows of the result, whose input pixels lie a stride apart
//   data gradient  dx[pixel, c] = sum_k dy[pixel, k] w[k, c]       stride 1
// A register tile is R pixels x V vectors of result channels (direct_tile.h: 8x3 with AVX-512), fed by broadcasts from R image rows. Pixels and
// blocks of channels are dealt to tasks together: a filter that fits the second-level cache is read by every task, which then takes a range of
// pixels; a larger one is dealt out by blocks of channels first, so that each of its weights is read once from further away even for
// a map of 7x7 pixels. Sums of more than 192 KiB of weights come in pieces of the summed dimension.
// Cost: 2 n p q k c operations; reads x once per block of channels, writes y once per piece. Related: Georganas et al., "Anatomy of high-performance
// deep learning convolutions on SIMD architectures", SC 2018, section II.
// Tiles store bias, residual and ReLU themselves. Where there is more to do (masks, statistics) or channels end inside a vector, some tiles go into a
// small buffer and from there through store_rows.h.
// bf16 (AVX512-BF16): two neighbouring channels are one 32-bit element, and tiles multiply pairs (direct_tile.cpp); all results pass through the buffer.
// Limits: f32, or bf16 with an even number of channels summed over, nhwc, groups 1, no padding, at least 8 result channels; store {bias, residual, relu or relu6, mask of either, statistics}. The filter
// gradient: pointwise_filter.cpp.
#include "falconet/ops/conv/cpu/direct.h"
#include "falconet/ops/conv/cpu/store_rows.h"

namespace falconet {

struct Pointwise {
  int in_c, out_c, rows, columns;              // rows of `columns` result pixels; stride 1: one row of all pixels
  int image_rows, in_rows, stride;             // rows of a result and input image, where rows are rows of images
  long row_step, pixel_step;                   // floats of the input from row to row and from result pixel to result pixel
  int blocks, splits, pixel_tasks, chunk;      // of channels; tasks among which blocks and pixels are dealt; summed at a time
  long together;                               // pixels that meet all blocks before the next ones: they and their results stay in L2
  float const *in, *packed;
  DirectGather store;                          // slots of the tiles, out and the lanes
  int finishes;                                // results have slots that tiles do not know
  long valid_pixels;                           // that statistics count
  StoredRows slots;                            // of the whole result
};
struct PointwiseKernels {
  int vector_lanes, registers;
  void (*task)(Pointwise const&, int task);
};
FALCONET_DECLARE_KERNELS(PointwiseKernels, pointwise_kernels)

// Block b is vectors [first, first + vectors) of the result channels.
struct PointwiseBlock {
  int first, vectors;
};
static inline PointwiseBlock pointwise_block(Pointwise const& g, int lanes, int b) {
  int const all = (g.out_c + lanes - 1) / lanes, first = int(long(all) * b / g.blocks);
  return {first, int(long(all) * (b + 1) / g.blocks) - first};
}

}  // namespace falconet

#ifdef FALCONET_ISA

#include "falconet/device/cpu/simd.h"
#include "falconet/ops/conv/cpu/direct_tile.h"

namespace falconet::FALCONET_ISA {
namespace {

// Sums of `count` pixels from `pixel` on, channels [first, first + channels), through their slots into the result.
void finish(Pointwise const& g, int number, float const* from, long from_step, long pixel, int count, int first, int channels) {
  long const at = pixel * g.out_c + first;
  StoredRows s = g.slots;
  s.channels = channels;
  s.from = from, s.from_step = from_step;
  advance(s, at);
  s.bias = s.bias ? s.bias + first : nullptr;
  s.stream = g.store.stream;
  double* const totals = s.totals ? s.totals + 2 * s.second * number + first : nullptr;
  for (int done = 0; done < count;) {                    // images that count, then the others
    long const counted = totals ? g.valid_pixels - pixel - done : 0;
    s.pixels = counted > 0 && counted < count - done ? int(counted) : count - done;
    s.totals = counted > 0 ? totals : nullptr;
    store_kernels.rows(s);
    done += s.pixels;
    s.from += s.pixels * s.from_step;
    advance(s, s.pixels * s.step);
  }
}

// Of what results meet, those of `pixels` pixels from element `at` on.
void ask_for(StoredRows const& s, void const* from, long at, int pixels, int vectors) {
  long const size = s.bf16 ? 2 : 4;
  for (int pixel = 0; from && pixel < pixels; ++pixel)
    for (long v = 0; v < vectors * kLanes * size; v += 64) __builtin_prefetch(static_cast<char const*>(from) + (at + pixel * s.step) * size + v);
}

constexpr int kTiles = 4;               // in the buffer

// Blocks [first_block, end_block) of pixels [begin, end); a part of task `number`.
void blocks(Pointwise const& g, int number, long begin, long end, int first_block, int end_block) {
  HWY_ALIGN float buffer[kTiles * kSums * kLanes];
  for (int b = first_block; b < end_block; ++b) {
    PointwiseBlock const block = pointwise_block(g, kLanes, b);
    int const first = block.first * kLanes, width = block.vectors * kLanes, all_pixels = kSums / block.vectors, most = all_pixels < g.store.max_tile ? all_pixels : g.store.max_tile;
    int const channels = first + width > g.out_c ? g.out_c - first : width;
    bool const buffered = channels < width || g.store.bf16 || (g.finishes && g.chunk >= g.in_c);
    bool const finishes = buffered || g.finishes;
    int const chunk = buffered ? g.in_c : g.chunk;
    float const* const weights = g.packed + long(first) * g.in_c;
    for (int from = 0; from < g.in_c; from += chunk) {
      int const count = g.in_c - from < chunk ? g.in_c - from : chunk;
      bool const last = from + count == g.in_c;
      // What streams from beyond L2 is asked for by the tiles before: a large filter's next piece, which follows in memory, else the next pixels.
      float const* ahead = weights + long(from + count) * width;
      float const* const ahead_end = g.store.heavy ? ahead + long(count) * width : ahead;
      for (long pixel = begin; pixel < end;) {
        long const row = pixel / g.columns, column = pixel - row * g.columns;
        long const run = end - pixel < g.columns - column ? end - pixel : g.columns - column;
        long const in_row = row / g.image_rows * g.in_rows + row % g.image_rows * g.stride;
        int const tiles = int((run + most - 1) / most), each = int(run / tiles), more = int(run % tiles);
        TileKernel const small = tile_for(g.store, block.vectors, each), large = more ? tile_for(g.store, block.vectors, each + 1) : small;
        long at = pixel * g.out_c + first;
        Tile t{g.in + in_row * g.row_step + column * g.pixel_step + from, 0, 0, g.pixel_step, 1, 1, count, weights + long(from) * width,
               buffered ? buffer : g.store.out + at, buffered ? width : g.out_c, from > 0, nullptr, nullptr, 0, buffered ? 0 : g.store.far, 0, weights, 0};
        if (last && !finishes) {
          if (g.store.bias_on) t.bias = g.store.bias + first;
          if (g.store.residual_on) t.residual = g.store.residual + at;
          t.relu = g.store.relu;
          t.stream = g.store.stream;
        }
        int waiting = 0;                                 // tiles that have not been finished, and their pixels
        for (int i = 0, pixels = 0; i < tiles; ++i) {
          int const here = each + (i < more);
          if (ahead < ahead_end) t.ahead = ahead, t.ahead_step = 16, ahead += 16L * count;
          else if (b == first_block && i + 1 < tiles) t.ahead = t.x + here * g.pixel_step, t.ahead_step = 16;
          else t.ahead = weights, t.ahead_step = 0;
          if (finishes && last && g.store.far) {
            long const next = (pixel + pixels) * g.out_c + first;
            void const* const operands[] = {g.slots.mask, g.slots.other, g.slots.residual, g.store.bf16 ? g.slots.out : nullptr};
            for (void const* from : operands) ask_for(g.slots, from, next, here, block.vectors);
          }
          (i < more ? large : small)(t);
          t.x += here * g.pixel_step;
          t.out += here * t.out_step;
          if (t.residual) t.residual += long(here) * g.out_c;
          if (!finishes || !last) {
            pixel += here;
            continue;
          }
          pixels += here;
          if (++waiting < kTiles && i + 1 < tiles) continue;
          if (buffered) t.out = buffer;
          finish(g, number, buffered ? buffer : g.store.out + pixel * g.out_c + first, t.out_step, pixel, pixels, first, channels);
          pixel += pixels;
          waiting = pixels = 0;
        }
      }
    }
  }
}

void task(Pointwise const& g, int number) {
  int const split = number / g.pixel_tasks, part = number % g.pixel_tasks;
  long const pixels = long(g.rows) * g.columns;
  // Whole rows where a row ends a tile anyway.
  long const unit = g.rows > 1 ? g.columns : 1, units = pixels / unit;
  long const begin = units * part / g.pixel_tasks * unit, end = units * (part + 1) / g.pixel_tasks * unit;
  int const first_block = g.blocks * split / g.splits, end_block = g.blocks * (split + 1) / g.splits;
  for (long low = begin; low < end; low += g.together)
    blocks(g, number, low, end - low < g.together ? end : low + g.together, first_block, end_block);
#if HWY_ARCH_X86
  if (g.store.stream) __builtin_ia32_sfence();           // before other threads are told that the results are there
#endif
}

}  // namespace

extern PointwiseKernels const pointwise_kernels{kLanes, kRegisters, task};
}  // namespace falconet::FALCONET_ISA

#else

#include <algorithm>
#include <cmath>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/conv/algorithms.h"
#include "falconet/ops/conv/cpu/direct_plan.h"
#include "falconet/ops/conv/cpu/pointwise_filter.h"
#include "falconet/ops/conv/cpu/stored_statistics.h"
#include "falconet/ops/gemm/cpu/packed.h"

namespace falconet {
namespace {

constexpr long heavy_bytes = 384 << 10;                  // weights from which they are dealt to the tasks
constexpr int max_tasks = 16;
constexpr double task_operations = 1e6;                  // at least so much in a task: about 5 us

Pointwise plan_of(ConvProblem const& p, Isa isa) {
  auto const& kernels = FALCONET_KERNELS(isa, pointwise_kernels);
  bool const back = p.direction == Direction::bwd_data;
  int const lanes = kernels.vector_lanes;
  Pointwise g{};
  g.in_c = back ? p.k : p.c;
  g.out_c = back ? p.c : p.k;
  g.store.bf16 = g.store.pairs = p.x_type == DType::bf16;
  if (g.store.pairs) g.in_c /= 2;
  bool const joined = p.stride_h == 1 && p.stride_w == 1;
  g.rows = joined ? 1 : p.n * p.p();
  g.columns = joined ? p.n * p.h * p.w : p.q();
  g.image_rows = joined ? 1 : p.p();
  g.in_rows = p.h;
  g.stride = p.stride_h;
  g.row_step = long(p.w) * g.in_c;
  g.pixel_step = long(p.stride_w) * g.in_c;
  auto& s = g.store;
  s.group = 1, s.lanes = lanes;
  s.max_tile = s.pairs ? 12 : 24;
  s.out_c = g.out_c;
  s.bias_on = p.store.bias, s.residual_on = p.store.residual;
  g.finishes = p.store.mask != Mask::none || p.store.stats != Stats::none;
  s.relu = p.store.act == Activation::relu ? 1 : p.store.act == Activation::relu6 ? 6 : 0;

  std::size_t const results = std::size_t(g.rows) * std::size_t(g.columns) * std::size_t(g.out_c);
  s.far = results >= direct_far_floats;
  s.stream = results >= direct_stream_floats && g.out_c % 16 == 0 && !s.bf16;

  int const all = (g.out_c + lanes - 1) / lanes;
  g.blocks = (all + 2) / 3;                              // of at most three vectors, the panels of the matrix product's packing
  int const wanted = int(std::clamp(p.operations() / task_operations, 1.0, double(max_tasks))) / 2 * 2;
  bool const heavy = 4L * g.in_c * g.out_c >= heavy_bytes;
  int const tasks = std::clamp(wanted, 1, heavy ? 8 : max_tasks);
  s.heavy = heavy;
  if (heavy) {                                           // an even deal
    int const eights = (g.blocks + 7) / 8 * 8;
    g.blocks = all >= 2 * eights ? eights : std::min(all, (g.blocks + 1) / 2 * 2);
  }
  g.splits = heavy ? std::min(g.blocks, tasks) : 1;
  while (g.blocks % g.splits) --g.splits;
  int const tile = (kernels.registers == 32 ? 24 : 12) / 3;
  long const units = g.rows > 1 ? g.rows : std::max(1, g.columns / tile);
  g.pixel_tasks = int(std::clamp<long>((tasks + g.splits - 1) / g.splits, 1, units));
  int const widest = (all + g.blocks - 1) / g.blocks * lanes;
  // Half of L2 for a strip of pixels and its results, if a task has several blocks; of a large filter, which no cache keeps between strips, more.
  long const strip = (384L << 10) / (4L * (g.in_c + g.out_c)), least = heavy ? 504 : 24;
  g.together = g.splits == g.blocks ? long(1) << 40 : std::max(least, strip / 24 * 24);
  if (g.rows > 1) g.together = std::max<long>(1, g.together / g.columns) * g.columns;
  int const pieces = int((4L * g.in_c * widest + (192 << 10) - 1) / (192 << 10));
  g.chunk = (g.in_c + pieces - 1) / pieces;
  return g;
}

std::string reject(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (p.r != 1 || p.s != 1) return "needs a 1x1 filter";
  if (p.layout != Layout::nhwc) return "needs nhwc";
  if (p.groups != 1) return "needs groups 1";
  if (p.pad_top || p.pad_left || p.pad_bottom || p.pad_right) return "needs no padding";
  if (p.direction == Direction::bwd_filter) return pointwise::filter_reject(p);
  if (!p.one_type(DType::f32) && !p.one_type(DType::bf16)) return "needs f32 or bf16";
  if (p.x_type == DType::bf16 && !in_pairs(facts.isa, p.direction == Direction::fwd ? p.c : p.k)) return "bf16 needs AVX512-BF16 and an even number of channels to sum over";
  if (p.direction == Direction::bwd_data && (p.stride_h != 1 || p.stride_w != 1)) return "of a stride, most of dx is zero: direct and im2col_gemm go by residues";
  if ((p.direction == Direction::fwd ? p.k : p.c) < 8) return "needs at least 8 result channels";
  if (p.load_x != OnLoad{} || p.load_dy != OnLoad{}) return "slots on load";
  if (auto const why = stored_rows_refusal(p); !why.empty()) return why;
  if (double(p.n) * p.h * p.w > 1e9) return "more than 10^9 pixels";
  return {};
}

bool joins(ConvProblem const& p) { return p.x_type == DType::bf16 && p.direction == Direction::bwd_data; }

std::size_t prepared(ConvProblem const& p, Config const&) {
  if (p.direction == Direction::bwd_filter) return 0;
  std::size_t most = 0;
  for (Isa isa : {Isa::plain, Isa::avx2, Isa::avx512}) {
    std::size_t const lanes = std::size_t(FALCONET_KERNELS(isa, pointwise_kernels).vector_lanes);
    std::size_t const in = std::size_t(p.direction == Direction::fwd ? p.c : p.k), out = std::size_t(p.direction == Direction::fwd ? p.k : p.c);
    most = std::max(most, (p.x_type == DType::bf16 ? 2 : sizeof(float)) * in * ((out + lanes - 1) / lanes * lanes));
  }
  // Behind it, for the data gradient in bf16, the filter in pairs from which it is packed.
  return (most + 63) / 64 * 64 + (joins(p) ? (std::size_t(p.k) * std::size_t(p.c) * 2 + 63) / 64 * 64 : 0);
}
std::size_t scratch(ConvProblem const& p, Config const& config) {
  if (p.direction == Direction::bwd_filter) return pointwise::filter_scratch(p);
  int tasks = 0;
  for (Isa isa : {Isa::plain, Isa::avx2, Isa::avx512}) {
    Pointwise const g = plan_of(p, isa);
    tasks = std::max(tasks, g.splits * g.pixel_tasks);
  }
  return prepared(p, config) + statistics_bytes(p, tasks);
}

void prepare(ConvProblem const& p, Config const&, ConvArgs const& args, View to, Stream& stream) {
  Pointwise const g = plan_of(p, stream.isa());
  int const lanes = g.store.lanes;
  bool const back = p.direction == Direction::bwd_data;
  GemmKernels const& gemm = gemm_kernels_of(stream.isa());
  float const* w = args.w.as<float const>();
  if (joins(p)) {
    float* const joined = to.as<float>() + long(g.in_c) * ((g.out_c + lanes - 1) / lanes * lanes);
    join_rows(args.w.as<bf16 const>(), p.k, p.c, joined, stream);
    w = joined;
  }
  stream.threads().run(g.blocks, [&](int b) {
    PointwiseBlock const block = pointwise_block(g, lanes, b);
    std::int64_t const first = std::int64_t(block.first) * lanes, columns = std::min<std::int64_t>(std::int64_t(block.vectors) * lanes, g.out_c - first);
    GemmSource source{w + (back ? first : first * g.in_c), false, back ? g.out_c : 1, back ? 1 : g.in_c};
    gemm.pack_b(source, columns, g.in_c, to.as<float>() + first * g.in_c, g.in_c, 0);
  });
}

// One core of 3.5 GHz with two (plain: one) multiply-adds a cycle at 62 % of its peak, and its share of memory bandwidth, or of that of
// the caches.
double seconds(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.direction == Direction::bwd_filter) return pointwise::filter_seconds(p, facts);
  double const lanes = facts.isa == Isa::avx512 ? 16 : facts.isa == Isa::avx2 ? 8 : 2;
  int const wide = p.direction == Direction::fwd ? p.k : p.c;
  double const used = wide / (std::ceil(wide / lanes) * lanes);
  double const bytes = bytes_of(p.operands()), pairs = p.x_type == DType::bf16 ? 1.7 : 1;
  return std::max(p.operations() / (0.62 * pairs * 3.5e9 * 4 * lanes * used), bytes / (bytes > 1.6e7 ? 16e9 : 60e9)) + 1.9e-6;
}

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View scratch, Stream& stream) {
  if (p.direction == Direction::bwd_filter) return pointwise::filter_run(p, args, scratch, stream);
  auto const& kernels = FALCONET_KERNELS(stream.isa(), pointwise_kernels);
  Pointwise g = plan_of(p, stream.isa());
  bool const back = p.direction == Direction::bwd_data;
  g.in = (back ? args.y : args.x).as<float const>();
  g.store.out = (back ? args.x : args.y).as<float>();
  g.store.bias = args.bias.as<float const>();
  g.store.residual = args.residual.as<float const>();
  if (!args.prepared) prepare(p, config, args, scratch, stream);
  if (reinterpret_cast<std::uintptr_t>(g.store.out) % 64) g.store.stream = 0;
  g.packed = (args.prepared ? args.prepared : scratch).as<float const>();
  int const tasks = g.splits * g.pixel_tasks;
  double* const totals = reinterpret_cast<double*>(scratch.as<char>() + (args.prepared ? 0 : prepared(p, config)));
  g.slots = stored_rows_of(p, args, totals);
  g.slots.out = g.store.out, g.slots.step = g.out_c;
  if (g.slots.totals) {
    g.valid_pixels = std::clamp<long>(args.step->valid_count, 0, p.n) * (back ? long(p.h) * p.w : long(p.p()) * p.q());
    clear_statistics(p, tasks, totals, stream);
  }
  stream.threads().run(tasks, [&](int task) { kernels.task(g, task); });
  if (g.slots.totals) add_statistics(p, tasks, totals, args, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_pointwise{
    .name = "pointwise", .target = DeviceKind::cpu, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run,
    .prepares = "w", .prepared = prepared, .prepare = prepare};

}  // namespace falconet

#endif
