// The filter gradient of the Winograd convolution (winograd.cpp). The forward is bilinear in the transformed operands,
//   y = A^T [sum over c of (G w G^T) . (B^T x B)] A      hence      dw = G^T [sum over tiles of (A dy A^T) . (B^T x B)] G
// with the same matrices: per element of the domain one product of a matrix [filters, tiles] with one [tiles, channels].
//
//   for each round of so many tiles that both transformed operands stay in the last-level cache
//     for each group of tiles: transform x and dy                    in parallel; each group has its own sums of db
//     for each element of the domain and block of channels: product  in parallel; added to the sums of the rounds before
//   for each filter: dw = G^T sums G                                 in parallel
//
// Cost: 2 a^2 tiles k c operations, a^2 k c floats of sums written and read once per round.
#include "falconet/device/cpu/threads.h"
#include "falconet/ops/conv/cpu/winograd_plan.h"

namespace falconet::winograd {
namespace {

using i64 = std::int64_t;
constexpr i64 round_floats = 4 << 20;  // of both transformed operands: 16 MiB
constexpr i64 max_depth = 384;         // tiles of a round
constexpr i64 least_depth = 128;
constexpr i64 group = 8;               // tiles of a task
constexpr i64 max_sums = 64;           // groups that have sums of db of their own

struct Split {
  int elements, rows, columns;  // of the domain; of tiles in an image
  i64 tiles, depth, x_columns, y_columns, block;
  i64 x_stride, y_stride, sum_stride;  // from one element of the domain to the next; 80 more than needed, so that they fall on different sets
  i64 tasks;                           // of a round at most
  Split(ConvProblem const& p, int m) {
    elements = (m + 2) * (m + 2);
    rows = int(divide_up(p.p(), m)), columns = int(divide_up(p.q(), m));
    tiles = i64(p.n) * rows * columns;
    x_columns = round_up(p.c, 16), y_columns = round_up(p.k, 16);
    block = block_of(p.c);
    i64 const most = std::clamp(round_floats / (elements * (x_columns + y_columns)), least_depth, max_depth);
    depth = divide_up(tiles, divide_up(tiles, most));
    x_stride = depth * x_columns + 80, y_stride = depth * y_columns + 80, sum_stride = i64(p.k) * x_columns + 80;
    tasks = std::min(max_sums, divide_up(depth, group));
  }
};

}  // namespace

std::size_t filter_scratch(ConvProblem const& p, int m) {
  Split const s(p, m);
  return sizeof(float) * std::size_t(s.elements * (s.x_stride + s.y_stride + s.sum_stride) + s.tasks * s.y_columns);
}

void filter_run(ConvProblem const& p, int m, ConvArgs const& args, View scratch, Stream& stream) {
  Split const s(p, m);
  WinogradKernels const& kernels = winograd_kernels_of(stream.isa());
  GemmKernels const& gemm = gemm_kernels_of(stream.isa());
  float* const packed_x = scratch.as<float>();
  float* const packed_y = packed_x + s.elements * s.x_stride;
  float* const sums = packed_y + s.elements * s.y_stride;
  float* const db = sums + s.elements * s.sum_stride;
  WinogradOperands x, y;
  x.tiles = tiles_of(args.x.as<float const>(), p.h, p.w, p.c, m, p.pad_top, p.pad_left, s.rows, s.columns);
  y.tiles = tiles_of(args.y.as<float const>(), p.p(), p.q(), p.k, m, 0, 0, s.rows, s.columns);
  x.packed = packed_x, y.packed = packed_y;
  x.domain_stride = s.x_stride, y.domain_stride = s.y_stride;
  x.block = s.block;
  if (p.store.bias) std::fill(db, db + s.tasks * s.y_columns, 0.0f);

  i64 const blocks = divide_up(s.x_columns, s.block), y_groups = s.y_columns / 16;
  for (i64 base = 0; base < s.tiles; base += s.depth) {
    i64 const depth = std::min(s.depth, s.tiles - base);
    x.count = y.count = depth;
    stream.threads().run(int(s.tasks), [&](int task) {
      i64 const begin = depth * task / s.tasks, end = depth * (task + 1) / s.tasks;
      if (begin == end) return;
      kernels.gather_x(x, base, base + begin, end - begin);
      kernels.gather_dy(y, base, base + begin, end - begin, p.store.bias ? db + task * s.y_columns : nullptr);
    });
    stream.threads().run(int(s.elements * blocks), [&](int task) {
      i64 const element = task / blocks, column = task % blocks * s.block, width = std::min(s.block, s.x_columns - column);
      GemmPanels const panels = GemmPanels::of(int(width / gemm.lanes), gemm.max_vectors);
      int const most = gemm.rows[panels.widest()];
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

  stream.threads().run(p.k, [&](int k) { kernels.filter_gradient(m, sums + k * s.x_columns, s.sum_stride, p.c, args.w.as<float>() + i64(k) * 9 * p.c); });
  if (!p.store.bias) return;
  for (int k = 0; k < p.k; ++k) {
    float sum = 0;
    for (i64 task = 0; task < s.tasks; ++task) sum += db[task * s.y_columns + k];
    args.bias.as<float>()[k] = sum;
  }
}

}  // namespace falconet::winograd
