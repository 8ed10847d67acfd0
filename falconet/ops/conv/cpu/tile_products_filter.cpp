// The filter gradient in a transformed domain (tile_products.h). The forward is bilinear in its transformed operands, so the gradient of the
// transformed filter is a sum over tiles, for each element of the domain by itself,
//
//   dW(k,c) = sum over tiles of  DY(tile,k) X(tile,c)       (complex: conjugate DY)
//
// one product of a matrix [filters, tiles] with one [tiles, channels] per element.
//
//   for each round of so many tiles that both transformed operands stay in the last-level cache
//     for each group of tiles: transform x and dy                    in parallel; each group has its own sums of db
//     for each element of the domain and block of channels: product  in parallel; added to the sums of the rounds before
//   for each filter: transform its sums into dw                      in parallel
//
// Cost: 2 elements parts^2 tiles k c operations; the sums, elements parts k c floats, are written and read once per round.
#include "falconet/device/cpu/threads.h"
#include "falconet/ops/conv/cpu/tile_plan.h"
#include "falconet/ops/gemm/cpu/packed.h"

namespace falconet::tiles {
namespace {

using i64 = std::int64_t;
constexpr i64 round_floats = 4 << 20;  // of both transformed operands: 16 MiB
constexpr i64 max_depth = 384;         // tiles of a round, times parts
constexpr i64 least_depth = 128;
constexpr i64 group = 8;               // tiles of a task
constexpr i64 max_sums = 64;           // groups that have sums of db of their own

struct Split {
  int elements, parts, rows, columns;  // of the domain; of tiles in an image
  i64 tiles, round, x_wide, y_wide, x_columns, block;
  i64 x_stride, y_stride, sum_stride;  // from one element of the domain to the next; 80 more than needed, so that they fall on different sets
  i64 tasks;                           // of a round at most
  Split(ConvProblem const& p, Domain const& d) : elements(d.elements), parts(d.parts) {
    rows = int(divide_up(p.p(), d.step_h)), columns = int(divide_up(p.q(), d.step_w));
    tiles = i64(p.n) * rows * columns;
    x_wide = round_up(p.c, 16), y_wide = round_up(p.k, 16), x_columns = parts * x_wide;
    block = block_of(x_columns);
    i64 const most = std::clamp(round_floats / (elements * parts * (x_columns + y_wide)), least_depth / parts, max_depth / parts);
    round = divide_up(tiles, divide_up(tiles, most));
    x_stride = parts * round * x_columns + 80, y_stride = parts * round * y_wide + 80, sum_stride = p.k * x_columns + 80;
    tasks = std::min(max_sums, divide_up(round, group));
  }
};

}  // namespace

std::size_t filter_scratch(ConvProblem const& p, Domain const& d) {
  Split const s(p, d);
  return sizeof(float) * std::size_t(s.elements * (s.x_stride + s.y_stride + s.sum_stride) + s.tasks * s.y_wide);
}

void filter_run(ConvProblem const& p, Domain const& d, ConvArgs const& args, View scratch, Stream& stream) {
  Split const s(p, d);
  TileKernels const& kernels = d.kernels(stream.isa());
  GemmKernels const& gemm = gemm_kernels_of(stream.isa());
  float* const packed_x = scratch.as<float>();
  float* const packed_y = packed_x + s.elements * s.x_stride;
  float* const sums = packed_y + s.elements * s.y_stride;
  float* const db = sums + s.elements * s.sum_stride;
  TileOperands x, y;
  x.tiles = {args.x.data, p.x_type == DType::bf16, p.h, p.w, p.c, d.size, d.extent_h, d.extent_w, d.step_h, d.step_w, -p.pad_top, -p.pad_left, s.rows, s.columns};
  y.tiles = {args.y.data, p.y_type == DType::bf16, p.p(), p.q(), p.k, d.size, d.step_h, d.step_w, d.step_h, d.step_w, 0, 0, s.rows, s.columns};
  x.packed = packed_x, y.packed = packed_y;
  x.domain_stride = s.x_stride, y.domain_stride = s.y_stride;
  x.block = s.block;
  if (p.store.bias) std::fill(db, db + s.tasks * s.y_wide, 0.0f);

  i64 const blocks = divide_up(s.x_columns, s.block), y_groups = s.y_wide / 16;
  for (i64 base = 0; base < s.tiles; base += s.round) {
    i64 const count = std::min(s.round, s.tiles - base), depth = s.parts * count;
    x.count = y.count = count;
    stream.threads().run(int(s.tasks), [&](int task) {
      i64 const begin = count * task / s.tasks, end = count * (task + 1) / s.tasks;
      if (begin == end) return;
      kernels.gather_x(x, base, base + begin, end - begin);
      kernels.gather_dy(y, base, base + begin, end - begin, p.store.bias ? db + task * s.y_wide : nullptr);
    });
    stream.threads().run(int(s.elements * blocks), [&](int task) {
      i64 const element = task / blocks, column = task % blocks * s.block, width = std::min(s.block, s.x_columns - column);
      int const most = gemm.rows[GemmPanels::of(int(width / gemm.lanes), gemm.max_vectors).widest()];
      GemmPanel g;
      g.k = depth;
      g.columns = width;
      g.b = packed_x + element * s.x_stride + column * depth;
      g.a_stride = 16;
      g.sums_stride = s.x_columns;
      g.first = base == 0;
      for (i64 k16 = 0; k16 < y_groups; ++k16) {
        i64 const all = std::min<i64>(16, p.k - k16 * 16), even = divide_up(all, divide_up(all, most));
        for (i64 row = 0; row < all; row += g.rows) {
          g.rows = int(std::min(even, all - row));
          g.a = packed_y + element * s.y_stride + k16 * 16 * depth + row;
          g.sums = sums + element * s.sum_stride + (k16 * 16 + row) * s.x_columns + column;
          gemm.multiply(g);
        }
      }
    });
  }

  TileTaps const taps{d.size, p.c, p.r, p.s, p.dilation_h, p.dilation_w, s.x_wide, s.sum_stride};
  i64 const filter = i64(p.r) * p.s * p.c;
  stream.threads().run(p.k, [&](int k) { kernels.filter_gradient(taps, sums + k * s.x_columns, args.w.as<float>() + k * filter); });
  if (!p.store.bias) return;
  for (int k = 0; k < p.k; ++k) {
    float sum = 0;
    for (i64 task = 0; task < s.tasks; ++task) sum += db[task * s.y_wide + k];
    args.bias.as<float>()[k] = sum;
  }
}

}  // namespace falconet::tiles
