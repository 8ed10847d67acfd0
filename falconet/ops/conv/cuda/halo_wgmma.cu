// 3x3 convolutions of 64 input channels, stride 1, padding 1, in bf16 on Hopper's tensor cores, channels-last. im2col would fetch every
// input pixel nine times from L2, which bounds these layers; here a tile of the input stays in shared memory with its halo, and the nine
// taps read it at shifted addresses: a tile whose rows are 58 pixels apart turns tap (r, s) into a shift by 58 r + s rows of 128 bytes.
//   forward, data gradient: channels by pixels, result[k][i*58 + j] = sum over taps, c of filter[tap][k][c] * tile[i*58 + j + 58 r + s][c].
//     A tile is 8 x 56 pixels (two warpgroups of 4 rows, m64n232 with 2 unused columns per row); the filter stays in shared memory for the
//     whole launch; the result is staged where the input tile was. The data gradient reads the filter M/N-major with its taps reversed.
//     More than 64 filters forward are parts of 64, each block's its own.
//   filter gradient: dw[k][tap][c] = sum over pixels of dy[pixel][k] * x[pixel + tap][c]: tiles of 4 x 56 pixels, dy padded with zeros to rows
//     of 58; three warpgroups, one per filter row; a block sums over all its tiles, the blocks' sums are added in order.
// Limits: 64 channels both ways; forward without statistics any multiple of 64 filters. Images whose width is no multiple of 56 or whose height
// is no multiple of 8 waste the rest of a tile.
// Cost: 2*9*64*64 operations per pixel of the tiles; bytes: x and y once (the halo from L2).
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/device/cuda/tensor_map.h"
#include "falconet/device/cuda/wgmma.cuh"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/halo_pool.cuh"
#include "falconet/ops/conv/cuda/slice_sums.cuh"

namespace falconet {
namespace {

constexpr int most_blocks = 132;   // multiprocessors of the H100 and H200; fixed, so that results do not depend on the card
constexpr int width = 56, pitch = width + 2;             // columns of a tile, and of its halo
constexpr int filter_bytes = 9 * 8192;

enum class Ending {
  store,      // nothing
  pointwise,  // scale and shift per channel, residual, clamp
  pooled,     // scale and shift per channel, clamp, the maximum of 2x2 pixels and which of them it is
  squares,    // channel sums of v and v*v
  gradient,   // residual, mask, channel sums of v*m or v*o and v
};

struct Work {
  CUtensorMap in, filter, out, residual, mask, other;   // other: the last of the tensors that are read beside
  CUtensorMap winner;                    // of pooled results, two to an element
  int n = 0, h = 0, w = 0, tile_rows = 0, tile_columns = 0, tiles = 0;
  int parts = 1;                         // of 64 channels of the result
  float const *affine = nullptr, *bias = nullptr;
  bool residual_first = false, mask_first = false;      // read and applied before the last one
  bool has_residual = false, has_mask = false, masked = false, has_stats = false, clamp = false;   // of the last one
  float highest = 0;
  StepState const* step = nullptr;
  float* partial = nullptr;              // [blocks][2][2][64]
};

// ---------------------------------------------------------------- forward and data gradient

constexpr int rows_of_tile = 8, slot_bytes = 73 * 1024;   // (8+2) * 58 pixels of 128 bytes, and the two rows that unused columns reach
constexpr int halo_shared = filter_bytes + 2 * slot_bytes + 1024;

template <bool gradient, Ending ending>
__global__ void __launch_bounds__(384, 1) halo(const __grid_constant__ Work work) {
  using namespace ptx;
  if (lacks_hopper()) return;
  extern __shared__ __align__(1024) char dynamic[];
  __shared__ std::uint64_t full[2], empty[2], filter_full, other_full[2];
  __shared__ __align__(16) char unused[256];   // where the unused columns are stored
  std::uint32_t const base = (shared_address(dynamic) + 1023) & ~1023u, slots = base + filter_bytes;
  int const group = threadIdx.x / 128;
  if (threadIdx.x < 64) reinterpret_cast<float*>(unused)[threadIdx.x] = 0;
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) barrier_init(shared_address(full + i), 1), barrier_init(shared_address(empty + i), 2), barrier_init(shared_address(other_full + i), 1);
    barrier_init(shared_address(&filter_full), 1);
    barrier_init_done();
    prefetch_map(&work.in);
    prefetch_map(&work.out);
  }
  __syncthreads();
  wait_for_work_ahead();

