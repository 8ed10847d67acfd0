// Convolution as a matrix product on tensor cores in TF32 (mma.sync m16n8k8), the unfolded matrix formed as it is read: the products of implicit_gemm.cu. Two
// algorithms share the kernel: implicit_gemm_tf32, which rounds both factors, and implicit_gemm_3xtf32, which cuts each in two and keeps f32's accuracy.
//
// A block makes a tile of tile_m by tile_n by running over the sum 16 deep at a time: while one slab is multiplied the next is on its way to
// registers, and goes to the other half of shared memory. An operand that runs along the sum in memory lies as [row][16 + 4], where matrix
// loads of 8 rows by 16 bytes meet all banks; one that runs along the tile as [16][tile + 8], where the four lanes of a fragment's column and the
// eight of its row do. Four neighbouring channels are read at once where their number allows it. The filter gradient's sum is cut and added as in
// implicit_gemm.cu. A strided data gradient is one product for each residue of (h, w) modulo the stride, which meets its own taps alone.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "falconet/base/error.h"
#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/tf32.cuh"
#include "falconet/ops/conv/cuda/implicit_gemm.cuh"

namespace falconet::implicit_tf32 {

using namespace implicit;

// rounded: a factor is its nearest TF32 value. three: a factor is high + low, two TF32 values, and a product high high + high low + low high; what is left
// out is below 2^-23 of a product (Ootomo and Yokota 2022). Tensor cores cut off where f32 rounds: a slab's sums are made there and added with rounding.
enum class Factors { rounded, three };

constexpr int most_lattices = 4;

// The pixels of x of one residue, and the taps that meet them: rows first_h, first_h + stride ..., taps r0, r0 + stride ... Row i meets tap number t at
// row p0 + i - t * dilation of dy. All pixels and taps where the stride is 1.
struct Lattice {
  int first_h, first_w, rows, columns, r0, s0, p0, q0, m, sum;
  FastDivide by_image, by_width, by_s;
};
struct Work {
  Geometry g;
  Slots slots;
  Pointers<float> a;
  Lattice lattice[most_lattices];      // of a data gradient
};

template <int width>
struct Chunk {   // neighbouring elements
  float v[width];
};
template <int width>
FALCONET_DEVICE Chunk<width> fetch(float const* p, std::int64_t at, bool exists) {   // zeros where it does not
  Chunk<width> c{};
  if constexpr (width == 4) {
    if (exists) *reinterpret_cast<float4*>(c.v) = __ldg(reinterpret_cast<float4 const*>(p + at));
  } else {
    if (exists) c.v[0] = __ldg(p + at);
  }
  return c;
}
template <Factors factors, int width>
FALCONET_DEVICE void keep(std::uint32_t* to, Chunk<width> const& c) {
  if constexpr (factors == Factors::three) {
    if constexpr (width == 4) *reinterpret_cast<float4*>(to) = make_float4(c.v[0], c.v[1], c.v[2], c.v[3]);
    else *to = __float_as_uint(c.v[0]);
  } else if constexpr (width == 4) *reinterpret_cast<uint4*>(to) = make_uint4(ptx::to_tf32(c.v[0]), ptx::to_tf32(c.v[1]), ptx::to_tf32(c.v[2]), ptx::to_tf32(c.v[3]));
  else *to = ptx::to_tf32(c.v[0]);
}

// Where a row of the product begins in the other image: of a pixel of y its first tap's place in x, of one of x its first tap's place in dy.
struct Corner {
  int image, h, w;                     // image: n * rows of that image
};
FALCONET_DEVICE Corner corner_of(Geometry const& g, int pixel) {
  Pixel const y = pixel_of(g, pixel);
  return {y.n * g.h, y.row * g.st_h - g.pad_h, y.column * g.st_w - g.pad_w};
}
template <int width>
FALCONET_DEVICE Chunk<width> read_x(Geometry const& g, float const* x, Corner const& y, Tap const& t, bool exists) {
  int const h = y.h + t.r * g.d_h, w = y.w + t.s * g.d_w;
  return fetch<width>(x, ((y.image + h) * g.w + w) * g.c + t.channel, exists && unsigned(h) < unsigned(g.h) && unsigned(w) < unsigned(g.w));
}
template <int width>
FALCONET_DEVICE Chunk<width> read_dy(Geometry const& g, float const* dy, Corner const& x, Tap const& t, bool exists) {
  int const p = x.h - t.r * g.d_h, q = x.w - t.s * g.d_w;
  return fetch<width>(dy, ((x.image + p) * g.q + q) * g.k + t.channel, exists && unsigned(p) < unsigned(g.p) && unsigned(q) < unsigned(g.q));
}

// Blocks of a multiprocessor, as registers allow: a thread keeps `sums` of them for its results, and 40 to 110 for the rest; with three products a slab's
// sums and the parts of its factors as well.
constexpr int blocks_at_once(Factors factors, int width, int threads, int sums) {
  if (factors == Factors::three) return std::max(1, (width == 4 ? 384 : 256) / threads);
  int const together = sums <= 32 ? 640 : sums <= 64 ? (threads == 256 ? 512 : 384) : 256;
  return std::max(1, (width == 4 ? together : together / 2) / threads);
}

template <Factors factors, Direction direction, int width, int tile_m, int tile_n, int warps_m, int warps_n>
__global__ void __launch_bounds__(32 * warps_m* warps_n, blocks_at_once(factors, width, 32 * warps_m * warps_n, tile_m* tile_n / (32 * warps_m * warps_n)))
    implicit_gemm_by_tf32(Work const work) {
  constexpr bool filter = direction == Direction::bwd_filter, data = direction == Direction::bwd_data, forward = direction == Direction::fwd;
  constexpr int threads = 32 * warps_m * warps_n, warp_m = tile_m / warps_m, warp_n = tile_n / warps_n, blocks_m = warp_m / 16, blocks_n = warp_n / 8;
  static_assert(blocks_m >= 1 && blocks_n % 2 == 0);
  // Of the two operands: words of a line in shared memory, lines, chunks of a line and of a thread.
  constexpr int left_line = filter ? tile_m + 8 : depth + 4, left_lines = filter ? depth : tile_m, left_chunks = (filter ? tile_m : depth) / width;
  constexpr int right_line = forward ? depth + 4 : tile_n + 8, right_lines = forward ? tile_n : depth, right_chunks = (forward ? depth : tile_n) / width;
  constexpr int rows = tile_m * depth / width / threads, columns = tile_n * depth / width / threads, left_step = threads / left_chunks, right_step = threads / right_chunks;
  static_assert(rows >= 1 && columns >= 1);
  constexpr int left_words = left_lines * left_line, right_words = right_lines * right_line;
  extern __shared__ __align__(16) std::uint32_t memory[];   // [2][left_words], [2][right_words]
  Geometry const& g = work.g;
  Lattice const& lattice = work.lattice[data ? blockIdx.z : 0];
  int const t = threadIdx.x, tiles_n = (g.columns + tile_n - 1) / tile_n, m0 = blockIdx.x / tiles_n * tile_m, n0 = blockIdx.x % tiles_n * tile_n;
  int const all_m = data ? lattice.m : g.m, begin = data ? 0 : blockIdx.z * g.part, end = data ? lattice.sum : min(g.sum, begin + g.part);
  if (m0 >= all_m) return;
  int const left_at = t % left_chunks * width, left_from = t / left_chunks, right_at = t % right_chunks * width, right_from = t / right_chunks;

  Corner corner[filter ? 1 : rows];
  if constexpr (!filter) {
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      int const pixel = min(m0 + left_from + i * left_step, all_m - 1);
      if constexpr (data) {
        int in_image, column;
        int const n = lattice.by_image(pixel, in_image), row = lattice.by_width(in_image, column);
        corner[i] = {n * g.p, lattice.p0 + row, lattice.q0 + column};
      } else {
        corner[i] = corner_of(g, pixel);
      }
    }
  }
  Tap const column_tap = filter ? tap_of(g, g.by_c, min(n0 + right_at, g.columns - 1)) : Tap{};
  auto const tap_of_row = [&](int i) {   // of a data gradient's sum: its number among the taps of the lattice
    Tap tap;
    int const number = g.by_k(min(i, max(end - 1, 0)), tap.channel);
    tap.r = lattice.by_s(number, tap.s);
    return tap;
  };
  Chunk<width> next_left[rows], next_right[columns];
  auto const read = [&](int k0) {
    if constexpr (filter) {
      int const m = m0 + left_at, n = n0 + right_at;
#pragma unroll
      for (int i = 0; i < rows; ++i) {
        int const pixel = k0 + left_from + i * left_step;
        next_left[i] = fetch<width>(work.a.y, pixel * g.k + m, pixel < end && m < g.m);
      }
#pragma unroll
      for (int i = 0; i < columns; ++i) {
        int const pixel = k0 + right_from + i * right_step;
        next_right[i] = read_x<width>(g, work.a.x, corner_of(g, pixel), column_tap, pixel < end && n < g.columns);
      }
    } else {
      int const kk = k0 + left_at;
      bool const in = kk < end;
      Tap const tap = data ? tap_of_row(kk) : tap_of(g, g.by_c, min(kk, g.sum - 1));
#pragma unroll
      for (int i = 0; i < rows; ++i) next_left[i] = data ? read_dy<width>(g, work.a.y, corner[i], tap, in) : read_x<width>(g, work.a.x, corner[i], tap, in);
#pragma unroll
      for (int i = 0; i < columns; ++i) {
        if constexpr (forward) {
          int const n = n0 + right_from + i * right_step;
          next_right[i] = fetch<width>(work.a.w, n * g.sum + kk, in && n < g.columns);   // both start at the same place of the sum
        } else {
          int const n = n0 + right_at, row = k0 + right_from + i * right_step;
          Tap const here = tap_of_row(row);
          next_right[i] = fetch<width>(work.a.w, ((here.channel * g.r + lattice.r0 + here.r * g.st_h) * g.s + lattice.s0 + here.s * g.st_w) * g.c + n, row < end && n < g.columns);
        }
      }
    }
  };
  auto const put_down = [&](int half) {
    std::uint32_t *const left = memory + half * left_words, *const right = memory + 2 * left_words + half * right_words;
#pragma unroll
    for (int i = 0; i < rows; ++i) keep<factors>(left + (left_from + i * left_step) * left_line + left_at, next_left[i]);
#pragma unroll
    for (int i = 0; i < columns; ++i) keep<factors>(right + (right_from + i * right_step) * right_line + right_at, next_right[i]);
  };

