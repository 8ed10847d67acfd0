// Winograd's transforms and products in one kernel: a block makes 32 tiles by 64 (m = 2) or 32 (m = 4) filters and keeps the sums of all a^2
// elements of the domain in registers, a warp those of 32 tiles by 32 filters of one or three elements. The channels pass 8 at a time:
//   the pixels of the tiles -> shared memory (asynchronous copies, two slabs ahead) -> B^T x B -> shared memory, as fragments of A
//   the filter of the slab, already transformed and laid as fragments of B -> shared memory (one slab ahead)
//   products of the slab before, three TF32 ones for each of f32 (tile_products.h)
// with one barrier a slab: while some warps transform the next slab, others multiply. Then the sums go through shared memory to A^T s A and the
// store slots. No transformed tile meets memory; the tensor cores' sums run over all channels (so at most 64: their last bits are cut off).
// Bytes of a slab from L2: 8 a^2 (32 + 64 | 32) * 4: 49 KB (m = 2) or 74 KB (m = 4) for 262,144 or 294,912 multiply-adds.
#include <algorithm>
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/copy_async.cuh"
#include "falconet/device/cuda/tf32.cuh"
#include "falconet/ops/conv/cuda/winograd_fused.h"

namespace falconet::winograd {
namespace {

constexpr int depth = 8, tiles_each = 32, raw_words = tiles_each * depth;   // of one pixel

template <int m>
struct Shape {
  static constexpr int a = m + 2, domain = a * a, halves = m == 2 ? 2 : 1, filters = 32 * halves, elements = m == 2 ? 1 : 3,
                       warps = domain / elements, threads = 32 * warps;
  static constexpr int raw = domain * raw_words, left = domain * raw_words, right = domain * filters * depth;   // words of a slab
  static constexpr int line = filters + 8;                                                                     // of sums
  static constexpr int words = 2 * (raw + left + right) > domain * tiles_each * line ? 2 * (raw + left + right) : domain * tiles_each * line;
};

// Eight channels of a tile lie together; tiles t and t + 8 are neighbours, so that the stores of fragments meet all banks.
FALCONET_DEVICE int tile_of_slot(int slot) { return (slot & 1) | (slot & 2) << 2 | (slot & 12) >> 1 | (slot & 16); }

template <int m, bool plain>
__global__ void __launch_bounds__(Shape<m>::threads, 1)
    winograd_fused(Source const s, Result const r, Tiles const tiles, float const* filters, int blocks_k, int slabs) {
  using S = Shape<m>;
  constexpr int a = S::a, copies = S::domain * raw_words / 4 / S::threads;
  static_assert(S::domain * raw_words / 4 % S::threads == 0);
  extern __shared__ __align__(16) float memory[];
  float *const raw = memory, *const left = raw + 2 * S::raw, *const right = left + 2 * S::left;
  int const t = threadIdx.x, warp = t / 32, lane = t % 32, block_k = blockIdx.x % blocks_k, first_tile = blockIdx.x / blocks_k * tiles_each;
  int const channels = s.map.channels;

  int from[copies];                      // of this thread's vectors of pixels; -1 outside
#pragma unroll
  for (int i = 0; i < copies; ++i) {
    int const item = t + i * S::threads, pixel = item / (raw_words / 4), slot = item % (raw_words / 4) / 2, tile = first_tile + tile_of_slot(slot);
    Place const p = place_in(tiles, min(tile, tiles.all - 1));
    int const row = p.row - tiles.pad_top + pixel / a, column = p.column - tiles.pad_left + pixel % a;
    bool const in = tile < tiles.all && unsigned(row) < unsigned(s.map.height) && unsigned(column) < unsigned(s.map.width);
    from[i] = in ? ((p.n * s.map.height + row) * s.map.width + column) * channels + item % 2 * 4 : -1;
  }
  auto const bring_pixels = [&](int slab) {
    if (slab >= slabs) return;
#pragma unroll
    for (int i = 0; i < copies; ++i) {
      bool const in = from[i] >= 0 && slab * depth + t % 2 * 4 < channels;
      copy_async<16>(raw + (slab & 1) * S::raw + (t + i * S::threads) * 4, s.data + (in ? from[i] + slab * depth : 0), in);
    }
  };
  auto const bring_filters = [&](int slab) {
    if (slab >= slabs) return;
    float const* const begin = filters + (std::int64_t(block_k) * slabs + slab) * S::right;
    static_assert(S::right / 4 % S::threads == 0);
#pragma unroll
    for (int i = 0; i < S::right / 4 / S::threads; ++i) {
      int const at = (t + i * S::threads) * 4;
      copy_async<16>(right + (slab & 1) * S::right + at, begin + at, true);
    }
  };
  // The tile and channel that this thread transforms.
  int const c = t & 7, my_tile = tile_of_slot(t >> 3 & 31);
  int const to = ((my_tile >> 4) * 32 + (my_tile & 7) * 4 + (c & 3)) * 4 + (my_tile >> 3 & 1) + 2 * (c >> 2);
  Place place{};
  if (!plain) place = place_in(tiles, min(first_tile + my_tile, tiles.all - 1));
  auto const transform_slab = [&](int slab) {
    if (slab >= slabs) return;
    float const* const x = raw + (slab & 1) * S::raw + t;
    float* const v = left + (slab & 1) * S::left + to;
    float scale = 1, shift = 0;
    if constexpr (!plain) {
      int const channel = slab * depth + c;
      if (s.affine != Affine::none && channel < channels) scale = s.vectors[channel], shift = s.vectors[channels + channel];
    }
    float half[a][a];
#pragma unroll
    for (int j = 0; j < a; ++j) {
      float column[a], done[a];
#pragma unroll
      for (int i = 0; i < a; ++i) {
        column[i] = x[(i * a + j) * raw_words];
        if constexpr (!plain) {          // padding is zero after the slot
          bool const in =
              unsigned(place.row - tiles.pad_top + i) < unsigned(s.map.height) && unsigned(place.column - tiles.pad_left + j) < unsigned(s.map.width);
          column[i] = in ? clip(s.act, s.affine != Affine::none ? scale * column[i] + shift : column[i]) : 0;
        }
      }
      Matrices<m>::Input::apply(column, done);
#pragma unroll
      for (int i = 0; i < a; ++i) half[i][j] = done[i];
    }
#pragma unroll
    for (int i = 0; i < a; ++i) {
      float row[a];
      Matrices<m>::Input::apply(half[i], row);
#pragma unroll
      for (int j = 0; j < a; ++j) v[(i * a + j) * raw_words] = row[j];
    }
  };
  float sum[S::elements][S::halves][2][4][4] = {};
  auto const multiply = [&](int slab) {
#pragma unroll
    for (int e = 0; e < S::elements; ++e) {
      int const element = warp * S::elements + e;
      float4 const* const u_from = reinterpret_cast<float4 const*>(left + (slab & 1) * S::left) + element * 64 + lane;
      float4 const* const v_from = reinterpret_cast<float4 const*>(right + (slab & 1) * S::right) + element * (2 * S::halves * 32) + lane;
      std::uint32_t u_high[2][4], u_low[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float4 const u = u_from[i * 32];
        ptx::cut_in_two(u.x, u_high[i][0], u_low[i][0]), ptx::cut_in_two(u.y, u_high[i][1], u_low[i][1]),
            ptx::cut_in_two(u.z, u_high[i][2], u_low[i][2]), ptx::cut_in_two(u.w, u_high[i][3], u_low[i][3]);
      }
#pragma unroll
      for (int h = 0; h < S::halves; ++h) {
        std::uint32_t v_high[4][2], v_low[4][2];
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          float4 const v = v_from[(h * 2 + j) * 32];
          ptx::cut_in_two(v.x, v_high[2 * j][0], v_low[2 * j][0]), ptx::cut_in_two(v.y, v_high[2 * j][1], v_low[2 * j][1]);
          ptx::cut_in_two(v.z, v_high[2 * j + 1][0], v_low[2 * j + 1][0]), ptx::cut_in_two(v.w, v_high[2 * j + 1][1], v_low[2 * j + 1][1]);
        }
#pragma unroll
        for (int kind = 0; kind < 3; ++kind)
#pragma unroll
          for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) ptx::mma_tf32(sum[e][h][i][j], kind == 0 ? u_low[i] : u_high[i], kind == 1 ? v_low[j] : v_high[j]);
      }
    }
  };

