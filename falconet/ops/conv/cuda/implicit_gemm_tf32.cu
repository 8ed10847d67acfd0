// Convolution as a matrix product in TF32 on tensor cores (mma.sync m16n8k8), the unfolded matrix formed as it is read: the products of
// implicit_gemm.cu, for problems that allow it (math=tf32). Factors are f32 and go through the load slots in f32; then both are rounded to
// the nearest TF32 value (10 bits of mantissa, ties away from zero) on their way into shared memory. Products of two such values are exact in
// f32, and sums are f32: |error| <= 2^-10 sum |u| |v|, and the rounding of the sums. So small integers give exact results.
//
// A block of 8 warps makes a tile of tile_m by tile_n by running over the sum 16 deep at a time: while one slab is multiplied the next is
// on its way to registers, and goes to the other half of shared memory. An operand that runs along the sum in memory lies as
// [row][16 + 4], where matrix loads of 8 rows by 16 bytes meet all banks; one that runs along the tile as [16][tile + 8], where the four lanes
// of a fragment's column and the eight of its row do. Four neighbouring channels are read at once where their number allows it.
// The filter gradient's sum is cut and added as in implicit_gemm.cu; a strided data gradient reads zeros for the pixels between.
// Limits: f32 channels-last without groups, compute capability 8.0. Cost: 2 n k p q c r s operations (times stride^2 for a data gradient); each
// operand from L2 once per tile of the other side.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "falconet/base/error.h"
#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/tf32.cuh"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/implicit_gemm.cuh"