  int const warp = t / 32, lane = t % 32, group = lane / 4, within = lane % 4;
  int const warp_row = warp % warps_m * warp_m, warp_column = warp / warps_m * warp_n;
  // The row of shared memory whose address this lane gives to the matrix loads.
  int const a_lane = (warp_row + (lane & 15)) * (depth + 4) + (lane >> 4) * 4, b_lane = (warp_column + (lane & 7) + (lane >> 4) * 8) * (depth + 4) + (lane >> 3 & 1) * 4;
  float sum[blocks_m][blocks_n][4] = {};
  [[maybe_unused]] float part[blocks_m][blocks_n][4] = {};   // of a slab
  auto const multiply = [&](int half) {
    std::uint32_t const *const left = memory + half * left_words, *const right = memory + 2 * left_words + half * right_words;
#pragma unroll
    for (int kk = 0; kk < depth; kk += 8) {
      std::uint32_t u[blocks_m][4], v[blocks_n][2];
#pragma unroll
      for (int i = 0; i < blocks_m; ++i) {
        if constexpr (!filter) {
          ptx::load_matrices(u[i], ptx::shared_address(left + a_lane + i * 16 * left_line + kk));
        } else {
          std::uint32_t const* const from = left + (kk + within) * left_line + warp_row + i * 16 + group;
          u[i][0] = from[0], u[i][1] = from[8], u[i][2] = from[4 * left_line], u[i][3] = from[4 * left_line + 8];
        }
      }
#pragma unroll
      for (int j = 0; j < blocks_n; j += 2) {
        if constexpr (forward) {
          std::uint32_t both[4];
          ptx::load_matrices(both, ptx::shared_address(right + b_lane + j * 8 * right_line + kk));
          v[j][0] = both[0], v[j][1] = both[1], v[j + 1][0] = both[2], v[j + 1][1] = both[3];
        } else {
          std::uint32_t const* const from = right + (kk + within) * right_line + warp_column + j * 8 + group;
          v[j][0] = from[0], v[j][1] = from[4 * right_line], v[j + 1][0] = from[8], v[j + 1][1] = from[4 * right_line + 8];
        }
      }
      if constexpr (factors == Factors::rounded) {
#pragma unroll
        for (int i = 0; i < blocks_m; ++i)
#pragma unroll
          for (int j = 0; j < blocks_n; ++j) ptx::mma_tf32(sum[i][j], u[i], v[j]);
      } else {
        std::uint32_t u_low[blocks_m][4], v_low[blocks_n][2];
#pragma unroll
        for (int i = 0; i < blocks_m; ++i)
#pragma unroll
          for (int e = 0; e < 4; ++e) ptx::cut_in_two(__uint_as_float(u[i][e]), u[i][e], u_low[i][e]);
#pragma unroll
        for (int j = 0; j < blocks_n; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) ptx::cut_in_two(__uint_as_float(v[j][e]), v[j][e], v_low[j][e]);
#pragma unroll
        for (int kind = 0; kind < 3; ++kind)   // the small ones first
#pragma unroll
          for (int i = 0; i < blocks_m; ++i)
#pragma unroll
            for (int j = 0; j < blocks_n; ++j) ptx::mma_tf32(part[i][j], kind == 0 ? u_low[i] : u[i], kind == 1 ? v_low[j] : v[j]);
      }
    }
    if constexpr (factors == Factors::three)
#pragma unroll
      for (int i = 0; i < blocks_m; ++i)
#pragma unroll
        for (int j = 0; j < blocks_n; ++j)
#pragma unroll
          for (int e = 0; e < 4; ++e) sum[i][j][e] += part[i][j][e], part[i][j][e] = 0;
  };
  read(begin);
  put_down(0);
  for (int k0 = begin, half = 0; k0 < end; k0 += depth, half ^= 1) {
    __syncthreads();
    bool const more = k0 + depth < end;
    if (more) read(k0 + depth);
    multiply(half);
    if (more) put_down(half ^ 1);
  }

#pragma unroll
  for (int i = 0; i < blocks_m; ++i)
#pragma unroll
    for (int upper = 0; upper < 2; ++upper) {
      int const m = m0 + warp_row + i * 16 + group + upper * 8;
      if (m >= all_m) continue;
      int row = m;                     // of the result in memory
      if constexpr (data) {
        int in_image, column;
        int const n = lattice.by_image(m, in_image), h = lattice.by_width(in_image, column);
        row = (n * g.h + lattice.first_h + h * g.st_h) * g.w + lattice.first_w + column * g.st_w;
      }
#pragma unroll
      for (int j = 0; j < blocks_n; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          int const n = n0 + warp_column + j * 8 + within * 2 + e, at = row * g.columns + n;
          if (n >= g.columns) continue;
          float const v = sum[i][j][upper * 2 + e];
          if constexpr (filter) work.a.partial[std::int64_t(blockIdx.z) * g.m * g.columns + at] = v;
          else (data ? work.a.x : work.a.y)[at] = stored(g, work.slots, work.a, v, n, at);
        }
    }
}

