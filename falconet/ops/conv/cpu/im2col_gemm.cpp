// Convolution as a matrix product with the matrix of patches (im2col: Chellapilla, Puri and Simard, 2006), which is never written
// as a whole: patches are copied straight into the panels of the packed product (ops/gemm/cpu/packed.h).
//   forward          y[pixel, k]      = patches_of_x[pixel, (r,s,c)] * w[k, (r,s,c)]^T
//   data gradient    dx[pixel, c]     = patches_of_dy[pixel, (r,s,k)] * w[k, (r,s), c]: a gather without races. With a stride, dx falls
//                    apart into stride_h * stride_w grids of pixels; each is reached by its own taps, and no product with zero is computed
//   filter gradient  dw[k, (r,s,c)]   = dy[pixel, k]^T * patches_of_x[pixel, (r,s,c)], pixels in a fixed number of parts summed in
//                    order; db is one more column of patches that are all one
// In nchw the roles are exchanged (channels are rows of the result, pixels its columns), so that stores are contiguous as well.
// Any stride, dilation, padding and grouping; f32 or bf16 operands, arithmetic in f32; slots bias, residual, activation, mask, and db.
// Cost: 2 n k p q (c/groups) r s operations; every patch element is copied once per about 250 columns of the result.
#include <algorithm>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/conv/algorithms.h"
#include "falconet/ops/conv/cpu/im2col_grid.h"
#include "falconet/ops/conv/cpu/patches.h"
#include "falconet/ops/gemm/cpu/amx.h"
#include "falconet/ops/gemm/cpu/packed.h"