  bring_pixels(0);
  copy_async_commit();
  bring_filters(0);
  bring_pixels(1);
  copy_async_commit();
  copy_async_wait_but<1>();
  __syncthreads();
  if (t < raw_words) transform_slab(0);
  for (int slab = 0; slab < slabs; ++slab) {
    copy_async_wait();
    __syncthreads();
    bring_filters(slab + 1);
    bring_pixels(slab + 2);
    if (warp < 4) transform_slab(slab + 1);
    multiply(slab);
    if (warp >= 4 && t < raw_words) transform_slab(slab + 1);
  }
  __syncthreads();

  int const group = lane / 4, within = lane % 4;
#pragma unroll
  for (int e = 0; e < S::elements; ++e)
#pragma unroll
    for (int h = 0; h < S::halves; ++h)
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          float* const at = memory + ((warp * S::elements + e) * tiles_each + i * 16 + group) * S::line + h * 32 + j * 8 + within * 2;
          *reinterpret_cast<float2*>(at) = make_float2(sum[e][h][i][j][0], sum[e][h][i][j][1]);
          *reinterpret_cast<float2*>(at + 8 * S::line) = make_float2(sum[e][h][i][j][2], sum[e][h][i][j][3]);
        }
  __syncthreads();
  for (int item = t; item < tiles_each * S::filters; item += S::threads) {
    int const tile = item / S::filters, n = item % S::filters, k = block_k * S::filters + n;
    if (first_tile + tile >= tiles.all || k >= r.channels) continue;
    float sums[a][a], y[m][m];
#pragma unroll
    for (int e = 0; e < S::domain; ++e) sums[e / a][e % a] = memory[(e * tiles_each + tile) * S::line + n];
    transform<typename Matrices<m>::Output>(sums, y);
    store_tile<m>(r, place_in(tiles, first_tile + tile), k, y);
  }
}