// Along one axis: the rows of x of a residue, and the taps that meet them.
struct Residue {
  int first, count, tap0, taps, place0;
};
inline Residue residue_of(int first, int size, int pad, int stride, int filter) {
  Residue r{first, size > first ? (size - first + stride - 1) / stride : 0, (first + pad) % stride, 0, 0};
  r.taps = filter > r.tap0 ? (filter - r.tap0 + stride - 1) / stride : 0;
  r.place0 = (first + pad - r.tap0) / stride;
  return r;
}
inline Lattice lattice_of(ConvProblem const& p, int h, int w) {
  auto const down = residue_of(h, p.h, p.pad_top, p.stride_h, p.r), right = residue_of(w, p.w, p.pad_left, p.stride_w, p.s);
  return {h, w, down.count, right.count, down.tap0, right.tap0, down.place0, right.place0, p.n * down.count * right.count, down.taps * right.taps * p.k,
          FastDivide(std::max(1, down.count * right.count)), FastDivide(std::max(1, right.count)), FastDivide(std::max(1, right.taps))};
}

inline bool by_four(ConvProblem const& p) { return p.c % 4 == 0 && (p.direction == Direction::fwd || p.k % 4 == 0); }

// Why neither can run a problem; empty when both can.
inline std::string reject_products(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (facts.compute_capability < 80) return "TF32 needs compute capability 8.0";
  if (!p.one_type(DType::f32)) return "f32 only";
  if (p.load_x != OnLoad{} || p.load_dy != OnLoad{}) return "slots of operands as they are read";
  if (p.direction == Direction::bwd_data && p.stride_h * p.stride_w > 1) {
    if (p.stride_h > 4 || p.stride_w > 4 || p.stride_h * p.stride_w > most_lattices) return "a data gradient of more than 4 residues";
    if (p.dilation_h * p.dilation_w > 1) return "a data gradient with stride and dilation";
  }
  return reject_form(p);
}

