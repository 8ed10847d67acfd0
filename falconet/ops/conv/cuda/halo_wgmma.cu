// 3x3 convolutions of 64 input channels, stride 1, padding 1, in bf16 on Hopper's tensor cores, channels-last. im2col would fetch every
// input pixel nine times from L2, which bounds these layers; here a tile of the input stays in shared memory with its halo, and the nine
// taps read it at shifted addresses: a tile whose rows are 58 pixels apart turns tap (r, s) into a shift by 58 r + s rows of 128 bytes.
//   forward, data gradient: channels by pixels, result[k][i*58 + j] = sum over taps, c of filter[tap][k][c] * tile[i*58 + j + 58 r + s][c].
//     A tile is 8 x 56 pixels (two warpgroups of 4 rows, m64n232 with 2 unused columns per row), for images of up to 31 columns 16 x 31 (two of 8
//     rows, m64n256 with one unused, since the zeros between two rows serve both); the filter stays in shared memory for the whole launch; the
//     result is staged where the input tile was. The data gradient reads the filter M/N-major with its taps reversed.
//     More than 64 filters forward are parts of 64, each block's its own.
//   filter gradient: halo_wgmma_filter.cu.
// Limits: 64 channels both ways; forward without statistics any multiple of 64 filters. What an image leaves of its tiles is wasted.
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
#include "falconet/ops/conv/cuda/halo_wgmma.h"
#include "falconet/ops/conv/cuda/slice_sums.cuh"