  int const tiles_of_image = work.tile_rows * work.tile_columns;
  int const first_tile = blockIdx.x / work.parts, tile_step = gridDim.x / work.parts, first_channel = blockIdx.x % work.parts * 64;
  if (group == 0) {
    give_registers<40>();
    if (threadIdx.x == 0) {
      barrier_expect(shared_address(&filter_full), filter_bytes);
      for (int tap = 0; tap < 9; ++tap) load_3d(base + tap * 8192, &work.filter, 0, tap, first_channel, shared_address(&filter_full));   // [64 k][64 c]
      int slot = 0, phase = 1;
      for (int tile = first_tile; tile < work.tiles; tile += tile_step) {
        int const n = tile / tiles_of_image, in_image = tile - n * tiles_of_image, row = in_image / work.tile_columns, column = in_image - row * work.tile_columns;
        barrier_wait(shared_address(empty + slot), phase);
        barrier_expect(shared_address(full + slot), (rows_of_tile + 2) * pitch * 128);
        load_4d(slots + slot * slot_bytes, &work.in, 0, column * width - 1, row * rows_of_tile - 1, n, shared_address(full + slot));
        slot ^= 1;
        phase ^= slot == 0;
      }
    }
    return;
  }

  take_registers<232>();
  int const me = group - 1, thread = threadIdx.x & 127, warp = thread / 32, lane = thread % 32;
  bool const leader = thread == 0;
  float d[116];
  // This lane's channels: 16 warp + lane/4 and 8 more. first: sum of v (squares) or of v*m (dot); second: of v*v or of v.
  int const channel = 16 * warp + lane / 4;
  float first[2] = {0, 0}, second[2] = {0, 0}, scale[2] = {1, 1}, shift[2] = {0, 0};
  if constexpr (ending == Ending::pointwise || ending == Ending::pooled)
    for (int i = 0; i < 2; ++i) {
      int const c = first_channel + channel + 8 * i;
      if (work.affine) scale[i] = work.affine[c], shift[i] = work.affine[64 * work.parts + c];
      if (work.bias) shift[i] += work.bias[c];
    }
  int const valid_images = (ending == Ending::squares || ending == Ending::gradient) && work.has_stats ? work.step->valid_count : 0;
  std::uint32_t const nowhere = shared_address(unused) + (lane & 15) * 16;
  barrier_wait(shared_address(&filter_full), 0);
  int slot = 0, phase = 0, previous = -1, other_phase = 0;
  for (int tile = first_tile; tile < work.tiles; tile += tile_step) {
    int const n = tile / tiles_of_image, in_image = tile - n * tiles_of_image, tile_row = in_image / work.tile_columns;
    int const column = (in_image - tile_row * work.tile_columns) * width, row = tile_row * rows_of_tile + 4 * me;
    barrier_wait(shared_address(full + slot), phase);
    std::uint32_t const in = slots + slot * slot_bytes;
    hold(d);
    wgmma_fence();
#pragma unroll
    for (int r = 0; r < 3; ++r)
#pragma unroll
      for (int s = 0; s < 3; ++s) {
        int const tap = gradient ? 8 - (r * 3 + s) : r * 3 + s;
        std::uint64_t const a = gradient ? mn_major_operand(base + tap * 8192, 8192) : k_major_operand(base + tap * 8192);
        std::uint64_t const b = k_major_operand(in + ((me * 4 + r) * pitch + s) * 128);
#pragma unroll
        for (int kk = 0; kk < 4; ++kk)
          wgmma<gradient, 0>(d, a + kk * (gradient ? mn_major_step : k_major_step), b + kk * k_major_step, (r | s | kk) != 0);
      }
    wgmma_commit();
    if (previous >= 0 && leader) {   // the last tile's result has left its slot
      store_wait_read<0>();
      barrier_arrive(shared_address(empty + previous));
    }
    wgmma_wait<0>();
    hold(d);

    // The result goes where only this warpgroup has read: rows 0.. of the slot for the first, rows 352.. for the second.
    std::uint32_t const staging = in + me * 352 * 128;
    if constexpr (ending == Ending::pooled) {
      named_sync(1 + me, 128);   // all four warps have read what was there
      pool_halo<width>(d, scale, shift, work.clamp, staging, warp, lane);
      fence_async_shared();
      named_sync(1 + me, 128);
      if (leader) {
        store_4d(&work.out, first_channel, column / 2, row / 2, n, staging);
        store_4d(&work.winner, first_channel / 2, column / 2, row / 2, n, staging + pooled_bytes<width>);
        store_commit();
      }
      previous = slot;
      slot ^= 1;
      phase ^= slot == 0;
      continue;
    }
    // Of the 16 pixels from 8j on (matrices: pixels 8j.. and 8j+8.., each for channels 16 warp.. and 8 more), where this lane's row lies.
    int const half = 2 * warp + (lane >> 3 & 1);
    auto const row_at = [&](int j) {
      int const at = 8 * j + 8 * (lane >> 4) + (lane & 7), i = at / pitch, q = at - i * pitch;
      return q < width && at < 4 * pitch ? staging + swizzled(i * width + q, half) : nowhere;
    };
    if constexpr (ending == Ending::pointwise || ending == Ending::gradient) {
      auto const fetch = [&](CUtensorMap const* map) {
        named_sync(1 + me, 128);   // all four warps have read what was there
        if (leader) {
          barrier_expect(shared_address(other_full + me), 4 * width * 128);
          load_4d(staging, map, first_channel, column, row, n, shared_address(other_full + me));
        }
        barrier_wait(shared_address(other_full + me), other_phase);
        other_phase ^= 1;
      };
      if constexpr (ending == Ending::gradient) {
        auto const apply = [&](auto residual) {
#pragma unroll
          for (int j = 0; j < 29; j += 2) {
            std::uint32_t beside[4];
            load_matrices_transposed(beside, row_at(j));
#pragma unroll
            for (int e = 0; e < (j + 1 < 29 ? 4 : 2); ++e) {
              float &low = d[4 * j + 2 * e], &high = d[4 * j + 2 * e + 1];
              if constexpr (decltype(residual)::value) {
                low += low_bf16(beside[e]), high += high_bf16(beside[e]);
              } else {
                low = low_bf16(beside[e]) > 0 ? low : 0.f, high = high_bf16(beside[e]) > 0 ? high : 0.f;
              }
            }
          }
        };
        if (work.residual_first) fetch(&work.residual), apply(std::true_type{});
        if (work.mask_first) fetch(&work.mask), apply(std::false_type{});
      }
      if (work.has_residual || work.has_mask) fetch(&work.other);
    }
    int const columns_left = work.w - column, rows_left = work.h - row;
    bool const counts = n < valid_images;
    auto const finish = [&](auto whole_tile) {
      [[maybe_unused]] constexpr bool whole = decltype(whole_tile)::value;
#pragma unroll
      for (int j = 0; j < 29; j += 2) {
        std::uint32_t const address = row_at(j);
        float* const v = d + 4 * j;
        int const values = j + 1 < 29 ? 8 : 4;
        [[maybe_unused]] std::uint32_t other[4] = {0, 0, 0, 0};
        if constexpr (ending == Ending::pointwise || ending == Ending::gradient)
          if (work.has_residual || work.has_mask) load_matrices_transposed(other, address);
        if constexpr (ending == Ending::pointwise) {
#pragma unroll
          for (int e = 0; e < values; ++e) v[e] = v[e] * scale[e >> 1 & 1] + shift[e >> 1 & 1];
        }
        if constexpr (ending == Ending::pointwise || ending == Ending::gradient) {
          if (work.has_residual) {
#pragma unroll
            for (int e = 0; e < values / 2; ++e) v[2 * e] += low_bf16(other[e]), v[2 * e + 1] += high_bf16(other[e]);
          }
        }
        if constexpr (ending == Ending::pointwise) {
          if (work.clamp) {
#pragma unroll
            for (int e = 0; e < values; ++e) v[e] = fminf(fmaxf(v[e], 0.f), work.highest);
          }
        }
        std::uint32_t packed[4] = {0, 0, 0, 0};
#pragma unroll
        for (int e = 0; e < values / 2; ++e) packed[e] = pack_bf16(v[2 * e], v[2 * e + 1]);
        if constexpr (ending == Ending::gradient) {
          if (work.masked) {
#pragma unroll
            for (int e = 0; e < values / 2; ++e)
              packed[e] &= (low_bf16(other[e]) > 0 ? 0xffffu : 0u) | (high_bf16(other[e]) > 0 ? 0xffff0000u : 0u);
          }
        }
        if constexpr (ending == Ending::squares || ending == Ending::gradient) {
          if (counts) {
#pragma unroll
            for (int e = 0; e < values / 2; ++e) {   // e & 1: the upper eight channels; e >> 1: the later eight pixels
              int const here = 8 * (j + (e >> 1)) + 2 * (lane & 3), from = here / pitch, column_here = here - from * pitch;
              bool one = true, both = true;   // which of the two pixels exist
              if constexpr (!whole) {
                one = from < rows_left && column_here < min(columns_left, width);
                both = one && column_here + 1 < columns_left;
              } else if (8 * (j + (e >> 1)) % pitch + 7 >= width) {
                one = both = column_here < width;
              }
              float const low = one ? low_bf16(packed[e]) : 0, high = both ? high_bf16(packed[e]) : 0;
              if constexpr (ending == Ending::squares) {
                first[e & 1] += low + high;
                second[e & 1] = fmaf(low, low, fmaf(high, high, second[e & 1]));
              } else {
                float const low_other = one ? low_bf16(other[e]) : 0, high_other = both ? high_bf16(other[e]) : 0;
                first[e & 1] = fmaf(low, low_other, fmaf(high, high_other, first[e & 1]));
                second[e & 1] += low + high;
              }
            }
          }
        }
        if (j + 1 < 29) store_matrices_transposed(address, packed);
        else store_two_matrices_transposed(address, packed[0], packed[1]);
      }
    };
    if (columns_left >= width && rows_left >= 4) finish(std::true_type{});
    else finish(std::false_type{});
    fence_async_shared();
    named_sync(1 + me, 128);
    if (leader) {
      store_4d(&work.out, first_channel, column, row, n, staging);
      store_commit();
    }
    previous = slot;
    slot ^= 1;
    phase ^= slot == 0;
  }
  if (leader) store_wait();
  if constexpr (ending == Ending::squares || ending == Ending::gradient) {
    if (work.has_stats) {
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int step = 1; step < 4; step *= 2) {
          first[i] += __shfl_xor_sync(~0u, first[i], step);
          second[i] += __shfl_xor_sync(~0u, second[i], step);
        }
      float* const out = work.partial + (blockIdx.x * 2 + me) * 128;
      if ((lane & 3) == 0)
        for (int i = 0; i < 2; ++i) out[channel + 8 * i] = first[i], out[64 + channel + 8 * i] = second[i];
    }
  }
}

