// Convolution by Winograd's minimal filtering (Winograd, "Arithmetic Complexity of Computations", 1980; Lavin and Gray, "Fast Algorithms
// for Convolutional Neural Networks", arXiv:1509.09308): F(m x m, 3 x 3), m = 2 or 4 (config tile). Images are cut into tiles of m x m
// results that overlap by two pixels of input; with a = m + 2
//
//   y(tile) = A^T [ sum over c of (G w(k,c) G^T) . (B^T x(tile,c) B) ] A                   "." element by element
//
// so that each of the a^2 elements of the domain is one matrix product [tiles, channels] x [channels, filters]: 2 a^2/m^2 operations per
// result and channel in place of 18: 8 for m = 2, 4.5 for m = 4. The data gradient is the same with dy, and the filter flipped and transposed;
// the filter gradient is in winograd_filter.cpp.
//
//   for each piece of the filter: transform and pack                         in parallel
//   for each round of so many tiles that sums and operands stay in the last-level cache
//     for each panel of tiles: transform the input into packed panels        in parallel
//     for each block of filters and element of the domain: matrix product    in parallel, by ops/gemm/cpu/packed.h
//     for each panel of tiles: transform the sums, store slots, y            in parallel
//
// Memory: the transformed filter is a^2/9 times the filter, read once per round; x and y pass once; their transforms, a^2/m^2 times as
// large, stay in the cache.
// Error: the transforms amplify rounding errors, in the root mean square over the results of a tile by 1.7 (m = 2) and 10.8 (m = 4),
// for its worst result by 1.7 and 32 (README.md derives it). For m = 2 sums of small whole numbers stay exact.
// Limits: f32, nhwc, groups 1, 3x3 filters, stride and dilation 1; slots bias, residual, relu and mask, and db.
#include "falconet/device/cpu/threads.h"
#include "falconet/ops/conv/algorithms.h"
#include "falconet/ops/conv/cpu/winograd_plan.h"