namespace falconet {
namespace {

constexpr int most_blocks = 132;   // multiprocessors of the H100 and H200; fixed, so that results do not depend on the card
// Columns and rows of a warpgroup's half of a tile, and pixels from one row of the halo to the next. Images of up to 31 columns have tiles of their
// own, in which a row's last zero is the next one's first.
template <int width_, int pitch_, int rows_>
struct Tile {
  static constexpr int width = width_, pitch = pitch_, rows = rows_, rows_of_tile = 2 * rows;
  static constexpr int pixels = rows * pitch;                                // of a warpgroup's product
  static constexpr int halo = (rows_of_tile + 2) * pitch;                    // pixels that are copied
  static constexpr int second = ((rows + 2) * pitch + 2 + 7) / 8 * 8;        // the first pixel that the first warpgroup does not read
  static_assert(pixels % 8 == 0 && rows * width <= rows * pitch && second + rows * width <= halo, "");
};
using Wide = Tile<56, 58, 4>;
using Narrow = Tile<31, 32, 8>;
constexpr int filter_bytes = 9 * 8192;

enum class Ending {
  store,      // nothing
  pointwise,  // scale and shift per channel, residual, clamp
  pooled,     // scale and shift per channel, clamp, the maximum of 2x2 pixels and which of them it is
  squares,    // channel sums of v and v*v
  gradient,   // residual, mask, channel sums of v*m or v*o and v
  gradient_x, // mask where the activation passes scale * x + shift, channel sums of v*x and v
};

struct Work {
  CUtensorMap in, filter, out, residual, mask, other;   // other: the last of the tensors that are read beside
  CUtensorMap winner;                    // of pooled results, two to an element
  int n = 0, h = 0, w = 0, tile_rows = 0, tile_columns = 0, tiles = 0;
  int parts = 1;                         // of 64 channels of the result
  float const *affine = nullptr, *bias = nullptr;       // affine: of gradient_x, of x
  bool residual_first = false, mask_first = false;      // read and applied before the last one
  bool has_residual = false, has_mask = false, masked = false, has_stats = false, clamp = false;   // of the last one
  float highest = 0;
  StepState const* step = nullptr;
  float* partial = nullptr;              // [blocks][2][2][64]
};

// ---------------------------------------------------------------- forward and data gradient

constexpr int slot_bytes = 73 * 1024;   // the halo's pixels of 128 bytes, and the two behind it that unused columns reach
static_assert((std::max(Wide::halo, Narrow::halo) + 2) * 128 <= slot_bytes);
constexpr int halo_shared = filter_bytes + 2 * slot_bytes + 1024;

template <class Tile, bool gradient, Ending ending>
__global__ void __launch_bounds__(384, 1) halo(const __grid_constant__ Work work) {
  using namespace ptx;
  if (lacks_hopper()) return;
  constexpr int width = Tile::width, pitch = Tile::pitch, rows = Tile::rows, octets = Tile::pixels / 8;
  extern __shared__ __align__(1024) char dynamic[];
  __shared__ std::uint64_t full[2], empty[2], filter_full, other_full[2];
  __shared__ __align__(16) char unused[256];   // where the unused columns are stored
  constexpr bool of_x = ending == Ending::gradient_x, sums = ending == Ending::squares || ending == Ending::gradient || of_x;
  std::uint32_t const base = (shared_address(dynamic) + 1023) & ~1023u, slots = base + filter_bytes;
  int const group = threadIdx.x / 128;
  if (threadIdx.x < 64) reinterpret_cast<float*>(unused)[threadIdx.x] = 0;
  if (pitch == width + 1 && threadIdx.x < 64) {   // the zero behind the halo's last row
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(slots + threadIdx.x / 32 * slot_bytes + Tile::halo * 128 + threadIdx.x % 32 * 4), "r"(0) : "memory");
    fence_async_shared();
  }
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
        barrier_expect(shared_address(full + slot), Tile::halo * 128);
        load_4d(slots + slot * slot_bytes, &work.in, 0, column * width - 1, row * Tile::rows_of_tile - 1, n, shared_address(full + slot));
        slot ^= 1;
        phase ^= slot == 0;
      }
    }
    return;
  }

  take_registers<232>();
  int const me = group - 1, thread = threadIdx.x & 127, warp = thread / 32, lane = thread % 32;
  bool const leader = thread == 0;
  float d[4 * octets];
  // This lane's channels: 16 warp + lane/4 and 8 more. first: sum of v (squares) or of v*m (dot); second: of v*v or of v.
  int const channel = 16 * warp + lane / 4;
  float first[2] = {0, 0}, second[2] = {0, 0}, scale[2] = {1, 1}, shift[2] = {0, 0};
  if constexpr (ending == Ending::pointwise || ending == Ending::pooled || of_x)
    for (int i = 0; i < 2; ++i) {
      int const c = first_channel + channel + 8 * i;
      if (work.affine) scale[i] = work.affine[c], shift[i] = work.affine[64 * work.parts + c];
      if (work.bias) shift[i] += work.bias[c];
    }
  int const valid_images = sums && work.has_stats ? work.step->valid_count : 0;
  std::uint32_t const nowhere = shared_address(unused) + (lane & 15) * 16;
  barrier_wait(shared_address(&filter_full), 0);
  int slot = 0, phase = 0, previous = -1, other_phase = 0;
  for (int tile = first_tile; tile < work.tiles; tile += tile_step) {
    int const n = tile / tiles_of_image, in_image = tile - n * tiles_of_image, tile_row = in_image / work.tile_columns;
    int const column = (in_image - tile_row * work.tile_columns) * width, row = tile_row * Tile::rows_of_tile + rows * me;
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
        std::uint64_t const b = k_major_operand(in + ((me * rows + r) * pitch + s) * 128);
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

    // The result goes where only this warpgroup has read: from the slot's first pixel on for the first.
    std::uint32_t const staging = in + me * Tile::second * 128;
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
      return q < width && at < Tile::pixels ? staging + swizzled(i * width + q, half) : nowhere;
    };
    if constexpr (ending == Ending::pointwise || ending == Ending::gradient || of_x) {
      auto const fetch = [&](CUtensorMap const* map) {
        named_sync(1 + me, 128);   // all four warps have read what was there
        if (leader) {
          barrier_expect(shared_address(other_full + me), rows * width * 128);
          load_4d(staging, map, first_channel, column, row, n, shared_address(other_full + me));
        }
        barrier_wait(shared_address(other_full + me), other_phase);
        other_phase ^= 1;
      };
      if constexpr (ending == Ending::gradient) {
        auto const apply = [&](auto residual) {
#pragma unroll
          for (int j = 0; j < octets; j += 2) {
            std::uint32_t beside[4];
            load_matrices_transposed(beside, row_at(j));
#pragma unroll
            for (int e = 0; e < (j + 1 < octets ? 4 : 2); ++e) {
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
      if (of_x || work.has_residual || work.has_mask) fetch(&work.other);
    }
    int const columns_left = work.w - column, rows_left = work.h - row;
    bool const counts = n < valid_images;
    auto const finish = [&](auto whole_tile) {
      [[maybe_unused]] constexpr bool whole = decltype(whole_tile)::value;
#pragma unroll
      for (int j = 0; j < octets; j += 2) {
        std::uint32_t const address = row_at(j);
        float* const v = d + 4 * j;
        int const values = j + 1 < octets ? 8 : 4;
        [[maybe_unused]] std::uint32_t other[4] = {0, 0, 0, 0};
        if constexpr (ending == Ending::pointwise || ending == Ending::gradient || of_x)
          if (of_x || work.has_residual || work.has_mask) load_matrices_transposed(other, address);
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
        if constexpr (of_x) {
#pragma unroll
          for (int e = 0; e < values / 2; ++e) {
            float const low_x = fmaf(scale[e & 1], low_bf16(other[e]), shift[e & 1]), high_x = fmaf(scale[e & 1], high_bf16(other[e]), shift[e & 1]);
            packed[e] &= (low_x > 0 && low_x < work.highest ? 0xffffu : 0u) | (high_x > 0 && high_x < work.highest ? 0xffff0000u : 0u);
          }
        }
        if constexpr (sums) {
          if (counts) {
#pragma unroll
            for (int e = 0; e < values / 2; ++e) {   // e & 1: the upper eight channels; e >> 1: the later eight pixels
              int const here = 8 * (j + (e >> 1)) + 2 * (lane & 3), from = here / pitch, column_here = here - from * pitch;
              bool one = true, both = true;   // which of the two pixels exist
              if constexpr (!whole) {
                one = from < rows_left && column_here < min(columns_left, width);
                both = one && column_here + 1 < columns_left;
              } else if (8 * (j + (e >> 1)) % pitch + 7 >= width) {
                one = column_here < width, both = column_here + 1 < width;
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
        if (j + 1 < octets) store_matrices_transposed(address, packed);
        else store_two_matrices_transposed(address, packed[0], packed[1]);
      }
    };
    if (columns_left >= width && rows_left >= rows) finish(std::true_type{});
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
  if constexpr (sums) {
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
  if ((p.load_x != OnLoad{} && p.direction != Direction::bwd_data) || p.load_dy != OnLoad{}) return "slots on load";
  if (p.store.mask == Mask::of_x && (p.store.residual || p.load_x.act == Activation::none)) return "a mask of x beside a residual or without relu or relu6";
  if (p.store.mask == Mask::relu6 || p.store.mask == Mask::bits) return "a mask of relu6, or as bits";
  auto const& s = p.store;
  if (filter) {
    OnStore with_bias;
    with_bias.bias = s.bias;
    if (s != with_bias) return "slots of the filter gradient";
    if (p.w > Wide::width && p.w % Wide::width) return "images wider than 56 that are no multiple of 56";
  } else {
    if (s.pool.kind != PoolSlot::none) {
      if (s.pool.kind != PoolSlot::max || s.pool.size != 2) return "pooling but maxima of 2x2";
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

int over(int extent, int tile) { return (extent + tile - 1) / tile; }
// Whether the narrow tiles, which take a tenth longer, are fewer.
bool narrow(ConvProblem const& p) {
  return p.direction != Direction::bwd_filter && p.store.pool.kind == PoolSlot::none && p.w <= Narrow::width && over(p.h, Narrow::rows_of_tile) < over(p.h, Wide::rows_of_tile);
}
int tiles_down(ConvProblem const& p) { return over(p.h, p.direction == Direction::bwd_filter ? 4 : narrow(p) ? Narrow::rows_of_tile : Wide::rows_of_tile); }
int tiles_across(ConvProblem const& p) { return over(p.w, Wide::width); }
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
  int const read = p.direction != Direction::bwd_data ? 0 : int(s.residual) + int(s.mask != Mask::none) + int(s.stats == Stats::dot_other);   // mask_x: x alone
  int const beside = s.pool.kind != PoolSlot::none ? 1 : read;   // pooling takes about as long
  return (filter ? 10e-6 : 4e-6) + std::max(waves * (filter ? 3.4e-6 : (6.3e-6 + 1.7e-6 * beside) * (narrow(p) ? 1.1 : 1)), bytes_of(p.operands()) / 3.9e12);
}

template <class Tile, bool gradient, Ending ending>
void launch_tiles(Work const& work, int blocks, cudaStream_t stream) {
  static bool const allowed = (allow_shared_memory(halo<Tile, gradient, ending>, halo_shared), true);
  (void)allowed;
  launch_ahead(halo<Tile, gradient, ending>, dim3(unsigned(blocks)), dim3(384), halo_shared, 1, stream, work);
}

template <class Tile>
void launch_ending(ConvProblem const& p, Work const& work, int blocks, cudaStream_t stream) {
  bool const plain = p.store == OnStore{};
  if (p.store.mask == Mask::of_x) return launch_tiles<Tile, true, Ending::gradient_x>(work, blocks, stream);
  if (p.direction == Direction::bwd_data)
    return plain ? launch_tiles<Tile, true, Ending::store>(work, blocks, stream) : launch_tiles<Tile, true, Ending::gradient>(work, blocks, stream);
  if constexpr (std::is_same_v<Tile, Wide>)
    if (p.store.pool.kind != PoolSlot::none) return launch_tiles<Tile, false, Ending::pooled>(work, blocks, stream);
  if (plain) launch_tiles<Tile, false, Ending::store>(work, blocks, stream);
  else if (work.has_stats) launch_tiles<Tile, false, Ending::squares>(work, blocks, stream);
  else launch_tiles<Tile, false, Ending::pointwise>(work, blocks, stream);
}

void run(ConvProblem const& p, Config const&, ConvArgs const& args, View memory, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  if (p.direction == Direction::bwd_filter) {
    launch_halo_filter(p, args, blocks_of(p), memory, stream);
    return check_launch("conv halo_wgmma", p, stream);
  }
  bool const gradient = p.direction == Direction::bwd_data, slim = narrow(p);
  int const width = slim ? Narrow::width : Wide::width, rows = slim ? Narrow::rows : Wide::rows;
  auto const& s = p.store;
  auto const map = [&](View v, int columns, int rows) {
    std::int64_t const channels = v.type.shape[1], row = p.w * channels;
    return tiled_map(v.data, {channels, p.w, p.h, p.n}, {channels, row, p.h * row}, {64, columns, rows, 1});
  };
  Work work;
  work.in = map(gradient ? args.y : args.x, slim ? Narrow::pitch : Wide::pitch, 2 * rows + 2);
  work.filter = tiled_map(args.w.data, {64, 9, p.k}, {64, 576}, {64, 1, 64});
  bool const pooled = s.pool.kind != PoolSlot::none;
  work.out = map(gradient ? args.x : args.y, width, rows);
  if (pooled) {
    std::int64_t const down = p.stored_p(), across = p.stored_q(), pairs = p.k / 2;
    work.out = tiled_map(args.y.data, {p.k, across, down, p.n}, {p.k, across * p.k, down * across * p.k}, {64, width / 2, 2, 1});
    work.winner = tiled_map(args.winner.data, {pairs, across, down, p.n}, {pairs, across * pairs, down * across * pairs}, {32, width / 2, 2, 1}, 0);
  }
  work.has_stats = s.stats != Stats::none;
  bool const of_x = s.mask == Mask::of_x, masked = s.mask != Mask::none && !of_x, sums = gradient && work.has_stats, other = s.stats == Stats::dot_other || of_x;
  work.residual_first = s.residual && (masked || sums), work.mask_first = masked && other;
  work.has_residual = s.residual && !work.residual_first, work.masked = masked && !work.mask_first, work.has_mask = work.masked || sums;
  if (work.residual_first) work.residual = map(args.residual, width, rows);
  if (work.mask_first) work.mask = map(args.mask, width, rows);
  if (work.has_residual || work.has_mask) work.other = map(work.has_residual ? args.residual : other ? args.other : args.mask, width, rows);
  work.n = p.n, work.h = p.h, work.w = p.w, work.tile_rows = tiles_down(p), work.tile_columns = tiles_across(p), work.tiles = tiles_of(p), work.parts = parts_of(p);
  if (s.affine != Affine::none) work.affine = args.store_affine.as<float>();
  if (s.bias) work.bias = args.bias.as<float>();
  work.clamp = s.act != Activation::none;
  if (of_x) work.affine = args.load_x.as<float>();
  work.highest = (of_x ? p.load_x.act : s.act) == Activation::relu6 ? 6.f : HUGE_VALF;
  work.step = args.step;
  work.partial = memory.as<float>();
  int const blocks = blocks_of(p);
  slim ? launch_ending<Narrow>(p, work, blocks, stream) : launch_ending<Wide>(p, work, blocks, stream);
  if (work.has_stats) launch_ahead(sum_rows, dim3(16), dim3(256), 0, 1, stream, work.partial, 2 * blocks, 128, args.stats.as<float>());
  check_launch("conv halo_wgmma", p, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_halo_wgmma{
    .name = "halo_wgmma", .target = DeviceKind::cuda, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run};

}  // namespace falconet