// sums[i] = the sum of partial[p][i] over p; a warp per element, lanes and then their sums in a fixed order.
__global__ void __launch_bounds__(256) sum_rows(float const* partial, int rows, int elements, float* sums) {
  int const element = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
  wait_for_work_ahead();
  if (element >= elements) return;
  double sum = 0;
  for (int i = lane; i < rows; i += 32) sum += partial[std::int64_t(i) * elements + element];
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  if (lane == 0) sums[element] = float(sum);
}

// ---------------------------------------------------------------- filter gradient

constexpr int dy_bytes = 30 * 1024, x_bytes = 45 * 1024, stages = 3;   // 240 and 360 pixels of 128 bytes
constexpr int filter_shared = stages * (dy_bytes + x_bytes) + 1024;

struct FilterWork {
  CUtensorMap dy, x;
  int tile_rows = 0, tile_columns = 0, tiles = 0;
  float *partial = nullptr, *bias_partial = nullptr;   // [blocks][64 k][9][64 c], [blocks][3][64 k]
};

// bias: the filter rows' warpgroups take the tiles in turn and sum dy.
template <bool bias>
__global__ void __launch_bounds__(512, 1) halo_filter(const __grid_constant__ FilterWork work) {
  using namespace ptx;
  if (lacks_hopper()) return;
  extern __shared__ __align__(1024) char dynamic[];
  __shared__ std::uint64_t full[stages], empty[stages];
  std::uint32_t const base = (shared_address(dynamic) + 1023) & ~1023u;
  char* const memory = dynamic + (base - shared_address(dynamic));
  int const group = threadIdx.x / 128;
  // What the copies never write must be zero: dy's pixels 232..239, and x's pixels 348..359, which meet them.
  for (int i = threadIdx.x; i < stages * 160; i += 512) {
    int const stage = i / 160, chunk = i % 160;
    char* const slot = memory + stage * (dy_bytes + x_bytes);
    *reinterpret_cast<uint4*>(chunk < 64 ? slot + 232 * 128 + chunk * 16 : slot + dy_bytes + 348 * 128 + (chunk - 64) * 16) = make_uint4(0, 0, 0, 0);
  }
  fence_async_shared();
  if (threadIdx.x == 0) {
    for (int i = 0; i < stages; ++i) barrier_init(shared_address(full + i), 1), barrier_init(shared_address(empty + i), bias ? 12 : 3);
    barrier_init_done();
    prefetch_map(&work.dy);
    prefetch_map(&work.x);
  }
  __syncthreads();
  wait_for_work_ahead();
  int const tiles_of_image = work.tile_rows * work.tile_columns;
  if (group == 0) {
    give_registers<32>();
    if (threadIdx.x == 0) {
      int stage = 0, phase = 1;
      for (int tile = blockIdx.x; tile < work.tiles; tile += gridDim.x) {
        int const n = tile / tiles_of_image, in_image = tile - n * tiles_of_image, row = in_image / work.tile_columns, column = in_image - row * work.tile_columns;
        barrier_wait(shared_address(empty + stage), phase);
        std::uint32_t const ready = shared_address(full + stage), to = base + stage * (dy_bytes + x_bytes);
        barrier_expect(ready, (4 + 6) * pitch * 128);
        FALCONET_HOPPER_ASM("cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5, %6}], [%7];" ::"r"(to), "l"(&work.dy),
                     "r"(0), "r"(0), "r"(column), "r"(row * 4), "r"(n), "r"(ready)
                     : "memory");
        load_4d(to + dy_bytes, &work.x, 0, column * width - 1, row * 4 - 1, n, ready);
        if (++stage == stages) stage = 0, phase ^= 1;
      }
    }
    return;
  }
  take_registers<160>();
  int const r = group - 1, thread = threadIdx.x & 127;
  bool const releases = bias ? thread % 32 == 0 : thread == 0;   // for the bias each warp reads a stage itself and says when it has
  float d[3][32], bias_sums[4] = {0, 0, 0, 0};   // d begins with the first tile: every block has one
  int stage = 0, phase = 0, previous = -1, until = r;
  for (int tile = blockIdx.x; tile < work.tiles; tile += gridDim.x) {
    barrier_wait(shared_address(full + stage), phase);
    std::uint32_t const dy = base + stage * (dy_bytes + x_bytes), x = dy + dy_bytes + r * pitch * 128;
    std::uint64_t const a = mn_major_operand(dy, 8192);
    if constexpr (bias) {   // while the last tile's product is under way
      if (until == 0) until = 3, add_rows(bias_sums, dy, 15, thread / 32, thread % 32);
      --until;
    }
#pragma unroll
    for (int s = 0; s < 3; ++s) hold(d[s]);
    wgmma_fence();
#pragma unroll
    for (int kk = 0; kk < 15; ++kk)
#pragma unroll
      for (int s = 0; s < 3; ++s) wgmma<1, 1>(d[s], a + kk * mn_major_step, mn_major_operand(x + s * 128, 8192) + kk * mn_major_step, kk > 0 || previous >= 0);
    wgmma_commit();
    wgmma_wait<1>();
#pragma unroll
    for (int s = 0; s < 3; ++s) hold(d[s]);
    if (previous >= 0 && releases) barrier_arrive(shared_address(empty + previous));
    previous = stage;
    if (++stage == stages) stage = 0, phase ^= 1;
  }
  wgmma_wait<0>();
#pragma unroll
  for (int s = 0; s < 3; ++s) hold(d[s]);
  int const k = thread / 32 * 16 + thread % 32 / 4, c = 2 * (thread & 3);
#pragma unroll
  for (int s = 0; s < 3; ++s) {
    float* const out = work.partial + (std::int64_t(blockIdx.x) * 64 + k) * 576 + (r * 3 + s) * 64 + c;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      *reinterpret_cast<float2*>(out + 8 * j) = make_float2(d[s][4 * j], d[s][4 * j + 1]);
      *reinterpret_cast<float2*>(out + 8 * 576 + 8 * j) = make_float2(d[s][4 * j + 2], d[s][4 * j + 3]);
    }
  }
  if constexpr (bias) {
    float* const sums = work.bias_partial + (blockIdx.x * 3 + r) * 64 + k;
    if (c == 0) sums[0] = bias_sums[0], sums[8] = bias_sums[2];
  }
}