namespace falconet {
namespace {

using namespace winograd;
using i64 = std::int64_t;
constexpr i64 max_piece = 512;              // of the depth: an A panel of 8 x 512 floats stays in the first-level cache
constexpr i64 round_floats = 2 << 20;       // of a round's operands and sums: 8 MiB
constexpr i64 large_filter = 2 << 20;       // floats: transformed filters beyond are read from memory in every round,
constexpr i64 tiles_of_large_filter = 192;  //   so a round has as many tiles at least
constexpr i64 depth_of_task = 16;           // of the filter's transform

struct Split {
  int elements, rows, columns;                // of the domain; of tiles in an image
  int depth, outputs;
  i64 tiles, round, piece, wide, block;       // wide: outputs in whole vectors
  i64 blocks() const { return divide_up(wide, block); }
  i64 filter_floats() const { return elements * wide * depth; }
  i64 round_floats() const { return elements * round * (wide + depth); }
};
Split split_of(ConvProblem const& p, int m) {
  bool const data = p.direction == Direction::bwd_data;
  Split s;
  s.elements = (m + 2) * (m + 2);
  s.rows = int(divide_up(data ? p.h : p.p(), m)), s.columns = int(divide_up(data ? p.w : p.q(), m));
  s.depth = data ? p.k : p.c, s.outputs = data ? p.c : p.k;
  s.tiles = i64(p.n) * s.rows * s.columns;
  s.wide = round_up(s.outputs, 16);
  s.block = block_of(s.outputs);
  s.piece = round_up(divide_up(s.depth, divide_up(s.depth, max_piece)), 16);
  i64 const least = s.filter_floats() > large_filter ? tiles_of_large_filter : 48;
  i64 const most = std::max(least, falconet::round_floats / (s.elements * (s.wide + s.depth)));
  s.round = std::min(s.tiles, round_up(divide_up(s.tiles, divide_up(s.tiles, most)), 48));  // 48: whole panels of any instruction set
  return s;
}

void run_gather(ConvProblem const& p, int m, ConvArgs const& args, View scratch, Stream& stream) {
  Split const s = split_of(p, m);
  bool const data = p.direction == Direction::bwd_data;
  WinogradKernels const& kernels = winograd_kernels_of(stream.isa());
  GemmKernels const& gemm = gemm_kernels_of(stream.isa());
  float* const filter = scratch.as<float>();
  float* const input = filter + s.filter_floats();
  float* const sums = input + s.elements * s.round * s.depth;
  i64 const blocks = s.blocks(), pieces = divide_up(s.depth, s.piece), chunks = divide_up(s.depth, depth_of_task);

  // The packed filter: per block of columns, element of the domain and piece of the depth.
  auto const width_of = [&](i64 block) { return std::min(s.block, s.wide - block * s.block); };
  auto const packed_filter = [&](i64 block, i64 element, i64 depth) {
    return filter + (block * s.block * s.elements + element * width_of(block)) * s.depth + depth * width_of(block);
  };
  stream.threads().run(int(blocks * chunks), [&](int task) {
    i64 const block = task / chunks, first = task % chunks * depth_of_task;
    WinogradFilter f;
    f.data = args.w.as<float const>();
    f.k = p.k, f.c = p.c, f.m = m;
    f.data_gradient = data;
    f.first_depth = first / s.piece * s.piece;
    f.depth = std::min(s.piece, s.depth - f.first_depth);
    f.first_column = block * s.block;
    f.columns = width_of(block);
    f.packed = packed_filter(block, 0, f.first_depth);
    f.domain_stride = f.columns * s.depth;
    kernels.filter(f, first, std::min(depth_of_task, s.depth - first));
  });

  WinogradTiles const tiles = data ? tiles_of(args.y.as<float const>(), p.p(), p.q(), p.k, m, 2 - p.pad_top, 2 - p.pad_left, s.rows, s.columns)
                                   : tiles_of(args.x.as<float const>(), p.h, p.w, p.c, m, p.pad_top, p.pad_left, s.rows, s.columns);
  WinogradResult result;
  result.out = (data ? args.x : args.y).as<float>();
  result.height = data ? p.h : p.p(), result.width = data ? p.w : p.q(), result.channels = s.outputs;
  result.m = m, result.rows = s.rows, result.columns = s.columns;
  result.bias = args.bias.as<float const>();
  result.residual = args.residual.as<float const>();
  result.mask = args.mask.as<float const>();
  result.relu = p.store.act == Activation::relu;

  i64 const rows = gemm.rows[GemmPanels::of(int(s.block / gemm.lanes), gemm.max_vectors).widest()];
  for (i64 base = 0; base < s.tiles; base += s.round) {
    i64 const count = std::min(s.round, s.tiles - base), panels = divide_up(count, rows);
    auto const in_panel = [&](i64 panel) { return int(std::min(rows, count - panel * rows)); };
    stream.threads().run(int(panels), [&](int panel) {
      kernels.input(tiles, base + panel * rows, in_panel(panel), input + panel * rows * s.elements * s.depth);
    });
    stream.threads().run(int(blocks * s.elements), [&](int task) {
      i64 const block = task / s.elements, element = task % s.elements;
      GemmPanel g;
      g.columns = width_of(block);
      g.sums_stride = s.wide;
      for (i64 l = 0; l < pieces * s.piece; l += s.piece) {
        g.k = std::min(s.piece, s.depth - l);
        g.b = packed_filter(block, element, l);
        g.first = l == 0;
        for (i64 panel = 0; panel < panels; ++panel) {
          g.rows = in_panel(panel);
          g.a_stride = g.rows;
          g.a = input + panel * rows * s.elements * s.depth + (element * s.depth + l) * g.rows;
          g.sums = sums + (panel * rows * s.elements + element * g.rows) * s.wide + block * s.block;
          gemm.multiply(g);
        }
      }
    });
    stream.threads().run(int(panels), [&](int panel) {
      kernels.output(result, base + panel * rows, in_panel(panel), sums + panel * rows * s.elements * s.wide, s.wide);
    });
  }
}

std::string reject(ConvProblem const& p, DeviceFacts const&) {
  if (p.r != 3 || p.s != 3) return "its transforms are those of 3x3 filters";
  if (p.stride_h != 1 || p.stride_w != 1 || p.dilation_h != 1 || p.dilation_w != 1) return "neighbouring results share products only with stride and dilation 1";
  if (!p.one_type(DType::f32)) return "needs f32";
  if (p.layout != Layout::nhwc) return "needs nhwc";
  if (p.groups != 1) return "needs groups 1";
  ConvProblem plain = p;
  plain.store.bias = false;
  if (p.direction == Direction::bwd_filter) return plain.plain() ? "" : "of the slots it has only db";
  plain.store.residual = false;
  plain.store.mask = Mask::none;
  if (plain.store.act == Activation::relu) plain.store.act = Activation::none;
  return plain.plain() ? "" : "of the slots it has bias, residual, relu and mask";
}

std::size_t scratch(ConvProblem const& p, Config const& config) {
  int const m = tile_of(p, config);
  if (p.direction == Direction::bwd_filter) return filter_scratch(p, m);
  Split const s = split_of(p, m);
  return sizeof(float) * std::size_t(s.filter_floats() + s.round_floats());
}

double seconds_with(ConvProblem const& p, DeviceFacts const& facts, int m) {
  Split const s = split_of(p, m);
  double const lanes = facts.isa == Isa::avx512 ? 16 : facts.isa == Isa::avx2 ? 8 : 1, per_cycle = facts.isa == Isa::plain ? 2 : 29;
  double const elements = s.elements, tiles = double(s.tiles), sides = double(s.wide) + s.depth;
  double const products = 2 * elements * tiles * double(s.wide) * s.depth / per_cycle;
  double const transforms = elements * tiles * sides * (12 / lanes + 0.6), filter = elements * double(s.wide) * s.depth * (8 / lanes + 0.6);
  return (products + transforms + filter + 20000) / 3.7e9;
}
int best_tile(ConvProblem const& p, DeviceFacts const& facts) { return seconds_with(p, facts, 4) < 0.9 * seconds_with(p, facts, 2) ? 4 : 2; }
double seconds(ConvProblem const& p, DeviceFacts const& facts) { return seconds_with(p, facts, best_tile(p, facts)); }

std::vector<Config> configs(ConvProblem const& p, DeviceFacts const& facts) {
  int const best = best_tile(p, facts);
  return {Config{{"tile", best}}, Config{{"tile", 6 - best}}};
}

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View scratch, Stream& stream) {
  int const m = tile_of(p, config);
  if (p.direction == Direction::bwd_filter) return filter_run(p, m, args, scratch, stream);
  run_gather(p, m, args, scratch, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_winograd{.name = "winograd", .target = DeviceKind::cpu, .reject = reject, .configs = configs,
                                           .scratch = scratch, .seconds = seconds, .run = run};

}  // namespace falconet
