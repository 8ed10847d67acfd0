// The products of tile_products.h. A block makes a tile of 64x64, 128x64 or 128x128 by warps of 32x32 each. Slabs of the sum 32 deep are brought into
// shared memory by asynchronous copies, two or three under way while one is multiplied. An operand along the sum lies there as [row][32], its
// vectors of four moved by the row (chunk ^ row % 8) so that matrix loads meet all banks; one across it as [32][tile + 8], where the fragments'
// words do. Factors are cut into high and low when they are in registers. Cost: 6 m n sum operations of TF32 an element; each operand from L2 once
// per tile of the other side. A warp has 24 products for 16 factors to cut and 4 matrix loads.
#include <algorithm>
#include <cmath>
#include <iterator>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/copy_async.cuh"
#include "falconet/device/cuda/tf32.cuh"
#include "falconet/ops/conv/cuda/tile_products.h"

namespace falconet::tile_products {
namespace {

constexpr int depth = 32;

constexpr int stages_of(int warps) { return warps > 8 ? 4 : 3; }
constexpr int words_of(int tile, bool across) { return across ? depth * (tile + 8) : tile * depth; }

// One thread's part in bringing slabs of an operand.
template <int threads, int tile, bool across>
struct Column {
  static constexpr int vectors = (across ? tile : depth) / 4, apart = threads / vectors, count = tile * depth / 4 / threads, line = across ? tile + 8 : depth;
  static_assert(threads % vectors == 0 && (across || apart % 8 == 0));
  float const* from;                   // of the first slab
  std::int64_t step, next;             // floats to the next slab, to the next of its rows
  int to, row, limit;                  // along the sum: rows that exist; across it: whether the column does (then more than any depth)
  FALCONET_DEVICE Column(float const* operand, int t, int first, int size, int row_floats, int begin) {
    int const at = t % vectors;
    row = t / vectors;
    if constexpr (across) {
      from = operand + std::int64_t(begin + row) * row_floats + first + at * 4, step = std::int64_t(depth) * row_floats;
      to = row * line + at * 4, limit = first + at * 4 < size ? 1 << 30 : 0;
    } else {
      from = operand + std::int64_t(first + row) * row_floats + begin + at * 4, step = depth;
      to = row * depth + ((at ^ (row & 7)) * 4), limit = size - first - row, row = at * 4;
    }
    next = std::int64_t(apart) * row_floats;
  }
  FALCONET_DEVICE void bring(float* slab, float const* anywhere, int number, int left) const {   // left: of the sum, from this slab on
    float const* p = from + number * step;
#pragma unroll
    for (int i = 0; i < count; ++i, p += next) {
      bool const in = across ? limit > 0 && row + i * apart < left : row < left && i * apart < limit;
      copy_async<16>(slab + to + i * apart * line, in ? p : anywhere, in);
    }
  }
};

template <int warps_m, int warps_n, bool a_across, bool b_across>
__global__ void __launch_bounds__(32 * warps_m* warps_n, 16 / (warps_m * warps_n)) products(Products const p) {
  constexpr int threads = 32 * warps_m * warps_n, tile_m = 32 * warps_m, tile_n = 32 * warps_n, stages = stages_of(warps_m * warps_n);
  constexpr int a_line = a_across ? tile_m + 8 : depth, b_line = b_across ? tile_n + 8 : depth;
  constexpr int a_words = words_of(tile_m, a_across), words = a_words + words_of(tile_n, b_across);
  extern __shared__ __align__(128) float memory[];         // [stages][words]
  int const t = threadIdx.x, tiles_n = (p.n + tile_n - 1) / tile_n, m0 = blockIdx.x / tiles_n * tile_m, n0 = blockIdx.x % tiles_n * tile_n;
  int const begin = blockIdx.z * p.part, end = p.parts > 1 ? min(p.sum, begin + p.part) : p.sum;
  float const* const a = p.a + blockIdx.y * p.a_element;
  float const* const b = p.b + blockIdx.y * p.b_element;

  // This thread's vectors of a slab: one column of them, rows apart by a constant; what can be known before the first slab is.
  Column<threads, tile_m, a_across> const left_of(a, t, m0, p.m, p.a_row, begin);
  Column<threads, tile_n, b_across> const right_of(b, t, n0, p.n, p.b_row, begin);
  auto const bring = [&](int step) {
    int const k0 = begin + step * depth;
    if (k0 < end) {
      float* const to = memory + step % stages * words;
      left_of.bring(to, a, step, end - k0);
      right_of.bring(to + a_words, b, step, end - k0);
    }
    copy_async_commit();
  };

  int const warp = t / 32, lane = t % 32, group = lane / 4, within = lane % 4;
  int const warp_row = warp % warps_m * 32, warp_column = warp / warps_m * 32;
  float sum[2][4][4] = {};
  int const steps = (end - begin + depth - 1) / depth;
#pragma unroll
  for (int s = 0; s < stages - 1; ++s) bring(s);
  for (int step = 0; step < steps; ++step) {
    copy_async_wait_but<stages - 2>();
    __syncthreads();
    bring(step + stages - 1);
    float const *const left = memory + step % stages * words, *const right = left + a_words;
    float part[2][4][4] = {};
#pragma unroll
    for (int kk = 0; kk < depth / 8; ++kk) {
      std::uint32_t u_high[2][4], u_low[2][4], v_high[4][2], v_low[4][2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        std::uint32_t raw[4];
        if constexpr (!a_across) {
          int const row = warp_row + i * 16 + (lane & 15);
          ptx::load_matrices(raw, ptx::shared_address(left + row * depth + (((kk * 2 + (lane >> 4)) ^ (row & 7)) * 4)));
        } else {
          float const* const from = left + (kk * 8 + within) * a_line + warp_row + i * 16 + group;
          raw[0] = __float_as_uint(from[0]), raw[1] = __float_as_uint(from[8]);
          raw[2] = __float_as_uint(from[4 * a_line]), raw[3] = __float_as_uint(from[4 * a_line + 8]);
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) ptx::cut_in_two(__uint_as_float(raw[e]), u_high[i][e], u_low[i][e]);
      }
#pragma unroll
      for (int j = 0; j < 4; j += 2) {
        std::uint32_t raw[4];
        if constexpr (!b_across) {
          int const row = warp_column + j * 8 + (lane & 7) + (lane >> 4) * 8;
          ptx::load_matrices(raw, ptx::shared_address(right + row * depth + (((kk * 2 + (lane >> 3 & 1)) ^ (row & 7)) * 4)));
        } else {
          float const* const from = right + (kk * 8 + within) * b_line + warp_column + j * 8 + group;
          raw[0] = __float_as_uint(from[0]), raw[1] = __float_as_uint(from[4 * b_line]);
          raw[2] = __float_as_uint(from[8]), raw[3] = __float_as_uint(from[4 * b_line + 8]);
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) ptx::cut_in_two(__uint_as_float(raw[e]), v_high[j + e / 2][e % 2], v_low[j + e / 2][e % 2]);
      }
#pragma unroll
      for (int kind = 0; kind < 3; ++kind)
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j) ptx::mma_tf32(part[i][j], kind == 0 ? u_low[i] : u_high[i], kind == 1 ? v_low[j] : v_high[j]);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[i][j][e] += part[i][j][e];
  }

  float* const to = p.sums + (std::int64_t(blockIdx.z) * p.elements + blockIdx.y) * p.sums_element;
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int upper = 0; upper < 2; ++upper) {
      int const m = m0 + warp_row + i * 16 + group + upper * 8;
      if (m >= p.m) continue;
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (int const n = n0 + warp_column + j * 8 + within * 2; n < p.n)   // an even n: rows hold one more
          *reinterpret_cast<float2*>(to + std::int64_t(m) * p.sums_row + n) = make_float2(sum[i][j][upper * 2], sum[i][j][upper * 2 + 1]);
    }
}

template <int warps_m, int warps_n>
void launch(Products const& p, cudaStream_t stream) {
  constexpr int tile_m = 32 * warps_m, tile_n = 32 * warps_n, warps = warps_m * warps_n;
  auto const with = [&](auto kernel) {
    int const bytes = 4 * stages_of(warps) * (words_of(tile_m, p.a_across) + words_of(tile_n, p.b_across));
    static_assert(4 * stages_of(warps) * (words_of(tile_m, true) + words_of(tile_n, true)) <= most_shared);
    allow_shared_memory(kernel, bytes);
    dim3 const grid(unsigned((p.m + tile_m - 1) / tile_m * ((p.n + tile_n - 1) / tile_n)), unsigned(p.elements), unsigned(p.parts));
    kernel<<<grid, 32 * warps, bytes, stream>>>(p);
  };
  if (p.a_across) with(products<warps_m, warps_n, true, true>);
  else if (p.b_across) with(products<warps_m, warps_n, false, true>);
  else with(products<warps_m, warps_n, false, false>);
}

// 16 warps fill a multiprocessor; its rate is as measured in winograd's layers (docs/adr/0117), operands across the sum cost more loads.
double seconds_with(Tile t, std::int64_t m, std::int64_t n, std::int64_t sum, int elements, int parts, bool across) {
  double const blocks = std::ceil(double(m) / t.m) * std::ceil(double(n) / t.n) * elements * parts, together = 16384.0 / (t.m * t.n),
               at_once = 132 * together;
  double const rate = (t.m * t.n >= 16384 ? 0.235e12 : t.m * t.n >= 8192 ? 0.26e12 : 0.28e12) * (across ? 0.9 : 1);   // multiply-adds
  double const each = double(t.m) * t.n * (std::ceil(double(sum) / parts / depth) * depth + 24) * together / rate;
  return std::max(blocks / at_once, 1.0) * each * 0.7 + std::ceil(blocks / at_once) * each * 0.3;
}
constexpr Tile tiles_known[] = {{128, 128}, {128, 64}, {64, 64}};

}  // namespace