__device__ void store_pair(float* p, float a, float b) { *reinterpret_cast<float2*>(p) = make_float2(a, b); }
__device__ void store_pair(bf16* p, float a, float b) { *reinterpret_cast<std::uint32_t*>(p) = ptx::pack_bf16(a, b); }

constexpr int dw_blocks = 64 * 576 / 128;
// dw = the blocks' sums in a fixed order: thread (x, y) adds every eighth partial of four elements, then the eight are added. db: the blocks
// beyond dw's, a warp per k.
template <class E>
__global__ void __launch_bounds__(256) add_partials(float4 const* partial, int blocks, E* dw, float const* bias_partial, float* db) {
  __shared__ float4 sums[8][32];
  int const element = blockIdx.x * 32 + threadIdx.x;
  float4 sum = make_float4(0, 0, 0, 0);
  wait_for_work_ahead();
  if (blockIdx.x >= dw_blocks) {
    int const k = (blockIdx.x - dw_blocks) * 8 + threadIdx.y;
    double all = 0;
    for (int i = threadIdx.x; i < 3 * blocks; i += 32) all += double(__ldcg(bias_partial + i * 64 + k));
    for (int step = 16; step > 0; step /= 2) all += __shfl_xor_sync(~0u, all, step);
    if (threadIdx.x == 0) db[k] = float(all);
    return;
  }
#pragma unroll 4
  for (int i = threadIdx.y; i < blocks; i += 8) {
    float4 const v = __ldcg(partial + std::int64_t(i) * (64 * 576 / 4) + element);
    sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0) return;
  for (int i = 1; i < 8; ++i) {
    float4 const v = sums[i][threadIdx.x];
    sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
  }
  store_pair(dw + element * 4, sum.x, sum.y);
  store_pair(dw + element * 4 + 2, sum.z, sum.w);
}

