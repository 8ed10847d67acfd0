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

  auto const fetch = [&](float* to, float const* from, bool across, int tile, int line, int first, int size, int row_floats, int k0) {
    if (!across) {
      for (int i = t; i < tile * (depth / 4); i += threads) {
        int const row = i / (depth / 4), chunk = i % (depth / 4), k = k0 + chunk * 4;
        bool const in = first + row < size && k < end;
        copy_async<16>(to + row * depth + ((chunk ^ (row & 7)) * 4), from + (in ? std::int64_t(first + row) * row_floats + k : 0), in);
      }
    } else {
      for (int i = t; i < depth * (tile / 4); i += threads) {
        int const row = i / (tile / 4), at = i % (tile / 4) * 4, k = k0 + row;
        bool const in = first + at < size && k < end;
        copy_async<16>(to + row * line + at, from + (in ? std::int64_t(k) * row_floats + first + at : 0), in);
      }
    }
  };
  auto const bring = [&](int step) {
    int const k0 = begin + step * depth;
    if (k0 < end) {
      float* const to = memory + step % stages * words;
      fetch(to, a, a_across, tile_m, a_line, m0, p.m, p.a_row, k0);
      fetch(to + a_words, b, b_across, tile_n, b_line, n0, p.n, p.b_row, k0);
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
  double const rate = (t.m * t.n >= 16384 ? 0.19e12 : t.m * t.n >= 8192 ? 0.205e12 : 0.215e12) * (across ? 0.9 : 1);   // multiply-adds
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