namespace falconet {
namespace {

using namespace im2col;

using i64 = std::int64_t;
constexpr i64 max_piece = 384;  // of the summed dimension, per packed block
constexpr i64 max_width = 240;  // columns of a packed block
constexpr i64 max_rows = 192;   // pixels whose patches meet one packed block of the filter before the next
constexpr i64 a_size = gemm_max_rows * max_piece;
constexpr double task_operations = 2e6;  // at least so much work in a task: about 20 us
constexpr i64 max_tasks = 32;
i64 divide_up(i64 a, i64 b) { return (a + b - 1) / b; }
i64 round_up(i64 a, i64 b) { return divide_up(a, b) * b; }
// The size of even parts of at most `most`.
i64 part_of(i64 total, i64 most) { return std::max<i64>(1, divide_up(total, std::max<i64>(1, divide_up(total, most)))); }

// In pairs where both factors are of bf16: NHWC alone. With the config of amx.cpp on its tiles.
GemmKernels const& kernels_for(ConvProblem const& p, Isa isa, Config const& config) {
  if (config.get("emulated", -1) >= 0) return gemm_amx_kernels_of(isa, config.get("emulated", 0) == 1);
  bool const filter = p.direction == Direction::bwd_filter, data = p.direction == Direction::bwd_data;
  bool const first = (data ? p.y_type : p.x_type) == DType::bf16, second = (filter ? p.y_type : p.w_type) == DType::bf16;
  return first && second && p.layout == Layout::nhwc ? gemm_bf16_kernels_of(isa) : gemm_kernels_of(isa);
}

int tile_rows(GemmKernels const& g, i64 width) { return g.rows[GemmPanels::of(int(divide_up(width, g.lanes)), g.max_vectors).widest()]; }

struct Sizes {                 // of one group
  i64 kg, cg, filter, groups;  // filter: r * s
  explicit Sizes(ConvProblem const& p) : kg(p.k / p.groups), cg(p.c / p.groups), filter(i64(p.r) * p.s), groups(p.groups) {}
};

void const* element(View const& v, i64 i) { return v.as<char const>() + i * i64(size_of(v.type.dtype)); }
float get(void const* data, bool is_bf16, i64 i) {
  return is_bf16 ? to_float(static_cast<bf16 const*>(data)[i]) : static_cast<float const*>(data)[i];
}
void put(void* data, bool is_bf16, i64 i, float v) {
  is_bf16 ? void(static_cast<bf16*>(data)[i] = to_bf16(v)) : void(static_cast<float*>(data)[i] = v);
}

GemmStore store_of(ConvProblem const& p, ConvArgs const& args) {
  View const& result = p.direction == Direction::fwd ? args.y : p.direction == Direction::bwd_data ? args.x : args.w;
  GemmStore store;
  store.y = result.data;
  store.y_bf16 = result.type.dtype == DType::bf16;
  if (p.direction == Direction::bwd_filter) return store;
  store.bias = args.bias.as<float const>();
  store.residual = args.residual.data;
  store.mask = args.mask.data;
  store.act = int(p.store.act);
  return store;
}
// The same store with y, residual and mask moved on by `elements`.
GemmStore moved(GemmStore s, i64 elements) {
  i64 const bytes = elements * (s.y_bf16 ? 2 : 4);
  s.y = static_cast<char*>(s.y) + bytes;
  if (s.residual) s.residual = static_cast<char const*>(s.residual) + bytes;
  if (s.mask) s.mask = static_cast<char const*>(s.mask) + bytes;
  return s;
}

// Forward and data gradient ---------------------------------------------------------------------------------------------------

// How they are split, a function of the problem alone. "outputs" are channels of the result in one group.
struct Split {
  i64 outputs, channels, depth, piece;  // depth: of all grids together
  i64 pixels, tasks;                    // per grid
  i64 width;                            // columns of a packed block
  i64 filter_size, b_size, sums_size;   // floats: the packed filter; per task
  i64 task_size() const { return a_size + b_size + sums_size; }
};
Split split_of(ConvProblem const& p) {
  bool const data = p.direction == Direction::bwd_data;
  Sizes const z(p);
  Split s;
  s.outputs = data ? z.cg : z.kg;
  s.channels = data ? p.c : p.k;
  s.depth = z.filter * (data ? z.kg : z.cg);
  s.piece = part_of(s.depth, max_piece);
  DType const result = data ? p.x_type : p.y_type;
  int const grids = grids_of(p);
  i64 const grid_pixels = data ? divide_up(p.h, p.stride_h) * divide_up(p.w, p.stride_w) : i64(p.p()) * p.q();
  s.pixels = p.n * grid_pixels;
  s.tasks = std::clamp(i64(p.operations() / task_operations / grids), i64(1), divide_up(max_tasks, grids));
  bool const sums = result == DType::bf16 && s.depth > s.piece;
  if (p.layout == Layout::nhwc) {
    s.width = std::min(round_up(s.outputs, 16), max_width);
    s.tasks = std::min(s.tasks, divide_up(s.pixels, 2 * gemm_max_rows));
    s.filter_size = z.groups * s.depth * round_up(s.outputs, 16);
    s.b_size = 0;
    s.sums_size = sums ? max_rows * s.width : 0;
  } else {
    s.width = std::min(round_up(grid_pixels, 16), max_width);
    s.tasks = std::min(s.tasks, p.n * divide_up(grid_pixels, s.width));
    s.filter_size = z.groups * s.depth * s.outputs;
    s.b_size = s.piece * s.width;
    s.sums_size = sums || p.stride_w > 1 || p.stride_h > 1 ? s.outputs * s.width : 0;
    if (s.sums_size > 1 << 16) s.tasks = std::min(s.tasks, divide_up(16, grids));
  }
  return s;
}

// Tiles of 16 lanes are half empty where the result has 8 columns: AVX2's fit.
Isa isa_for(Isa isa, i64 columns, Config const& config) { return isa == Isa::avx512 && columns <= 8 && config.get("emulated", -1) < 0 ? Isa::avx2 : isa; }

// nhwc: rows are pixels, columns are channels of the result.
// Where in the packed filter a group, block of columns and row (of all grids and pieces) lie.
i64 packed_nhwc(Split const& s, i64 group, i64 block, i64 depth) {
  i64 const width = std::min(s.width, s.outputs - block * s.width);
  return group * s.depth * round_up(s.outputs, 16) + block * s.width * s.depth + depth * round_up(width, 16);
}
void pack_nhwc(ConvProblem const& p, Config const& config, ConvArgs const& args, float* filter, Stream& stream) {
  Split const s = split_of(p);
  Sizes const z(p);
  bool const data = p.direction == Direction::bwd_data, w_bf16 = p.w_type == DType::bf16;
  GemmKernels const& gemm = kernels_for(p, isa_for(stream.isa(), s.outputs, config), config);
  int const grids = grids_of(p);
  i64 const blocks = divide_up(s.outputs, s.width);
  stream.threads().run(int(z.groups * blocks * grids), [&](int task) {
    i64 const group = task / grids / blocks, block = task / grids % blocks, j = block * s.width, width = std::min(s.width, s.outputs - j);
    Grid const grid = grid_of(p, args, task % grids);
    i64 const depth = data ? grid.patches.depth() : s.depth;
    for (i64 l = 0; l < depth; l += s.piece) {
      i64 const count = std::min(s.piece, depth - l);
      float* const to = filter + packed_nhwc(s, group, block, grid.first_depth + l);
      if (!data) {
        gemm.pack_b({element(args.w, (group * z.kg + j) * s.depth + l), w_bf16, 1, s.depth}, width, count, to, count, 0);
        if (gemm.pair) gemm.pair_b(to, width, count);
        continue;
      }
      for (i64 at = l; at < l + count;) {  // row (t, u, k): the channels of one tap lie k apart
        i64 const tap = at / z.kg, k = at - tap * z.kg, n = std::min(z.kg - k, l + count - at);
        i64 const r = grid.th.last - tap / grid.tw.count * grid.th.period, c = grid.tw.last - tap % grid.tw.count * grid.tw.period;
        GemmSource const source{element(args.w, ((group * z.kg + k) * z.filter + r * p.s + c) * z.cg + j), w_bf16, z.filter * z.cg, 1};
        gemm.pack_b(source, width, n, to, count, at - l);
        at += n;
      }
      if (gemm.pair) gemm.pair_b(to, width, count);
    }
  });
}
void run_nhwc(ConvProblem const& p, Config const& config, ConvArgs const& args, float const* filter, float* tasks_scratch, Stream& stream) {
  Split const s = split_of(p);
  Sizes const z(p);
  bool const data = p.direction == Direction::bwd_data;
  Isa const isa = isa_for(stream.isa(), s.outputs, config);
  GemmKernels const& gemm = kernels_for(p, isa, config);
  PatchKernels const& patch = patch_kernels_of(isa);
  GemmStore const store = store_of(p, args);
  int const grids = grids_of(p);
  i64 const blocks = divide_up(s.outputs, s.width);
  stream.threads().run(int(s.tasks) * grids, [&](int task) {
    Grid const grid = grid_of(p, args, task % grids);
    bool const whole = grid.whole(p);
    i64 const pixels = p.n * grid.patches.grid(), share = divide_up(pixels, s.tasks);
    i64 const begin = task / grids * share, end = std::min(pixels, begin + share);
    i64 const depth = grid.patches.depth(), width_of_image = data ? p.w : p.q(), height_of_image = data ? p.h : p.p();
    float* const a_panel = tasks_scratch + task * s.task_size();
    for (i64 pixel0 = begin; pixel0 < end; pixel0 += max_rows)
      for (i64 group = 0; group < z.groups; ++group) {
        PatchSource const patches = group_of(grid.patches, group);
        for (i64 block = 0; block < blocks; ++block) {
          i64 const j = group * s.outputs + block * s.width, width = std::min(s.width, s.outputs - block * s.width);
          i64 const rows = std::min(max_rows, end - pixel0);
          i64 const even = part_of(rows, tile_rows(gemm, width));
          i64 l = 0;
          do {
            GemmPanel g;
            g.k = std::min(s.piece, depth - l);
            g.columns = width;
            g.b = filter + packed_nhwc(s, group, block, grid.first_depth + l);
            g.first = l == 0;
            g.column = j;
            bool const last = l + g.k == depth;
            for (i64 i = 0; i < rows; i += g.rows) {
              i64 const pixel = pixel0 + i;
              g.rows = int(std::min(even, rows - i));
              GemmStore local = store;
              local.stride = s.channels;
              i64 at = pixel;  // of the panel's first row within the result
              if (!whole) {
                i64 const n = pixel / patches.grid(), in_grid = pixel - n * patches.grid(), row = in_grid / grid.columns,
                          column = in_grid % grid.columns;
                g.rows = int(std::min<i64>(g.rows, grid.columns - column));
                at = (n * height_of_image + grid.h0 + row * grid.step_h) * width_of_image + grid.w0 + column * grid.step_w;
                local.stride *= grid.step_w;
              }
              local = moved(local, at * s.channels);
              if (g.k) patch.pack_pixels(patches, pixel, g.rows, l, g.k, a_panel);
              if (gemm.pair) gemm.pair(a_panel, g.rows, g.k);
              g.a = a_panel;
              g.a_stride = g.rows;
              g.sums = s.sums_size ? a_panel + a_size + i * s.width : static_cast<float*>(local.y) + j;
              g.sums_stride = s.sums_size ? s.width : local.stride;
              g.store = last ? &local : nullptr;
              gemm.multiply(g);
            }
            l += g.k;
          } while (l < depth);
        }
      }
  });
}

// nchw: rows are channels of the result, columns are pixels of one image.
// Where in the packed filter a group, grid and panel lie, each with all of its depth.
i64 packed_nchw(Split const& s, i64 group, Grid const& grid, i64 depth, i64 row) {
  return (group * s.depth + grid.first_depth) * s.outputs + row * depth;
}
void pack_nchw(ConvProblem const& p, ConvArgs const& args, float* filter, Stream& stream) {
  Split const s = split_of(p);
  Sizes const z(p);
  bool const data = p.direction == Direction::bwd_data, w_bf16 = p.w_type == DType::bf16;
  GemmKernels const& gemm = gemm_kernels_of(stream.isa());
  int const grids = grids_of(p);
  i64 const even = part_of(s.outputs, gemm.rows[gemm.max_vectors]), panels = divide_up(s.outputs, even);
  stream.threads().run(int(z.groups * panels * grids), [&](int task) {
    i64 const group = task / grids / panels, row = task / grids % panels * even, rows = std::min(even, s.outputs - row);
    Grid const grid = grid_of(p, args, task % grids);
    i64 const depth = grid.patches.depth();
    float* const to = filter + packed_nchw(s, group, grid, depth, row);
    if (!data) return gemm.pack_a({element(args.w, (group * z.kg + row) * depth), w_bf16, 1, depth}, rows, int(rows), depth, to);
    for (i64 l = 0; l < depth; ++l) {
      i64 const taps = i64(grid.th.count) * grid.tw.count, k = l / taps, tap = l % taps;
      i64 const r = grid.th.last - tap / grid.tw.count * grid.th.period, c = grid.tw.last - tap % grid.tw.count * grid.tw.period;
      for (i64 i = 0; i < rows; ++i)
        to[l * rows + i] = get(args.w.data, w_bf16, ((group * z.kg + k) * z.cg + row + i) * z.filter + r * p.s + c);
    }
  });
}
void run_nchw(ConvProblem const& p, ConvArgs const& args, float const* filter, float* tasks_scratch, Stream& stream) {
  Split const s = split_of(p);
  Sizes const z(p);
  bool const data = p.direction == Direction::bwd_data;
  GemmKernels const& gemm = gemm_kernels_of(stream.isa());
  PatchKernels const& patch = patch_kernels_of(stream.isa());
  GemmStore const store = store_of(p, args);
  int const grids = grids_of(p);
  i64 const even = part_of(s.outputs, gemm.rows[gemm.max_vectors]);
  stream.threads().run(int(s.tasks) * grids, [&](int task) {
    Grid const grid = grid_of(p, args, task % grids);
    bool const whole = grid.whole(p), scattered = !whole;
    i64 const depth = grid.patches.depth(), grid_pixels = grid.patches.grid(), plane = data ? i64(p.h) * p.w : i64(p.p()) * p.q();
    i64 const blocks = divide_up(grid_pixels, s.width), items = p.n * blocks, share = divide_up(items, s.tasks);
    i64 const begin = task / grids * share, end = std::min(items, begin + share);
    float* const b_block = tasks_scratch + task * s.task_size() + a_size;
    float* const scratch_sums = b_block + s.b_size;
    bool const in_place = p.r == 1 && p.s == 1 && whole && !data && p.stride_h == 1 && p.stride_w == 1 && grid_pixels == i64(p.h) * p.w &&
                          p.x_type == DType::f32;  // 1x1: the image itself is the matrix of patches
    for (i64 item = begin; item < end; ++item)
      for (i64 group = 0; group < z.groups; ++group) {
        PatchSource const patches = group_of(grid.patches, group);
        i64 const image = item / blocks, pixel = item % blocks * s.width, width = std::min(s.width, grid_pixels - pixel);
        GemmStore local = moved(store, (image * s.channels + group * s.outputs) * plane + pixel);
        local.stride = plane;
        local.bias_of_rows = true;
        if (local.bias) local.bias += group * s.outputs;
        bool const use_scratch = s.sums_size > 0;
        i64 l = 0;
        do {
          GemmPanel g;
          g.k = std::min(s.piece, depth - l);
          g.columns = width;
          bool const direct = in_place && width % 16 == 0;
          if (direct) {
            g.b = static_cast<float const*>(patches.data) + image * patches.image_stride + l * plane + pixel;
            g.b_stride = plane;
          } else {
            i64 const padded = round_up(width, 16);
            for (i64 x = 0; x < g.k; ++x) std::fill(b_block + x * padded + width, b_block + (x + 1) * padded, 0.0f);
            if (g.k) patch.copy_taps(patches, image, pixel, width, l, g.k, b_block, padded);
            g.b = b_block;
            g.b_stride = padded;
          }
          g.first = l == 0;
          g.store = l + g.k == depth && !scattered ? &local : nullptr;
          g.sums_stride = use_scratch ? s.width : plane;
          for (i64 row = 0; row < s.outputs; row += g.rows) {
            g.rows = int(std::min(even, s.outputs - row));
            g.a = filter + packed_nchw(s, group, grid, depth, row) + l * g.rows;
            g.a_stride = g.rows;
            g.sums = use_scratch ? scratch_sums + row * s.width : static_cast<float*>(local.y) + row * plane;
            g.row = row;
            gemm.multiply(g);
          }
          l += g.k;
        } while (l < depth);
        if (!scattered) continue;
        // dx of one residue: its pixels lie a stride apart.
        GemmStore const to = moved(store, (image * s.channels + group * s.outputs) * plane);
        for (i64 row = 0; row < s.outputs; ++row)
          for (i64 x = 0; x < width; ++x) {
            i64 const i = (pixel + x) / grid.columns, j = (pixel + x) % grid.columns;
            i64 const at = row * plane + (grid.h0 + i * grid.step_h) * p.w + grid.w0 + j * grid.step_w;
            float v = scratch_sums[row * s.width + x];
            if (store.bias) v += store.bias[group * s.outputs + row];
            if (to.residual) v += get(to.residual, to.y_bf16, at);
            v = activate(Activation(store.act), v);
            if (to.mask && !(get(to.mask, to.y_bf16, at) > 0)) v = 0;
            put(to.y, to.y_bf16, at, v);
          }
      }
  });
}

// Filter gradient -------------------------------------------------------------------------------------------------------------

struct FilterSplit {
  i64 depth, columns, blocks, width;  // nhwc: columns of patches (one more for db), in blocks; nchw: rows of patches
  i64 pixels, parts, part;            // the sum's parts: pixels in nhwc, images in nchw
  i64 b_size, partial;                // floats: per task; of one partial result
  bool direct;                        // nhwc: one part, straight into dw
  i64 task_size() const { return 2 * a_size + b_size; }
};
FilterSplit filter_split_of(ConvProblem const& p) {
  Sizes const z(p);
  FilterSplit s;
  bool const nhwc = p.layout == Layout::nhwc;
  s.depth = z.filter * z.cg;
  s.columns = s.depth + (p.store.bias ? 1 : 0);
  s.pixels = nhwc ? i64(p.n) * p.p() * p.q() : p.n;
  s.partial = z.groups * z.kg * s.columns;
  s.blocks = nhwc ? divide_up(s.columns, max_width) : divide_up(s.columns, 8 * max_width);
  s.width = round_up(divide_up(s.columns, s.blocks), 16);
  s.blocks = divide_up(s.columns, s.width);
  i64 const wanted = std::clamp(i64(p.operations() / task_operations), i64(1), max_tasks) / s.blocks;
  i64 const room = std::max<i64>(1, (i64(4) << 20) / s.partial), most = nhwc ? divide_up(s.pixels, 128) : s.pixels;
  s.parts = std::max<i64>(1, std::min({wanted, room, most}));
  s.part = divide_up(s.pixels, s.parts);
  s.parts = divide_up(s.pixels, s.part);
  s.direct = nhwc && s.parts == 1 && !p.store.bias && p.w_type == DType::f32;
  s.b_size = nhwc ? max_piece * s.width : max_piece * max_width;
  return s;
}

// nhwc: rows are channels of dy, columns are taps and channels of x, summed over pixels.
void filter_nhwc(ConvProblem const& p, Config const& config, ConvArgs const& args, float* scratch, Stream& stream) {
  FilterSplit const s = filter_split_of(p);
  Sizes const z(p);
  GemmKernels const& gemm = kernels_for(p, stream.isa(), config);
  PatchKernels const& patch = patch_kernels_of(stream.isa());
  Grid const grid = grid_of(p, args, 0);
  float* const partials = scratch + s.parts * s.blocks * s.task_size();
  GemmStore store = store_of(p, args);
  store.stride = s.depth;
  bool const in_place = p.r == 1 && p.s == 1 && p.stride_h == 1 && p.stride_w == 1 && p.p() == p.h && p.q() == p.w &&
                        p.x_type == DType::f32 && s.depth % 16 == 0;  // 1x1: the image itself is the matrix of patches
  bool const dy_bf16 = p.y_type == DType::bf16;

  stream.threads().run(int(s.parts * s.blocks), [&](int task) {
    i64 const part = task / s.blocks, block = task % s.blocks, j = block * s.width, width = std::min(s.width, s.columns - j);
    i64 const taps = std::min(width, s.depth - j), begin = part * s.part, end = std::min(s.pixels, begin + s.part);
    float* const a_panel = scratch + task * s.task_size();
    float* const b_block = a_panel + 2 * a_size;
    auto const panels = GemmPanels::of(int(divide_up(width, gemm.lanes)), gemm.max_vectors);
    i64 const even = part_of(z.kg, gemm.rows[panels.widest()]);
    bool const direct_a = !dy_bf16 && panels.count <= 2 && p.k < 256;
    for (i64 group = 0; group < z.groups; ++group) {
      PatchSource const patches = group_of(grid.patches, group);
      float* const sums =
          s.direct ? static_cast<float*>(store.y) + group * z.kg * s.depth + j : partials + part * s.partial + group * z.kg * s.columns + j;
      i64 const piece = part_of(end - begin, max_piece);
      for (i64 pixel = begin; pixel < end; pixel += piece) {
        GemmPanel g;
        g.k = std::min(piece, end - pixel);
        g.columns = width;
        if (in_place && taps == width && width % 16 == 0) {
          g.b = static_cast<float const*>(patches.data) + pixel * patches.pixel_stride + j;
          g.b_stride = patches.pixel_stride;
        } else {
          patch.copy_pixels(patches, pixel, g.k, j, taps, b_block, s.width);
          if (taps < s.width)
            for (i64 l = 0; l < g.k; ++l) {
              std::fill(b_block + l * s.width + taps, b_block + (l + 1) * s.width, 0.0f);
              if (taps < width) b_block[l * s.width + taps] = 1.0f;
            }
          if (gemm.pair) gemm.pair(b_block, s.width, g.k);
          g.b = b_block;
          g.b_stride = s.width;
        }
        g.first = pixel == begin;
        g.sums_stride = s.direct ? s.depth : s.columns;
        for (i64 row = 0; row < z.kg; row += g.rows) {
          g.rows = int(std::min(even, z.kg - row));
          GemmSource const dy{element(args.y, pixel * p.k + group * z.kg + row), dy_bf16, p.k, 1};
          g.a = direct_a ? static_cast<float const*>(dy.data) : a_panel;
          g.a_stride = direct_a ? p.k : g.rows;
          if (!direct_a) gemm.pack_a(dy, g.rows, g.rows, g.k, a_panel);
          if (gemm.pair) gemm.pair(a_panel, g.rows, g.k);
          g.sums = sums + row * g.sums_stride;
          gemm.multiply(g);
        }
      }
    }
  });
  if (s.direct) return;

  i64 const rows = std::max<i64>(1, (1 << 13) / (s.columns * s.parts));
  stream.threads().run(int(divide_up(p.k, rows)), [&](int task) {
    GemmFinish f;
    f.row = task * rows;
    f.rows = std::min(rows, p.k - f.row);
    f.values = partials + f.row * s.columns;
    f.stride = s.columns;
    f.part_stride = s.partial;
    f.parts = int(s.parts);
    f.columns = s.depth;
    f.store = &store;
    gemm.finish(f);
    if (!p.store.bias) return;
    GemmStore db;
    db.y = args.bias.data;
    db.stride = 1;
    f.values += s.depth;
    f.columns = 1;
    f.store = &db;
    gemm.finish(f);
  });
}

// nchw: rows are taps and channels of x (one more row of ones for db), columns are channels of dy, summed over pixels; then transposed.
void filter_nchw(ConvProblem const& p, ConvArgs const& args, float* scratch, Stream& stream) {
  FilterSplit const s = filter_split_of(p);
  Sizes const z(p);
  GemmKernels const& gemm = gemm_kernels_of(stream.isa());
  PatchKernels const& patch = patch_kernels_of(stream.isa());
  Grid const grid = grid_of(p, args, 0);
  float* const partials = scratch + s.parts * s.blocks * s.task_size();
  bool const dy_bf16 = p.y_type == DType::bf16;
  i64 const plane = grid.patches.grid(), piece = part_of(plane, max_piece);

  stream.threads().run(int(s.parts * s.blocks), [&](int task) {
    i64 const part = task / s.blocks, row0 = task % s.blocks * s.width, rows = std::min(s.width, s.columns - row0);
    i64 const begin = part * s.part, end = std::min(s.pixels, begin + s.part);
    float* const a_panel = scratch + task * s.task_size();
    float* const taps = a_panel + a_size;
    float* const b_block = taps + a_size;
    for (i64 group = 0; group < z.groups; ++group) {
      PatchSource const patches = group_of(grid.patches, group);
      for (i64 j = 0; j < z.kg; j += max_width) {
        i64 const width = std::min(max_width, z.kg - j);
        i64 const even = part_of(rows, tile_rows(gemm, width));
        for (i64 image = begin; image < end; ++image)
          for (i64 pixel = 0; pixel < plane; pixel += piece) {
            GemmPanel g;
            g.k = std::min(piece, plane - pixel);
            g.columns = width;
            gemm.pack_b({element(args.y, (image * p.k + group * z.kg + j) * plane + pixel), dy_bf16, 1, plane}, width, g.k, b_block, g.k,
                        0);
            g.b = b_block;
            g.first = image == begin && pixel == 0;
            g.sums_stride = z.kg;
            for (i64 row = 0; row < rows; row += g.rows) {
              g.rows = int(std::min(even, rows - row));
              i64 const real = std::min<i64>(g.rows, s.depth - row0 - row);
              if (real > 0) patch.copy_taps(patches, image, pixel, g.k, row0 + row, real, taps, g.k);
              if (real < g.rows) std::fill(taps + real * g.k, taps + g.rows * g.k, 1.0f);
              gemm.pack_a({taps, false, 1, g.k}, g.rows, g.rows, g.k, a_panel);
              g.a = a_panel;
              g.a_stride = g.rows;
              g.sums = partials + part * s.partial + (group * s.columns + row0 + row) * z.kg + j;
              gemm.multiply(g);
            }
          }
      }
    }
  });

  stream.threads().run(p.k, [&](int k) {
    i64 const group = k / z.kg, in_group = k % z.kg;
    for (i64 l = 0; l < s.columns; ++l) {
      float sum = 0;
      for (i64 part = 0; part < s.parts; ++part) sum += partials[part * s.partial + (group * s.columns + l) * z.kg + in_group];
      l == s.depth ? put(args.bias.data, false, k, sum) : put(args.w.data, p.w_type == DType::bf16, k * s.depth + l, sum);
    }
  });
}

// The algorithm ---------------------------------------------------------------------------------------------------------------

std::string reject(ConvProblem const& p, DeviceFacts const&) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  for (DType t : {p.x_type, p.w_type, p.y_type})
    if (t != DType::f32 && t != DType::bf16) return "needs f32 or bf16";
  if (p.store.mask == Mask::relu6) return "a mask of relu6";
  if (p.direction != Direction::bwd_filter && p.x_type == DType::bf16 && p.w_type == DType::f32) return "an f32 filter to be rounded as it is read";
  ConvProblem plain = p;
  plain.store.bias = false;
  if (p.direction != Direction::bwd_filter) plain.store.act = Activation::none, plain.store.mask = Mask::none, plain.store.residual = false;
  if (!plain.plain())
    return p.direction == Direction::bwd_filter ? "of the slots it has only db" : "of the slots it has bias, residual, activation and mask";
  return {};
}

std::size_t scratch(ConvProblem const& p, Config const&) {
  i64 floats = 0;
  if (p.direction == Direction::bwd_filter) {
    FilterSplit const s = filter_split_of(p);
    floats = s.parts * s.blocks * s.task_size() + (s.direct ? 0 : s.parts * s.partial);
  } else {
    Split const s = split_of(p);
    floats = s.filter_size + s.tasks * grids_of(p) * s.task_size();
  }
  return std::size_t(floats) * sizeof(float);
}

// Multiply-adds at the tile's rate, lanes that stay empty included; two thirds of a cycle per copied element, and what a run costs.
double seconds(ConvProblem const& p, DeviceFacts const& facts) {
  Sizes const z(p);
  bool const nhwc = p.layout == Layout::nhwc, data = p.direction == Direction::bwd_data, filter = p.direction == Direction::bwd_filter;
  double const lanes = facts.isa == Isa::avx512 ? 16 : facts.isa == Isa::avx2 ? 8 : 1, per_cycle = facts.isa == Isa::plain ? 2 : 29;
  double const phases = data ? double(p.stride_h) * p.stride_w : 1;
  double const pixels = data ? double(p.n) * p.h * p.w : double(p.n) * p.p() * p.q();
  double const depth = double(z.filter) * double(data ? z.kg : z.cg) / phases;
  double const runs = (p.groups == 1 && p.dilation_w == 1 && nhwc ? double(p.r) : double(z.filter)) / phases;
  double const columns = filter == nhwc ? depth : nhwc ? double(data ? z.cg : z.kg) : pixels / p.n;
  double const vectors = columns <= 8 && lanes > 8 ? 8 : lanes;
  double const waste = double(i64((columns + vectors - 1) / vectors)) * vectors / columns;
  return (p.operations() * waste / per_cycle + pixels * double(z.groups) * (depth * 0.65 + runs * 12) + 4000) / 3.7e9;
}

std::size_t prepared(ConvProblem const& p, Config const&) { return p.direction == Direction::bwd_filter ? 0 : std::size_t(split_of(p).filter_size) * sizeof(float); }
void prepare(ConvProblem const& p, Config const& config, ConvArgs const& args, View to, Stream& stream) {
  p.layout == Layout::nhwc ? pack_nhwc(p, config, args, to.as<float>(), stream) : pack_nchw(p, args, to.as<float>(), stream);
}

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View scratch_view, Stream& stream) {
  float* memory = scratch_view.as<float>();
  bool const nhwc = p.layout == Layout::nhwc;
  if (p.direction == Direction::bwd_filter) return nhwc ? filter_nhwc(p, config, args, memory, stream) : filter_nchw(p, args, memory, stream);
  auto const* filter = args.prepared.as<float const>();
  if (!filter) {
    filter = memory;
    memory += split_of(p).filter_size;
    prepare(p, config, args, scratch_view, stream);
  }
  nhwc ? run_nhwc(p, config, args, filter, memory, stream) : run_nchw(p, args, filter, memory, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_im2col_gemm{
    .name = "im2col_gemm", .target = DeviceKind::cpu, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run,
    .prepares = "w", .prepared = prepared, .prepare = prepare};

}  // namespace falconet