// ---------------------------------------------------------------- host

std::string reject(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (facts.compute_capability != 90) return "needs a Hopper GPU (compute capability 9.0)";
  bool const filter = p.direction == Direction::bwd_filter;
  if (p.x_type != DType::bf16 || p.y_type != DType::bf16 || p.layout != Layout::nhwc) return "bf16 and nhwc only";
  if (p.w_type != DType::bf16 && !(filter && p.w_type == DType::f32)) return "a filter in bf16 only (dw in f32 too)";
  if (p.c != 64 || p.k % 64 || p.groups != 1) return "64 input channels and multiples of 64 filters only";
  if (p.k > 64 && (p.direction != Direction::fwd || p.store.stats != Stats::none)) return "more than 64 filters but forward without statistics";
  if (p.k > 512) return "more than 512 filters";
  if (p.r != 3 || p.s != 3 || p.stride_h != 1 || p.stride_w != 1 || p.dilation_h != 1 || p.dilation_w != 1) return "3x3 filters of stride 1 only";
  if (p.pad_top != 1 || p.pad_left != 1 || p.pad_bottom != 1 || p.pad_right != 1) return "padding 1 only";
  if (p.load_x != OnLoad{} || p.load_dy != OnLoad{}) return "slots on load";
  if (p.store.mask == Mask::relu6) return "a mask of relu6";
  auto const& s = p.store;
  if (filter) {
    OnStore with_bias;
    with_bias.bias = s.bias;
    if (s != with_bias) return "slots of the filter gradient";
    if (p.w > width && p.w % width) return "images wider than 56 that are no multiple of 56";
  } else {
    if (s.pool.kind != PoolSlot::none) {
      if (s.pool.size != 2) return "pooling but of 2x2";
      if (s.stats != Stats::none || (s.act != Activation::none && s.act != Activation::relu)) return "pooling with statistics or activations other than relu";
    }
    if (p.direction == Direction::fwd) {
      if (s.mask != Mask::none || s.stats == Stats::dot || s.stats == Stats::dot_other) return "forward with a mask";
      if (s.stats != Stats::none && (s.affine != Affine::none || s.bias || s.residual || s.act != Activation::none)) return "statistics beside other store slots";
      if (s.affine == Affine::two_operand) return "a result has no second operand";
      if (s.act != Activation::none && s.act != Activation::relu && s.act != Activation::relu6) return "only relu and relu6";
    } else {
      if (s.affine != Affine::none || s.bias || s.act != Activation::none || s.stats == Stats::squares) return "data gradient with forward slots";
    }
  }
  if (std::int64_t(p.n) * p.h * p.w >= std::int64_t(1) << 30) return "2^30 pixels or more";
  return {};
}