Tile tile_for(std::int64_t m, std::int64_t n, std::int64_t sum, int elements, int parts, bool across) {
  return *std::min_element(std::begin(tiles_known), std::end(tiles_known), [&](Tile a, Tile b) {
    return seconds_with(a, m, n, sum, elements, parts, across) < seconds_with(b, m, n, sum, elements, parts, across);
  });
}
double seconds(std::int64_t m, std::int64_t n, std::int64_t sum, int elements, int parts, bool across) {
  return seconds_with(tile_for(m, n, sum, elements, parts, across), m, n, sum, elements, parts, across);
}
int parts_for(std::int64_t m, std::int64_t n, std::int64_t sum, int elements) {
  int best = 1;
  double least = 1e30;
  for (int parts = 1; parts <= 64 && (parts == 1 || sum / parts >= 4 * depth); ++parts) {
    double const s = seconds(m, n, sum, elements, parts, true) + parts * (8.0 * double(m) * double(n) * elements / 3e12 + 0.8e-6);
    if (s < 0.97 * least) least = s, best = parts;
  }
  return best;
}
void multiply(Products const& p, cudaStream_t stream) {
  Tile const t = p.tile.m ? p.tile : tile_for(p.m, p.n, p.sum, p.elements, p.parts, p.b_across);
  if (t.n == 128) launch<4, 4>(p, stream);
  else if (t.m == 128) launch<4, 2>(p, stream);
  else launch<2, 2>(p, stream);
}

}  // namespace falconet::tile_products