namespace falconet {
namespace {

using namespace implicit;

template <int width>
struct Chunk {   // neighbouring elements
  float v[width];
};
template <int width>
FALCONET_DEVICE Chunk<width> fetch(float const* p) {
  if constexpr (width == 4) {
    float4 const f = __ldg(reinterpret_cast<float4 const*>(p));
    return {{f.x, f.y, f.z, f.w}};
  } else {
    return {{__ldg(p)}};
  }
}
template <int width>
FALCONET_DEVICE void keep(std::uint32_t* to, Chunk<width> const& c) {
  if constexpr (width == 4) *reinterpret_cast<uint4*>(to) = make_uint4(ptx::to_tf32(c.v[0]), ptx::to_tf32(c.v[1]), ptx::to_tf32(c.v[2]), ptx::to_tf32(c.v[3]));
  else *to = ptx::to_tf32(c.v[0]);
}

// Where the filter's first tap lies in x, for a pixel of y.
struct Corner {
  int image, h, w;                       // image: n * rows of x
};
FALCONET_DEVICE Corner corner_of(Geometry const& g, int pixel) {
  Pixel const y = pixel_of(g, pixel);
  return {y.n * g.h, y.row * g.st_h - g.pad_h, y.column * g.st_w - g.pad_w};
}
template <int width>
FALCONET_DEVICE Chunk<width> read_x(Geometry const& g, Slots const& slots, Pointers<float> const& a, Corner const& y, Tap const& t) {
  int const h = y.h + t.r * g.d_h, w = y.w + t.s * g.d_w;
  if (unsigned(h) >= unsigned(g.h) || unsigned(w) >= unsigned(g.w)) return {};
  auto c = fetch<width>(a.x + ((y.image + h) * g.w + w) * g.c + t.channel);
  if (slots.load_x == Affine::scale_shift) {
    auto const scale = fetch<width>(a.load_x + t.channel), shift = fetch<width>(a.load_x + g.c + t.channel);
#pragma unroll
    for (int j = 0; j < width; ++j) c.v[j] = scale.v[j] * c.v[j] + shift.v[j];
  }
  if (slots.load_act != Activation::none) {
#pragma unroll
    for (int j = 0; j < width; ++j) c.v[j] = activate(slots.load_act, c.v[j]);
  }
  return c;
}
template <int width>
FALCONET_DEVICE Chunk<width> read_dy(Geometry const& g, Slots const& slots, Pointers<float> const& a, int pixel, int k) {
  int const i = pixel * g.k + k;
  auto c = fetch<width>(a.y + i);
  if (slots.load_dy == Affine::two_operand) {
    auto const other = fetch<width>(a.other + i), scale = fetch<width>(a.load_dy + k), scale_other = fetch<width>(a.load_dy + g.k + k),
               shift = fetch<width>(a.load_dy + 2 * g.k + k);
#pragma unroll
    for (int j = 0; j < width; ++j) c.v[j] = scale.v[j] * c.v[j] + scale_other.v[j] * other.v[j] + shift.v[j];
  }
  return c;
}
// Of the pixel of y that tap t of pixel x comes from; corner: where the filter's first tap would put it, in steps of x.
template <int width>
FALCONET_DEVICE Chunk<width> read_dy_at(Geometry const& g, Slots const& slots, Pointers<float> const& a, Corner const& x, Tap const& t) {
  int const up = x.h - t.r * g.d_h, left = x.w - t.s * g.d_w;
  if (up < 0 || left < 0) return {};
  int off_h, off_w;
  int const p = g.by_st_h(up, off_h), q = g.by_st_w(left, off_w);
  if (off_h || off_w || p >= g.p || q >= g.q) return {};
  return read_dy<width>(g, slots, a, (x.image + p) * g.q + q, t.channel);
}

template <Direction direction, int width, int tile_m, int tile_n, int warps_m>
__global__ void __launch_bounds__(threads, width == 4 ? 2 : 1) implicit_gemm_tf32(Geometry const g, Slots const slots, Pointers<float> const a) {
  constexpr bool filter = direction == Direction::bwd_filter, data = direction == Direction::bwd_data, forward = direction == Direction::fwd;
  constexpr int warp_m = tile_m / warps_m, warp_n = tile_n / (8 / warps_m), blocks_m = warp_m / 16, blocks_n = warp_n / 8;
  static_assert(blocks_n % 2 == 0);
  // Of the two operands: floats of a line in shared memory, lines, chunks of a line and of a thread.
  constexpr int left_line = filter ? tile_m + 8 : depth + 4, left_lines = filter ? depth : tile_m, left_chunks = (filter ? tile_m : depth) / width;
  constexpr int right_line = forward ? depth + 4 : tile_n + 8, right_lines = forward ? tile_n : depth, right_chunks = (forward ? depth : tile_n) / width;
  constexpr int rows = tile_m * depth / width / threads, columns = tile_n * depth / width / threads;
  static_assert(rows >= 1 && columns >= 1);
  __shared__ __align__(16) std::uint32_t left[2][left_lines * left_line], right[2][right_lines * right_line];
  int const t = threadIdx.x, tiles_n = (g.columns + tile_n - 1) / tile_n, m0 = blockIdx.x / tiles_n * tile_m, n0 = blockIdx.x % tiles_n * tile_n;
  int const begin = blockIdx.z * g.part, end = min(g.sum, begin + g.part);
  int const left_at = t % left_chunks * width, left_from = t / left_chunks, right_at = t % right_chunks * width, right_from = t / right_chunks;
  constexpr int left_step = threads / left_chunks, right_step = threads / right_chunks;

  Corner corner[filter ? 1 : rows];
  if constexpr (!filter) {
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      int const pixel = min(m0 + left_from + i * left_step, g.m - 1);
      if constexpr (data) {
        Pixel const x = pixel_of(g, pixel);
        corner[i] = {x.n * g.p, x.row + g.pad_h, x.column + g.pad_w};
      } else {
        corner[i] = corner_of(g, pixel);
      }
    }
  }
  Tap const column_tap = filter ? tap_of(g, g.by_c, min(n0 + right_at, g.columns - 1)) : Tap{};
  Chunk<width> next_left[rows], next_right[columns];
  auto const read = [&](int k0) {
    if constexpr (filter) {
      int const m = m0 + left_at, n = n0 + right_at;
#pragma unroll
      for (int i = 0; i < rows; ++i) {
        int const pixel = k0 + left_from + i * left_step;
        next_left[i] = pixel < end && m < g.m ? read_dy<width>(g, slots, a, pixel, m) : Chunk<width>{};
      }
#pragma unroll
      for (int i = 0; i < columns; ++i) {
        int const pixel = k0 + right_from + i * right_step;
        next_right[i] = pixel < end && n < g.columns ? read_x<width>(g, slots, a, corner_of(g, pixel), column_tap) : Chunk<width>{};
      }
    } else {
      int const kk = k0 + left_at;
      bool const in = kk < end;
      Tap const tap = tap_of(g, data ? g.by_k : g.by_c, min(kk, g.sum - 1));
#pragma unroll
      for (int i = 0; i < rows; ++i)
        next_left[i] = !in ? Chunk<width>{} : data ? read_dy_at<width>(g, slots, a, corner[i], tap) : read_x<width>(g, slots, a, corner[i], tap);
#pragma unroll
      for (int i = 0; i < columns; ++i) {
        if constexpr (forward) {
          int const n = n0 + right_from + i * right_step;
          next_right[i] = in && n < g.columns ? fetch<width>(a.w + n * g.sum + kk) : Chunk<width>{};   // both start at the same place of the sum
        } else {
          int const n = n0 + right_at, row = k0 + right_from + i * right_step;
          Tap const here = tap_of(g, g.by_k, min(row, g.sum - 1));
          next_right[i] = row < end && n < g.columns ? fetch<width>(a.w + ((here.channel * g.r + here.r) * g.s + here.s) * g.c + n) : Chunk<width>{};
        }
      }
    }
  };
  auto const put_down = [&](int half) {
#pragma unroll
    for (int i = 0; i < rows; ++i) keep(&left[half][(left_from + i * left_step) * left_line + left_at], next_left[i]);
#pragma unroll
    for (int i = 0; i < columns; ++i) keep(&right[half][(right_from + i * right_step) * right_line + right_at], next_right[i]);
  };