int tiles_down(ConvProblem const& p) { return p.direction == Direction::bwd_filter ? (p.h + 3) / 4 : (p.h + rows_of_tile - 1) / rows_of_tile; }
int tiles_across(ConvProblem const& p) { return (p.w + width - 1) / width; }
int tiles_of(ConvProblem const& p) { return p.n * tiles_down(p) * tiles_across(p); }
int parts_of(ConvProblem const& p) { return p.k / 64; }
int blocks_of(ConvProblem const& p) { return std::min(tiles_of(p), most_blocks / parts_of(p)) * parts_of(p); }

std::size_t scratch(ConvProblem const& p, Config const&) {
  if (p.direction == Direction::bwd_filter) return std::size_t(blocks_of(p)) * 64 * (576 + (p.store.bias ? 3 : 0)) * sizeof(float);
  return p.store.stats == Stats::none ? 0 : std::size_t(blocks_of(p)) * 256 * sizeof(float);
}

double seconds(ConvProblem const& p, DeviceFacts const&) {
  bool const filter = p.direction == Direction::bwd_filter;
  double const waves = std::ceil(double(tiles_of(p)) / (most_blocks / parts_of(p)));
  // Each tensor that is read beside is waited for.
  auto const& s = p.store;
  int const read = p.direction != Direction::bwd_data ? 0 : int(s.residual) + int(s.mask != Mask::none) + int(s.stats == Stats::dot_other);
  int const beside = s.pool.kind != PoolSlot::none ? 1 : read;   // pooling takes about as long
  return (filter ? 10e-6 : 4e-6) + std::max(waves * (filter ? 3.4e-6 : 6.3e-6 + 1.7e-6 * beside), bytes_of(p.operands()) / 3.9e12);
}