// The filter in the domain as [block of filters][slab][element][16 filters][lane][4]: fragments of B, two neighbouring ones as one vector.
template <int m>
__global__ void __launch_bounds__(256)
    transform_filter(float const* w, int c, int k, bool data, int padded_in, FastDivide by_quick, int all, float* to) {
  using S = Shape<m>;
  int const index = blockIdx.x * 256 + threadIdx.x;
  if (index >= all) return;
  int quick;                             // runs along w's channels
  int const slow = by_quick(index, quick), in = data ? slow : quick, out = data ? quick : slow, ins = data ? k : c, outs = data ? c : k;
  float g[3][3], u[S::a][S::a];
#pragma unroll
  for (int tap = 0; tap < 9; ++tap) {
    bool const exists = in < ins && out < outs;
    float const v = exists ? __ldg(w + (std::int64_t(data ? in : out) * 9 + (data ? 8 - tap : tap)) * c + quick) : 0;
    g[tap / 3][tap % 3] = v;
  }
  transform<typename Matrices<m>::Filter>(g, u);
  int const slabs = padded_in / depth, block = out / S::filters, n = out % S::filters, slab = in / depth, d = in % depth;
  float* const at = to + (std::int64_t(block) * slabs + slab) * S::right + ((n / 16) * 32 + (n % 8) * 4 + d % 4) * 4 + (n >> 3 & 1) * 2 + (d >> 2);
#pragma unroll
  for (int e = 0; e < S::domain; ++e) at[e * S::filters * depth] = u[e / S::a][e % S::a];
}

int rounded(int v, int to) { return (v + to - 1) / to * to; }

template <int m>
void launch(Source const& s, Result const& r, Tiles const& tiles, float const* filters, cudaStream_t stream) {
  using S = Shape<m>;
  auto const kernel = s.plain() ? winograd_fused<m, true> : winograd_fused<m, false>;
  allow_shared_memory(kernel, S::words * 4);
  int const blocks_k = (r.channels + S::filters - 1) / S::filters, blocks = (tiles.all + tiles_each - 1) / tiles_each * blocks_k;
  kernel<<<unsigned(blocks), S::threads, S::words * 4, stream>>>(s, r, tiles, filters, blocks_k, (s.map.channels + depth - 1) / depth);
}

template <int m>
void launch_filter(float const* w, int c, int k, bool data, float* to, cudaStream_t stream) {
  int const in = rounded(data ? k : c, depth), out = rounded(data ? c : k, Shape<m>::filters), all = in * out;
  transform_filter<m><<<(all + 255) / 256, 256, 0, stream>>>(w, c, k, data, in, FastDivide(data ? out : in), all, to);
}

}  // namespace

std::size_t fused_filter_floats(int m, int in, int out) {
  return std::size_t((m + 2) * (m + 2)) * rounded(in, depth) * rounded(out, m == 2 ? 64 : 32);
}
int fused_shared_bytes(int m) { return 4 * (m == 4 ? Shape<4>::words : Shape<2>::words); }
double fused_seconds(int m, std::int64_t tiles, int in, int out) {
  double const blocks = std::ceil(double(tiles) / tiles_each) * std::ceil(out / (m == 2 ? 64.0 : 32.0)), slabs = std::ceil(in / double(depth));
  return std::ceil(blocks / 132) * (m == 2 ? slabs * 1.6e-6 + 4.9e-6 : slabs * 2.35e-6 + 8.5e-6);
}
void transform_filter_fused(int m, float const* w, int c, int k, bool data, float* to, cudaStream_t stream) {
  if (m == 4) launch_filter<4>(w, c, k, data, to, stream);
  else launch_filter<2>(w, c, k, data, to, stream);
}
void run_fused(int m, Source const& s, Result const& r, Tiles const& tiles, float const* filters, cudaStream_t stream) {
  if (m == 4) launch<4>(s, r, tiles, filters, stream);
  else launch<2>(s, r, tiles, filters, stream);
}

}  // namespace falconet::winograd