  int const warp = t / 32, lane = t % 32, group = lane / 4, within = lane % 4;
  int const warp_row = warp % warps_m * warp_m, warp_column = warp / warps_m * warp_n;
  // The row of shared memory whose address this lane gives to the matrix loads.
  int const a_lane = (warp_row + (lane & 15)) * (depth + 4) + (lane >> 4) * 4, b_lane = (warp_column + (lane & 7) + (lane >> 4) * 8) * (depth + 4) + (lane >> 3 & 1) * 4;
  float sum[blocks_m][blocks_n][4] = {};
  auto const multiply = [&](int half) {
#pragma unroll
    for (int kk = 0; kk < depth; kk += 8) {
      std::uint32_t u[blocks_m][4], v[blocks_n][2];
#pragma unroll
      for (int i = 0; i < blocks_m; ++i) {
        if constexpr (!filter) {
          ptx::load_matrices(u[i], ptx::shared_address(&left[half][a_lane + i * 16 * left_line + kk]));
        } else {
          std::uint32_t const* const from = &left[half][(kk + within) * left_line + warp_row + i * 16 + group];
          u[i][0] = from[0], u[i][1] = from[8], u[i][2] = from[4 * left_line], u[i][3] = from[4 * left_line + 8];
        }
      }
#pragma unroll
      for (int j = 0; j < blocks_n; j += 2) {
        if constexpr (forward) {
          std::uint32_t both[4];
          ptx::load_matrices(both, ptx::shared_address(&right[half][b_lane + j * 8 * right_line + kk]));
          v[j][0] = both[0], v[j][1] = both[1], v[j + 1][0] = both[2], v[j + 1][1] = both[3];
        } else {
          std::uint32_t const* const from = &right[half][(kk + within) * right_line + warp_column + j * 8 + group];
          v[j][0] = from[0], v[j][1] = from[4 * right_line], v[j + 1][0] = from[8], v[j + 1][1] = from[4 * right_line + 8];
        }
      }
#pragma unroll
      for (int i = 0; i < blocks_m; ++i)
#pragma unroll
        for (int j = 0; j < blocks_n; ++j) ptx::mma_tf32(sum[i][j], u[i], v[j]);
    }
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
    for (int j = 0; j < blocks_n; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        int const m = m0 + warp_row + i * 16 + group + e / 2 * 8, n = n0 + warp_column + j * 8 + within * 2 + e % 2;
        if (m >= g.m || n >= g.columns) continue;
        int const at = m * g.columns + n;
        if constexpr (filter) a.partial[std::int64_t(blockIdx.z) * g.m * g.columns + at] = sum[i][j][e];
        else (data ? a.x : a.y)[at] = stored(g, slots, a, sum[i][j][e], n, at);
      }
}

constexpr Tile tiles_known[] = {{128, 128}, {128, 64}, {64, 64}};
Tile tile_of(Config const& c) { return {c.get("tile_m", 64), c.get("tile_n", 64)}; }

bool by_four(ConvProblem const& p) { return p.c % 4 == 0 && (p.direction == Direction::fwd || p.k % 4 == 0); }

std::string reject(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.math != Math::tf32) return "only where TF32 is allowed (math=tf32)";
  if (facts.compute_capability < 80) return "TF32 needs compute capability 8.0";
  if (!p.one_type(DType::f32)) return "f32 only";
  return reject_form(p);
}

double seconds_with(ConvProblem const& p, Tile t) {
  Shape3 const s = product_of(p);
  double const tiles = std::ceil(double(s.m) / t.m) * std::ceil(double(s.n) / t.n);
  auto const [part, parts] = parts_of(p, t);
  double const rate = (t.n == 128 ? 5e11 : t.m == 128 ? 4e11 : 3e11) * (by_four(p) ? 1 : 0.4);   // multiply-adds of a multiprocessor
  return 4e-6 + std::ceil(tiles * parts / 264) * 2 * (part * double(t.m) * t.n / rate + 1e-6) + (parts > 1 ? 3e-6 : 0);
}

std::vector<Config> configs(ConvProblem const& p, DeviceFacts const&) {
  std::vector<Tile> tiles(std::begin(tiles_known), std::end(tiles_known));
  std::stable_sort(tiles.begin(), tiles.end(), [&](Tile a, Tile b) { return seconds_with(p, a) < seconds_with(p, b); });
  std::vector<Config> out;
  for (Tile t : tiles) out.push_back(Config{{"tile_m", t.m}, {"tile_n", t.n}});
  return out;
}
std::size_t scratch(ConvProblem const& p, Config const& c) { return scratch_of(p, tile_of(c)); }
double seconds(ConvProblem const& p, DeviceFacts const& facts) { return seconds_with(p, tile_of(configs(p, facts).front())); }

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View memory, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  Tile const tile = tile_of(config);
  Shape3 const s = product_of(p);
  auto const [part, parts] = parts_of(p, tile);
  auto const g = geometry_of(p, part);
  auto const slots = slots_of(p);
  auto const a = pointers_of<float>(args, p.direction != Direction::bwd_filter ? nullptr : parts > 1 ? memory.as<float>() : args.w.as<float>());
  bool aligned = by_four(p);
  for (void const* q : {static_cast<void const*>(a.x), static_cast<void const*>(a.w), static_cast<void const*>(a.y), static_cast<void const*>(a.other), static_cast<void const*>(a.load_x),
                        static_cast<void const*>(a.load_dy)})
    aligned &= reinterpret_cast<std::uintptr_t>(q) % 16 == 0;
  dim3 const grid(unsigned((s.m + tile.m - 1) / tile.m * ((s.n + tile.n - 1) / tile.n)), 1, unsigned(parts));
  auto const with = [&](auto width, auto m, auto n, auto warps_m) {
    if (tile.m != m || tile.n != n || (width == 4) != aligned) return false;
    if (p.direction == Direction::bwd_filter) implicit_gemm_tf32<Direction::bwd_filter, width, m, n, warps_m><<<grid, threads, 0, stream>>>(g, slots, a);
    else if (p.direction == Direction::bwd_data) implicit_gemm_tf32<Direction::bwd_data, width, m, n, warps_m><<<grid, threads, 0, stream>>>(g, slots, a);
    else implicit_gemm_tf32<Direction::fwd, width, m, n, warps_m><<<grid, threads, 0, stream>>>(g, slots, a);
    return true;
  };
  auto const any = [&](auto width) {
    return with(width, number<128>{}, number<128>{}, number<2>{}) || with(width, number<128>{}, number<64>{}, number<4>{}) || with(width, number<64>{}, number<64>{}, number<2>{});
  };
  if (!any(number<4>{}) && !any(number<1>{})) fail(ErrorKind::usage, "implicit_gemm_tf32 has no tile '" + config.text() + "'");
  if (parts > 1) {
    int const elements = int(s.m * s.n);
    add_parts<<<(elements + 31) / 32, dim3(32, 8), 0, stream>>>(a.partial, parts, elements, args.w.as<float>());
  }
  check_launch("conv implicit_gemm_tf32", p, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_implicit_gemm_tf32{
    .name = "implicit_gemm_tf32", .target = DeviceKind::cuda, .reject = reject, .configs = configs, .scratch = scratch, .seconds = seconds, .run = run};

}  // namespace falconet