void launch_filter(ConvProblem const& p, ConvArgs const& args, View memory, cudaStream_t stream) {
  static bool const allowed = (allow_shared_memory(halo_filter<false>, filter_shared), allow_shared_memory(halo_filter<true>, filter_shared), true);
  (void)allowed;
  FilterWork work;
  std::int64_t const row = std::int64_t(p.w) * 64;
  int const columns = std::min(p.w, width);
  // Columns as (tile, column): the two beyond a tile's last are out of bounds, so zero.
  work.dy = tiled_map(args.y.data, {64, columns, tiles_across(p), p.h, p.n}, {64, std::int64_t(width) * 64, row, p.h * row}, {64, pitch, 1, 4, 1});
  work.x = tiled_map(args.x.data, {64, p.w, p.h, p.n}, {64, row, p.h * row}, {64, pitch, 6, 1});
  work.tile_rows = tiles_down(p), work.tile_columns = tiles_across(p), work.tiles = tiles_of(p);
  work.partial = memory.as<float>();
  int const blocks = blocks_of(p);
  bool const bias = p.store.bias;
  work.bias_partial = work.partial + std::int64_t(blocks) * 64 * 576;
  launch_ahead(bias ? halo_filter<true> : halo_filter<false>, dim3(unsigned(blocks)), dim3(512), filter_shared, 1, stream, work);
  auto const* partial = reinterpret_cast<float4 const*>(work.partial);
  dim3 const grid(unsigned(dw_blocks + (bias ? 8 : 0))), block(32, 8);
  auto const add = [&](auto* dw) {
    launch_ahead(add_partials<std::remove_pointer_t<decltype(dw)>>, grid, block, 0, 1, stream, partial, blocks, dw, work.bias_partial, bias ? args.bias.as<float>() : nullptr);
  };
  if (p.w_type == DType::f32) add(args.w.as<float>());
  else add(args.w.as<bf16>());
}

