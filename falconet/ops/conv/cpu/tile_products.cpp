// Forward and data gradient in a transformed domain (tile_products.h):
//
//   for each piece of the filter: transform and pack                         in parallel
//   for each round of so many tiles that sums and operands stay in the last-level cache
//     for each panel of tiles: transform the input into packed panels        in parallel
//     for each block of results and element of the domain: matrix product    in parallel, by ops/gemm/cpu/packed.h
//     for each panel of tiles: transform the sums, store slots, y            in parallel
//
// The data gradient (stride 1) is the forward of dy with the filter flipped and transposed, padded by dilation * (r - 1) - pad.
#include "falconet/device/cpu/threads.h"
#include "falconet/ops/conv/cpu/tile_plan.h"
#include "falconet/ops/gemm/cpu/packed.h"

namespace falconet::tiles {
namespace {

using i64 = std::int64_t;
constexpr i64 max_piece = 512;              // of the depth: an A panel of 8 x 512 floats stays in the first-level cache
constexpr i64 most_floats = 2 << 20;        // of a round's operands and sums: 8 MiB
constexpr i64 large_filter = 2 << 20;       // floats: transformed filters beyond are read from memory in every round,
constexpr i64 tiles_of_large_filter = 192;  //   so a round has as many tiles at least
constexpr i64 channels_of_task = 16;        // of the filter's transform
constexpr i64 whole_panels = 48;            // tiles, of any instruction set

}  // namespace

GatherSplit::GatherSplit(ConvProblem const& p, Domain const& d) {
  bool const data = p.direction == Direction::bwd_data;
  elements = d.elements;
  rows = int(divide_up(data ? p.h : p.p(), d.step_h)), columns = int(divide_up(data ? p.w : p.q(), d.step_w));
  channels = data ? p.k : p.c, outputs = data ? p.c : p.k;
  tiles = i64(p.n) * rows * columns;
  wide = round_up(outputs, 16);
  depth = i64(d.parts) * channels, wide_columns = d.parts * wide;
  block = block_of(wide_columns);
  piece = round_up(divide_up(depth, divide_up(depth, max_piece)), 16 * d.parts);
  i64 const least = filter_floats() > large_filter ? tiles_of_large_filter : whole_panels;
  i64 const most = std::max(least, most_floats / (elements * (wide_columns + depth)));
  round = std::min(tiles, round_up(divide_up(tiles, divide_up(tiles, most)), whole_panels));
}

std::string reject(ConvProblem const& p) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (p.stride_h != 1 || p.stride_w != 1) return "a tile has all results of stride 1";
  if (p.layout != Layout::nhwc) return "needs nhwc";
  if (p.groups != 1) return "needs groups 1";
  ConvProblem plain = p;
  plain.store.bias = false;
  if (p.direction == Direction::bwd_filter) return plain.plain() ? "" : "of the slots it has only db";
  plain.store.residual = false;
  if (plain.store.mask == Mask::relu) plain.store.mask = Mask::none;
  if (plain.store.act == Activation::relu) plain.store.act = Activation::none;
  return plain.plain() ? "" : "of the slots it has bias, residual, relu and mask";
}

std::size_t prepared(ConvProblem const& p, Domain const& d) {
  return p.direction == Direction::bwd_filter ? 0 : sizeof(float) * std::size_t(round_up(GatherSplit(p, d).filter_floats(), 16));
}
std::size_t scratch(ConvProblem const& p, Domain const& d) {
  if (p.direction == Direction::bwd_filter) return filter_scratch(p, d);
  return prepared(p, d) + sizeof(float) * std::size_t(GatherSplit(p, d).round_floats());
}

void prepare(ConvProblem const& p, Domain const& d, ConvArgs const& args, View to, Stream& stream) {
  GatherSplit const s(p, d);
  TileKernels const& kernels = d.kernels(stream.isa());
  TileFilter filter{args.w.data, p.w_type == DType::bf16, p.k, p.c, p.r, p.s, p.dilation_h, p.dilation_w, d.size, p.direction == Direction::bwd_data, s.elements, s.wide, s.wide_columns,
                    s.depth, s.block, s.piece, to.as<float>()};
  i64 const chunks = divide_up(s.channels, channels_of_task), out_chunk = block_of(s.wide), out_chunks = divide_up(s.wide, out_chunk);
  stream.threads().run(int(chunks * out_chunks), [&](int task) {
    i64 const first = task % chunks * channels_of_task, out = task / chunks * out_chunk;
    kernels.filter(filter, first, std::min(channels_of_task, s.channels - first), out, std::min(out_chunk, s.wide - out));
  });
}