// slab: microseconds for one 16 deep slab of a lone block, and more for each further one beside it, up to `together`; ends: for the first slab and the store of
// blocks that run together (H200).
struct Form {
  Tile tile;
  double slab, more;
  int together;
  double ends = 0;
};
inline double seconds_with(ConvProblem const& p, Form const& f) {
  Shape3 const s = product_of(p);
  double const residues = p.direction == Direction::bwd_data ? p.stride_h * p.stride_w : 1;
  auto const [part, parts] = parts_of(p, f.tile);
  double const blocks = std::ceil(double(s.m) / residues / f.tile.m) * residues * std::ceil(double(s.n) / f.tile.n) * parts, each = std::ceil(blocks / 132);
  double const rounds = std::floor(each / f.together), rest = each - rounds * f.together;
  double const slab = rounds * (f.slab + (f.together - 1) * f.more) + (rest > 0 ? f.slab + (rest - 1) * f.more : 0);
  double const adding = parts > 1 ? 3e-6 + double(parts) * s.m * s.n * 4 / 2.5e12 : 0;
  return 4e-6 + std::ceil(each / f.together) * f.ends * 1e-6 + std::ceil(part / residues / depth) * slab * 1e-6 * (by_four(p) ? 1 : 1.75) + adding;
}

// The launch of one tile: width numbers of a channel at once, warps_m x warps_n warps. Whether this is the form that the problem wants.
template <Factors factors>
struct Launcher {
  ConvProblem const& p;
  Tile tile;
  ConvArgs const& args;
  View memory;
  cudaStream_t stream;
  Work work;
  int parts;
  std::int64_t m;
  Launcher(ConvProblem const& problem, Tile t, ConvArgs const& a, View scratch, cudaStream_t on) : p(problem), tile(t), args(a), memory(scratch), stream(on) {
    auto const [part, count] = parts_of(p, tile);
    parts = count;
    m = product_of(p).m;
    work = Work{geometry_of(p, part), slots_of(p), pointers_of<float>(args, p.direction != Direction::bwd_filter ? nullptr : parts > 1 ? memory.as<float>() : args.w.as<float>()), {}};
    if (p.direction != Direction::bwd_data) return;
    for (int h = 0; h < p.stride_h; ++h)
      for (int w = 0; w < p.stride_w; ++w) work.lattice[h * p.stride_w + w] = lattice_of(p, h, w);
    m = work.lattice[0].m;             // no other has more
  }
  template <int width, int tile_m, int tile_n, int warps_m, int warps_n>
  bool with() const {
    if (tile.m != tile_m || tile.n != tile_n || (width == 4) != by_four(p)) return false;
    bool const filter = p.direction == Direction::bwd_filter, data = p.direction == Direction::bwd_data;
    dim3 const grid(unsigned((m + tile_m - 1) / tile_m * ((product_of(p).n + tile_n - 1) / tile_n)), 1, unsigned(data ? p.stride_h * p.stride_w : parts));
    auto const launch = [&](auto kernel, int words) {
      allow_shared_memory(kernel, words * 4);
      kernel<<<grid, 32 * warps_m * warps_n, words * 4, stream>>>(work);
    };
    constexpr int along = depth + 4, across_m = depth * (tile_m + 8), across_n = depth * (tile_n + 8);
    if (filter) launch(implicit_gemm_by_tf32<factors, Direction::bwd_filter, width, tile_m, tile_n, warps_m, warps_n>, 2 * (across_m + across_n));
    else if (data) launch(implicit_gemm_by_tf32<factors, Direction::bwd_data, width, tile_m, tile_n, warps_m, warps_n>, 2 * (tile_m * along + across_n));
    else launch(implicit_gemm_by_tf32<factors, Direction::fwd, width, tile_m, tile_n, warps_m, warps_n>, 2 * (tile_m + tile_n) * along);
    return true;
  }
  void add() const {                   // a filter gradient's parts
    if (parts <= 1) return;
    Shape3 const s = product_of(p);
    int const elements = int(s.m * s.n);
    add_parts<<<(elements + 31) / 32, dim3(32, 8), 0, stream>>>(work.a.partial, parts, elements, args.w.as<float>());
  }
};

}  // namespace falconet::implicit_tf32