template <bool gradient, Ending ending>
void launch_tiles(Work const& work, int blocks, cudaStream_t stream) {
  static bool const allowed = (allow_shared_memory(halo<gradient, ending>, halo_shared), true);
  (void)allowed;
  launch_ahead(halo<gradient, ending>, dim3(unsigned(blocks)), dim3(384), halo_shared, 1, stream, work);
}

void run(ConvProblem const& p, Config const&, ConvArgs const& args, View memory, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  if (p.direction == Direction::bwd_filter) {
    launch_filter(p, args, memory, stream);
    return check_launch("conv halo_wgmma", p, stream);
  }
  bool const gradient = p.direction == Direction::bwd_data;
  auto const& s = p.store;
  auto const map = [&](View v, int columns, int rows) {
    std::int64_t const channels = v.type.shape[1], row = p.w * channels;
    return tiled_map(v.data, {channels, p.w, p.h, p.n}, {channels, row, p.h * row}, {64, columns, rows, 1});
  };
  Work work;
  work.in = map(gradient ? args.y : args.x, pitch, rows_of_tile + 2);
  work.filter = tiled_map(args.w.data, {64, 9, p.k}, {64, 576}, {64, 1, 64});
  bool const pooled = s.pool.kind != PoolSlot::none;
  work.out = map(gradient ? args.x : args.y, width, 4);
  if (pooled) {
    std::int64_t const down = p.stored_p(), across = p.stored_q(), pairs = p.k / 2;
    work.out = tiled_map(args.y.data, {p.k, across, down, p.n}, {p.k, across * p.k, down * across * p.k}, {64, width / 2, 2, 1});
    work.winner = tiled_map(args.winner.data, {pairs, across, down, p.n}, {pairs, across * pairs, down * across * pairs}, {32, width / 2, 2, 1}, 0);
  }
  work.has_stats = s.stats != Stats::none;
  bool const masked = s.mask != Mask::none, sums = gradient && work.has_stats, other = s.stats == Stats::dot_other;
  work.residual_first = s.residual && (masked || sums), work.mask_first = masked && other;
  work.has_residual = s.residual && !work.residual_first, work.masked = masked && !work.mask_first, work.has_mask = work.masked || sums;
  if (work.residual_first) work.residual = map(args.residual, width, 4);
  if (work.mask_first) work.mask = map(args.mask, width, 4);
  if (work.has_residual || work.has_mask) work.other = map(work.has_residual ? args.residual : other ? args.other : args.mask, width, 4);
  work.n = p.n, work.h = p.h, work.w = p.w, work.tile_rows = tiles_down(p), work.tile_columns = tiles_across(p), work.tiles = tiles_of(p), work.parts = parts_of(p);
  if (s.affine != Affine::none) work.affine = args.store_affine.as<float>();
  if (s.bias) work.bias = args.bias.as<float>();
  work.clamp = s.act != Activation::none;
  work.highest = s.act == Activation::relu6 ? 6.f : HUGE_VALF;
  work.step = args.step;
  work.partial = memory.as<float>();
  int const blocks = blocks_of(p);
  bool const plain = s == OnStore{};
  if (gradient) plain ? launch_tiles<true, Ending::store>(work, blocks, stream) : launch_tiles<true, Ending::gradient>(work, blocks, stream);
  else if (pooled) launch_tiles<false, Ending::pooled>(work, blocks, stream);
  else if (plain) launch_tiles<false, Ending::store>(work, blocks, stream);
  else if (work.has_stats) launch_tiles<false, Ending::squares>(work, blocks, stream);
  else launch_tiles<false, Ending::pointwise>(work, blocks, stream);
  if (work.has_stats) launch_ahead(sum_rows, dim3(16), dim3(256), 0, 1, stream, work.partial, 2 * blocks, 128, args.stats.as<float>());
  check_launch("conv halo_wgmma", p, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_halo_wgmma{
    .name = "halo_wgmma", .target = DeviceKind::cuda, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run};

}  // namespace falconet