void run(ConvProblem const& p, Domain const& d, ConvArgs const& args, View scratch, Stream& stream) {
  if (p.direction == Direction::bwd_filter) return filter_run(p, d, args, scratch, stream);
  GatherSplit const s(p, d);
  bool const data = p.direction == Direction::bwd_data;
  TileKernels const& kernels = d.kernels(stream.isa());
  GemmKernels const& gemm = gemm_kernels_of(stream.isa());
  if (!args.prepared) prepare(p, d, args, scratch, stream);
  float const* const packed = (args.prepared ? args.prepared : scratch).as<float const>();
  float* const input = scratch.as<float>() + (args.prepared ? 0 : prepared(p, d) / sizeof(float));
  float* const sums = input + s.elements * s.round * s.depth;

  View const& image = data ? args.y : args.x;
  TileGrid tiles;
  tiles.data = image.data, tiles.bf16 = image.type.dtype == DType::bf16;
  tiles.height = data ? p.p() : p.h, tiles.width = data ? p.q() : p.w, tiles.channels = s.channels;
  tiles.size = d.size, tiles.extent_h = d.extent_h, tiles.extent_w = d.extent_w;
  tiles.step_h = d.step_h, tiles.step_w = d.step_w;
  tiles.first_h = data ? p.pad_top - p.dilation_h * (p.r - 1) : -p.pad_top;
  tiles.first_w = data ? p.pad_left - p.dilation_w * (p.s - 1) : -p.pad_left;
  tiles.rows = s.rows, tiles.columns = s.columns;
  TileResult result;
  result.out = (data ? args.x : args.y).data, result.bf16 = tiles.bf16;
  result.height = data ? p.h : p.p(), result.width = data ? p.w : p.q(), result.channels = s.outputs;
  result.size = d.size, result.step_h = d.step_h, result.step_w = d.step_w;
  result.rows = s.rows, result.columns = s.columns;
  result.wide = s.wide;
  result.bias = args.bias.as<float const>();
  result.residual = args.residual.data;
  result.mask = args.mask.data;
  result.relu = p.store.act == Activation::relu;

  i64 const rows = gemm.rows[GemmPanels::of(int(s.block / gemm.lanes), gemm.max_vectors).widest()];
  for (i64 base = 0; base < s.tiles; base += s.round) {
    i64 const count = std::min(s.round, s.tiles - base), panels = divide_up(count, rows);
    auto const in_panel = [&](i64 panel) { return int(std::min(rows, count - panel * rows)); };
    stream.threads().run(int(panels), [&](int panel) {
      kernels.input(tiles, base + panel * rows, in_panel(panel), input + panel * rows * s.elements * s.depth);
    });
    stream.threads().run(int(s.blocks() * s.elements), [&](int task) {
      i64 const block = task / s.elements, element = task % s.elements, width = std::min(s.block, s.wide_columns - block * s.block);
      GemmPanel g;
      g.columns = width;
      g.sums_stride = s.wide_columns;
      for (i64 l = 0; l < s.depth; l += s.piece) {
        g.k = std::min(s.piece, s.depth - l);
        g.b = packed + (block * s.block * s.elements + element * width) * s.depth + l * width;
        g.first = l == 0;
        for (i64 panel = 0; panel < panels; ++panel) {
          g.rows = in_panel(panel);
          g.a_stride = g.rows;
          g.a = input + panel * rows * s.elements * s.depth + (element * s.depth + l) * g.rows;
          g.sums = sums + (panel * rows * s.elements + element * g.rows) * s.wide_columns + block * s.block;
          gemm.multiply(g);
        }
      }
    });
    stream.threads().run(int(panels), [&](int panel) {
      kernels.output(result, base + panel * rows, in_panel(panel), sums + panel * rows * s.elements * s.wide_columns);
    });
  }
}

double cycles(ConvProblem const& p, Domain const& d, DeviceFacts const& facts, double work) {
  GatherSplit const s(p, d);   // the filter gradient has the same products
  double const lanes = facts.isa == Isa::avx512 ? 16 : facts.isa == Isa::avx2 ? 8 : 1, per_cycle = facts.isa == Isa::plain ? 2 : 29;
  double const elements = s.elements, tiles = double(s.tiles), columns = double(s.wide_columns), depth = double(s.depth);
  double const products = 2 * elements * tiles * columns * depth / per_cycle;
  return products + elements * tiles * (columns + depth) * (work / lanes + 0.6) + elements * columns * depth * (work / lanes * 0.6 + 0.6) + 20000;
}

}  // namespace falconet::tiles
