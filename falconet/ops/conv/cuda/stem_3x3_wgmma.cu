// A first convolution of 3x3, 3 to 32 or 64 channels, stride 1 or 2, padding 1, in bf16 on Hopper's tensor cores, channels-last.
// Two neighbouring output pixels are one row of the product (their channels are neighbours in memory, too): they read pixels 2*stride*j - 1
// to 2*stride*j + stride + 1 of three input rows, which lie within 16 elements from element 6*stride*j - 4 on. So the sum runs over 3 rows x 16
// elements = 48, every window begins at an even element whatever the stride, and the zeros are in the filter: column u*K + k of it has tap s,
// channel c at element 3*(stride*u + s) + c + 1 of its row.
//   A block keeps raw input rows in shared memory, zeros left and right (raw_rows.cuh); x is read from memory once, and a halo from L2.
//   forward: pairs of pixels by channels; A goes from the raw rows to registers by 4-byte loads (free of bank conflicts with stride 1), the
//     filter stays in shared memory; endings: store, channel sums, or affine + bias + clamp.
//   filter gradient: window elements by channels; the windows of 64 pairs are written out in shared memory as A with an element of ones
//     beside them, whose row of the result is the bias gradient; dy comes by the copy engine as B; every warpgroup sums over all its pairs, then
//     the sums are added in order.
// Limits: input columns a multiple of 8; some number of output rows that divides the image and holds a multiple of 64 pairs.
// Cost: 2*48*K operations per output pixel (56 % useful with stride 1); bytes: x and y once.
#include <algorithm>
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/device/cuda/tensor_map.h"
#include "falconet/device/cuda/wgmma.cuh"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/raw_rows.cuh"
#include "falconet/ops/conv/cuda/slice_sums.cuh"

namespace falconet {
namespace {

constexpr int most_blocks = 132;                           // multiprocessors of the H100 and H200; fixed for reproducible sums
constexpr int groups = 3, threads = 128 * (1 + groups);    // of warpgroups that multiply
constexpr int most_shared = 232448 - 1024;

struct Work {
  RawRows raw;
  CUtensorMap y;                       // {2 K, pairs}
  int blocks = 0, pairs = 0;           // blocks of 64 pairs of a tile; pairs of an output row
  int stride = 1, pairs_of_image = 0;
  unsigned reciprocal = 0;             // of pairs: (m * reciprocal) >> 20 = m / pairs for every pair m of a tile
  void const* filter = nullptr;
  bool f32_filter = false;
  float const *affine = nullptr, *bias = nullptr;
  bool clamp = false;
  float highest = 0;
  StepState const* step = nullptr;
  float* partial = nullptr;
};

// Byte of the window of pair m of a tile, in its first row.
FALCONET_DEVICE int window_of(Work const& work, int m) {
  int const row = int((unsigned(m) * work.reciprocal) >> 20), j = m - row * work.pairs;
  return row * work.stride * work.raw.pitch + RawRows::left_bytes + j * 12 * work.stride - 8;
}

// ---------------------------------------------------------------- forward

enum class Ending { store, squares, pointwise };
template <int slices>
struct Forward {   // slices of 64 columns: K = 32 has one, K = 64 two
  static constexpr int buffers = slices == 1 ? 4 : 3;      // of a warpgroup's results on their way to memory
  static constexpr int filter_bytes = slices * 8192, staging_bytes = groups * buffers * slices * 8192, fixed = filter_bytes + staging_bytes;
};

template <int slices, Ending ending>
__global__ void __launch_bounds__(threads, 1) stem(const __grid_constant__ Work work) {
  using namespace ptx;
  if (lacks_hopper()) return;
  using F = Forward<slices>;
  extern __shared__ __align__(1024) char dynamic[];
  __shared__ std::uint64_t full[4], empty[4];
  __shared__ float2 scale[32], shift[32];   // of the channels, repeated where there are 32
  std::uint32_t const base = (shared_address(dynamic) + 1023) & ~1023u;
  char* const memory = dynamic + (base - shared_address(dynamic));
  char* const rows = memory + F::fixed;
  constexpr int channels = slices * 32;
  int const group = threadIdx.x / 128;
  clear_margins(work.raw, rows, threads);
  wait_for_work_ahead();
  // The filter as B, k_major: element e of window row r at 16 r + e.
  for (int i = threadIdx.x; i < slices * 64 * 64; i += threads) {
    int const column = i / 64, element = i % 64, u = column / channels, k = column % channels, r = element / 16, tap = element % 16 - 1 - 3 * work.stride * u;
    bf16 v{0};
    if (r < 3 && tap >= 0 && tap < 9) {
      int const at = (k * 3 + r) * 9 + tap;
      v = work.f32_filter ? to_bf16(static_cast<float const*>(work.filter)[at]) : static_cast<bf16 const*>(work.filter)[at];
    }
    *reinterpret_cast<bf16*>(memory + column / 64 * 8192 + swizzled(column % 64, element / 8) + element % 8 * 2) = v;
  }
  if (ending == Ending::pointwise && threadIdx.x < 64) {
    int const c = threadIdx.x % channels;
    float const a = work.affine ? work.affine[c] : 1.f;
    reinterpret_cast<float*>(scale)[threadIdx.x] = a;
    reinterpret_cast<float*>(shift)[threadIdx.x] = (work.affine ? work.affine[channels + c] : 0.f) + (work.bias ? work.bias[c] : 0.f);
  }
  fence_async_shared();
  if (threadIdx.x == 0) {
    for (int i = 0; i < work.raw.slots; ++i) barrier_init(shared_address(full + i), 1), barrier_init(shared_address(empty + i), groups);
    barrier_init_done();
    prefetch_map(&work.y);
  }
  __syncthreads();
  if (group == 0) {
    give_registers<32>();
    if (threadIdx.x < 32) copy_rows(work.raw, full, empty, rows);
    return;
  }
  take_registers<160>();
  int const me = group - 1, thread = threadIdx.x & 127, warp = thread / 32, lane = thread % 32, pitch = work.raw.pitch;
  bool const leader = thread == 0;
  std::uint32_t const staging = base + F::filter_bytes + me * F::buffers * slices * 8192;
  float sums[slices][4] = {};
  int const valid = ending == Ending::squares ? work.step->valid_count : 0;
  float d[slices][32];
#pragma unroll
  for (int i = 0; i < slices; ++i)
#pragma unroll
    for (int e = 0; e < 32; ++e) d[i][e] = 0;
  int slot = 0, phase = 0, number = 0, block = me;
  for (int tile = blockIdx.x; tile < work.raw.tiles; tile += gridDim.x) {
    barrier_wait(shared_address(full + slot), phase);
    char const* const in = rows + slot * work.raw.slot_bytes() + (lane & 3) * 4;
    for (; block < work.blocks; block += groups, ++number) {   // the warpgroups take the blocks in turn, across tiles
      int const m = block * 64 + 16 * warp + lane / 4, pair = (tile * work.blocks + block) * 64;
      char const* const low = in + window_of(work, m);
      char const* const high = in + window_of(work, m + 8);
      std::uint32_t a[3][4];
#pragma unroll
      for (int r = 0; r < 3; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          a[r][2 * half] = *reinterpret_cast<std::uint32_t const*>(low + r * pitch + 16 * half);
          a[r][2 * half + 1] = *reinterpret_cast<std::uint32_t const*>(high + r * pitch + 16 * half);
        }
#pragma unroll
      for (int i = 0; i < slices; ++i) hold(d[i]);
      wgmma_fence();
#pragma unroll
      for (int r = 0; r < 3; ++r)
#pragma unroll
        for (int i = 0; i < slices; ++i) wgmma_registers(d[i], a[r], k_major_operand(base + i * 8192) + r * k_major_step, r != 0);
      wgmma_commit();
      wgmma_wait<0>();
#pragma unroll
      for (int i = 0; i < slices; ++i) hold(d[i]);
      std::uint32_t const buffer = staging + number % F::buffers * slices * 8192;
      if (leader) store_wait_read<F::buffers - 1>();
      named_sync(1 + me, 128);
      int const fragment_row = 16 * warp + (lane / 8 & 1) * 8 + lane % 8;
#pragma unroll
      for (int j = 0; j < 4 * slices; ++j) {
        float* const v = d[j / 4] + 8 * (j % 4);
        if constexpr (ending == Ending::pointwise) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            int const c = 8 * (j % 4) + 4 * half + (lane & 3);   // of channel pairs
            float2 const by = scale[c], plus = shift[c];
            float* const u = v + 4 * half;
            u[0] = u[0] * by.x + plus.x, u[1] = u[1] * by.y + plus.y, u[2] = u[2] * by.x + plus.x, u[3] = u[3] * by.y + plus.y;
          }
          if (work.clamp) {
#pragma unroll
            for (int e = 0; e < 8; ++e) v[e] = fminf(fmaxf(v[e], 0.f), work.highest);
          }
        }
        std::uint32_t const packed[4] = {pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])};
        store_matrices(buffer + j / 4 * 8192 + swizzled(fragment_row, 2 * (j % 4) + lane / 16), packed);
      }
      fence_async_shared();
      named_sync(1 + me, 128);
      if (leader) {
#pragma unroll
        for (int i = 0; i < slices; ++i) store_2d(&work.y, i * 64, pair, buffer + i * 8192);
        store_commit();
      }
      if constexpr (ending == Ending::squares) {
#pragma unroll
        for (int i = 0; i < slices; ++i) add_slice<false>(sums[i], buffer + i * 8192, 0, warp, lane, valid * work.pairs_of_image - pair);
      }
    }
    block -= work.blocks;
    named_sync(1 + me, 128);   // every warp has read its rows
    if (leader) barrier_arrive(shared_address(empty + slot));
    if (++slot == work.raw.slots) slot = 0, phase ^= 1;
  }
  if (leader) store_wait();
  if constexpr (ending == Ending::squares) {
#pragma unroll
    for (int i = 0; i < slices; ++i)
      write_slice(sums[i], work.partial + (blockIdx.x * groups + me) * 128 * slices + i * 64, 64 * slices, warp, lane);
  }
}

// sums[i][k] = the sum over the rows of partial[row][i][u][k], u = 0 and 1, in a fixed order; a warp per element.
__global__ void __launch_bounds__(256) sum_rows(float const* partial, int rows, int channels, float* sums) {
  int const element = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
  wait_for_work_ahead();
  if (element >= 2 * channels) return;
  float const* const from = partial + element / channels * 2 * channels + element % channels;
  double sum = 0;
  for (int i = lane; i < rows; i += 32) sum += double(from[std::int64_t(i) * 4 * channels]) + double(from[std::int64_t(i) * 4 * channels + channels]);
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  if (lane == 0) sums[element] = float(sum);
}

// ---------------------------------------------------------------- filter gradient

constexpr int elements = 48, kept = elements + 1;          // of a window; with the bias gradient's row
template <int slices>
struct Filter {
  // A multiple of the warpgroups, so that a slot is always the same one's: one that waits for its turn of a slot that another has not yet had would
  // take the end of the turn before that for its own.
  static constexpr int dy_slots = slices == 1 ? 9 : 6;
  static_assert(dy_slots % groups == 0);
  static constexpr int dy_bytes = slices * 8192, windows_bytes = groups * 2 * 8192, fixed = windows_bytes + dy_slots * dy_bytes;
};

// dy's blocks in the order in which the warpgroups take them.
template <int slices>
FALCONET_DEVICE void copy_dy(Work const& work, std::uint64_t* full, std::uint64_t* empty, std::uint32_t to) {
  using namespace ptx;
  using F = Filter<slices>;
  int slot = 0, phase = 1;
  for (int tile = blockIdx.x; tile < work.raw.tiles; tile += gridDim.x)
    for (int block = 0; block < work.blocks; ++block) {
      barrier_wait(shared_address(empty + slot), phase);
      std::uint32_t const ready = shared_address(full + slot);
      barrier_expect(ready, F::dy_bytes);
#pragma unroll
      for (int i = 0; i < slices; ++i) load_2d(to + slot * F::dy_bytes + i * 8192, &work.y, i * 64, (tile * work.blocks + block) * 64, ready);
      if (++slot == F::dy_slots) slot = 0, phase ^= 1;
    }
}

template <int slices>
__global__ void __launch_bounds__(threads, 1) stem_filter(const __grid_constant__ Work work) {
  using namespace ptx;
  if (lacks_hopper()) return;
  using F = Filter<slices>;
  extern __shared__ __align__(1024) char dynamic[];
  __shared__ std::uint64_t full[4], empty[4], dy_full[F::dy_slots], dy_empty[F::dy_slots];
  std::uint32_t const base = (shared_address(dynamic) + 1023) & ~1023u, dy_base = base + F::windows_bytes;
  char* const memory = dynamic + (base - shared_address(dynamic));
  char* const rows = memory + F::fixed;
  int const group = threadIdx.x / 128;
  clear_margins(work.raw, rows, threads);
  // The windows' last 16 elements, which nothing else writes: a one, then zeros.
  for (int i = threadIdx.x; i < groups * 2 * 64 * 2; i += threads)
    *reinterpret_cast<uint4*>(memory + i / 128 * 8192 + swizzled(i / 2 % 64, 6 + i % 2)) = make_uint4(i % 2 ? 0 : 0x3f80u, 0, 0, 0);
  fence_async_shared();
  if (threadIdx.x == 0) {
    for (int i = 0; i < work.raw.slots; ++i) barrier_init(shared_address(full + i), 1), barrier_init(shared_address(empty + i), groups);
    for (int i = 0; i < F::dy_slots; ++i) barrier_init(shared_address(dy_full + i), 1), barrier_init(shared_address(dy_empty + i), 1);
    barrier_init_done();
    prefetch_map(&work.y);
  }
  __syncthreads();
  wait_for_work_ahead();
  if (group == 0) {
    give_registers<32>();
    if (threadIdx.x < 32) copy_rows(work.raw, full, empty, rows);
    else if (threadIdx.x == 32) copy_dy<slices>(work, dy_full, dy_empty, dy_base);
    return;
  }
  take_registers<160>();
  int const me = group - 1, thread = threadIdx.x & 127, warp = thread / 32, lane = thread % 32, pitch = work.raw.pitch;
  bool const leader = thread == 0;
  int const pair = thread % 64, half = thread / 64;   // whose windows this thread writes: octets 3 half .. 3 half + 2
  float d[slices][32];
#pragma unroll
  for (int i = 0; i < slices; ++i)
#pragma unroll
    for (int e = 0; e < 32; ++e) d[i][e] = 0;
  int slot = 0, phase = 0, number = 0, block = me, dy_slot = me, dy_phase = 0, previous = -1;
  for (int tile = blockIdx.x; tile < work.raw.tiles; tile += gridDim.x) {
    barrier_wait(shared_address(full + slot), phase);
    for (; block < work.blocks; block += groups, ++number) {
      std::uint32_t const windows = base + (me * 2 + (number & 1)) * 8192;
      // The product of two blocks ago has been waited for by every warp (the barrier below), so its windows may be replaced.
      char const* const from = rows + slot * work.raw.slot_bytes() + window_of(work, block * 64 + pair);
      char* const to = memory + (windows - base);
#pragma unroll
      for (int i = 0; i < 3; ++i) {
        int const octet = 3 * half + i;
        std::uint32_t const* const source = reinterpret_cast<std::uint32_t const*>(from + octet / 2 * pitch + octet % 2 * 16);
        *reinterpret_cast<uint4*>(to + swizzled(pair, octet)) = make_uint4(source[0], source[1], source[2], source[3]);
      }
      fence_async_shared();
      wgmma_wait<0>();   // the product of the last block
#pragma unroll
      for (int i = 0; i < slices; ++i) hold(d[i]);
      named_sync(1 + me, 128);
      if (leader && previous >= 0) barrier_arrive(shared_address(dy_empty + previous));
      barrier_wait(shared_address(dy_full + dy_slot), dy_phase);
      std::uint32_t const dy = dy_base + dy_slot * F::dy_bytes;
      wgmma_fence();
#pragma unroll
      for (int kk = 0; kk < 4; ++kk)
#pragma unroll
        for (int i = 0; i < slices; ++i)
          wgmma<1, 1>(d[i], mn_major_operand(windows, 8192) + kk * mn_major_step, mn_major_operand(dy + i * 8192, 8192) + kk * mn_major_step, 1);
      wgmma_commit();
      previous = dy_slot;
      dy_slot += groups;
      if (dy_slot >= F::dy_slots) dy_slot -= F::dy_slots, dy_phase ^= 1;
    }
    block -= work.blocks;
    named_sync(1 + me, 128);   // every warp has read its rows
    if (leader) barrier_arrive(shared_address(empty + slot));
    if (++slot == work.raw.slots) slot = 0, phase ^= 1;
  }
  wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < slices; ++i) hold(d[i]);
  constexpr int columns = slices * 64;
  float* const out = work.partial + std::int64_t(blockIdx.x * groups + me) * kept * columns + 2 * (lane & 3);
  int const row = 16 * warp + lane / 4;
#pragma unroll
  for (int j = 0; j < 8 * slices; ++j) {
    float const* const v = d[j / 8] + 4 * (j % 8);
    if (row < kept) *reinterpret_cast<float2*>(out + row * columns + 8 * j) = make_float2(v[0], v[1]);
    if (row + 8 < kept) *reinterpret_cast<float2*>(out + (row + 8) * columns + 8 * j) = make_float2(v[2], v[3]);
  }
}

__device__ void put(float* p, float v) { *p = v; }
__device__ void put(bf16* p, float v) { *p = to_bf16(v); }

// dw[k][r][s][c] = the sum of partial[row][16 r + 3 (stride u + s) + c + 1][u][k] over the rows and u = 0, 1; db[k] = that of the last element.
// blockIdx.x is the element of dw's filter, or 27 for db; thread (x, y) adds every 32nd row of its k, then those sums are added in order.
template <class E>
__global__ void __launch_bounds__(1024) add_windows(float const* partial, int rows, int channels, int stride, E* dw, float* db) {
  __shared__ float sums[32][32];
  int const which = blockIdx.x, k = blockIdx.y * 32 + threadIdx.x;
  int const first = which < 27 ? which / 9 * 16 + which % 9 + 1 : elements, second = which < 27 ? first + 3 * stride : elements;
  float sum = 0;
  wait_for_work_ahead();
#pragma unroll 4
  for (int i = threadIdx.y; i < rows; i += 32) {
    float const* const from = partial + std::int64_t(i) * kept * 2 * channels + k;
    sum += __ldcg(from + first * 2 * channels) + __ldcg(from + second * 2 * channels + channels);
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0) return;
  for (int i = 1; i < 32; ++i) sum += sums[i][threadIdx.x];
  if (which < 27) put(dw + k * 27 + which, sum);
  else db[k] = sum;
}

// ---------------------------------------------------------------- host

struct Tiling {
  int rows = 0, pairs = 0, blocks = 0, tiles = 0;   // output rows of a tile, pairs of a row, blocks of 64 pairs of a tile
  RawRows raw;
  int shared = 0;
};
Tiling tiling_of(ConvProblem const& p) {
  Tiling t;
  int const slices = p.k / 32, fixed = p.direction == Direction::bwd_filter ? (slices == 1 ? Filter<1>::fixed : Filter<2>::fixed)
                                                                           : (slices == 1 ? Forward<1>::fixed : Forward<2>::fixed);
  t.pairs = p.q() / 2;
  for (int rows : {8, 4, 2, 1, 16, 32}) {
    if (p.p() % rows || rows * t.pairs % 64 || std::int64_t(rows) * t.pairs * t.pairs >= 1 << 20) continue;   // the last for `reciprocal`
    t.rows = rows, t.blocks = rows * t.pairs / 64, t.tiles = p.n * (p.p() / rows);
    t.raw.h = p.h, t.raw.row_bytes = p.w * 6, t.raw.tiles = t.tiles, t.raw.tiles_of_image = p.p() / rows;
    t.raw.step = rows * p.stride_h, t.raw.pad_top = 1, t.raw.rows = (rows - 1) * p.stride_h + 3;
    t.raw.pitch = RawRows::left_bytes + p.w * 6 + RawRows::right_bytes;
    t.raw.slots = std::min(4, (most_shared - 1024 - fixed) / t.raw.slot_bytes());
    t.shared = fixed + t.raw.slots * t.raw.slot_bytes() + 1024;
    if (t.raw.slots >= 2) return t;
  }
  t.rows = 0;
  return t;
}

std::string reject(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (facts.compute_capability != 90) return "needs a Hopper GPU (compute capability 9.0)";
  bool const filter = p.direction == Direction::bwd_filter;
  if (p.direction == Direction::bwd_data) return "no data gradient";
  if (p.x_type != DType::bf16 || p.y_type != DType::bf16 || p.layout != Layout::nhwc) return "bf16 and nhwc only";
  if (p.w_type != DType::bf16 && p.w_type != DType::f32) return "a filter in bf16 or f32 only";
  if (p.c != 3 || (p.k != 32 && p.k != 64) || p.groups != 1) return "3 to 32 or 64 channels only";
  if (p.r != 3 || p.s != 3 || p.dilation_h != 1 || p.dilation_w != 1) return "3x3 filters only";
  if (p.stride_h != p.stride_w || p.stride_h > 2) return "strides 1 and 2 only";
  if (p.pad_top != 1 || p.pad_left != 1 || p.pad_bottom != 1 || p.pad_right != 1) return "padding 1 only";
  if (p.load_x != OnLoad{} || p.load_dy != OnLoad{}) return "slots on load";
  auto const& s = p.store;
  if (filter) {
    OnStore with_bias;
    with_bias.bias = s.bias;
    if (s != with_bias) return "slots of the filter gradient";
  } else {
    if (s.pool.kind != PoolSlot::none || s.residual || s.mask != Mask::none || s.stats == Stats::dot || s.stats == Stats::dot_other) return "pooling, residual or mask";
    if (s.stats != Stats::none && (s.affine != Affine::none || s.bias || s.act != Activation::none)) return "statistics beside other store slots";
    if (s.affine == Affine::two_operand) return "a result has no second operand";
    if (s.act != Activation::none && s.act != Activation::relu && s.act != Activation::relu6) return "only relu and relu6";
  }
  if (p.w % 8 || p.w > 4096) return "input columns a multiple of 8, at most 4096, only";
  if (std::int64_t(p.n) * p.p() * p.q() >= std::int64_t(1) << 30) return "2^30 pixels or more";
  return tiling_of(p).rows ? "" : "no number of rows that divides the image holds a multiple of 128 pixels and fits in shared memory";
}

int blocks_of(Tiling const& t) { return std::min(t.tiles, most_blocks); }

std::size_t scratch(ConvProblem const& p, Config const&) {
  std::size_t const sums = std::size_t(blocks_of(tiling_of(p))) * groups;
  if (p.direction == Direction::bwd_filter) return sums * kept * 2 * std::size_t(p.k) * sizeof(float);
  return p.store.stats == Stats::none ? 0 : sums * 4 * std::size_t(p.k) * sizeof(float);
}

// Constants measured on an H200.
double seconds(ConvProblem const& p, DeviceFacts const&) {
  Tiling const t = tiling_of(p);
  bool const filter = p.direction == Direction::bwd_filter;
  double const waves = std::ceil(double(t.tiles) / most_blocks);
  return (filter ? 9e-6 : 5e-6) + (p.store.stats == Stats::none ? 0 : 4e-6) + std::max(waves * t.blocks * 0.3e-6, bytes_of(p.operands()) / 3.8e12);
}

template <int slices, Ending ending>
void launch(Work const& work, Tiling const& t, cudaStream_t stream) {
  static bool const allowed = (allow_shared_memory(stem<slices, ending>, most_shared), true);
  (void)allowed;
  launch_ahead(stem<slices, ending>, dim3(unsigned(blocks_of(t))), dim3(threads), std::size_t(t.shared), 1, stream, work);
}
template <int slices>
void launch_filter(Work const& work, Tiling const& t, cudaStream_t stream) {
  static bool const allowed = (allow_shared_memory(stem_filter<slices>, most_shared), true);
  (void)allowed;
  launch_ahead(stem_filter<slices>, dim3(unsigned(blocks_of(t))), dim3(threads), std::size_t(t.shared), 1, stream, work);
}

void run(ConvProblem const& p, Config const&, ConvArgs const& args, View memory, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  Tiling const t = tiling_of(p);
  Work work;
  work.raw = t.raw;
  work.raw.x = args.x.as<bf16>();
  work.pairs = t.pairs, work.blocks = t.blocks, work.stride = p.stride_h, work.pairs_of_image = p.p() * t.pairs;
  work.reciprocal = (1u << 20) / unsigned(t.pairs) + 1;
  work.y = tiled_map(args.y.data, {2 * p.k, std::int64_t(p.n) * work.pairs_of_image}, {2 * p.k}, {64, 64});
  work.partial = memory.as<float>();
  work.step = args.step;
  if (p.direction == Direction::bwd_filter) {
    p.k == 32 ? launch_filter<1>(work, t, stream) : launch_filter<2>(work, t, stream);
    float* const db = p.store.bias ? args.bias.as<float>() : nullptr;
    dim3 const grid(p.store.bias ? 28 : 27, unsigned(p.k / 32)), block(32, 32);
    auto const add = [&](auto* dw) {
      launch_ahead(add_windows<std::remove_pointer_t<decltype(dw)>>, grid, block, 0, 1, stream, work.partial, groups * blocks_of(t), p.k, p.stride_h, dw, db);
    };
    if (p.w_type == DType::f32) add(args.w.as<float>());
    else add(args.w.as<bf16>());
    return check_launch("conv stem_3x3_wgmma", p, stream);
  }
  work.filter = args.w.data, work.f32_filter = p.w_type == DType::f32;
  if (p.store.affine != Affine::none) work.affine = args.store_affine.as<float>();
  if (p.store.bias) work.bias = args.bias.as<float>();
  work.clamp = p.store.act != Activation::none;
  work.highest = p.store.act == Activation::relu6 ? 6.f : HUGE_VALF;
  auto const with = [&]<int slices>() {
    if (p.store.stats != Stats::none) {
      launch<slices, Ending::squares>(work, t, stream);
      launch_ahead(sum_rows, dim3(unsigned(p.k / 4)), dim3(256), 0, 1, stream, work.partial, groups * blocks_of(t), p.k, args.stats.as<float>());
    } else if (p.store == OnStore{}) {
      launch<slices, Ending::store>(work, t, stream);
    } else {
      launch<slices, Ending::pointwise>(work, t, stream);
    }
  };
  if (p.k == 32) with.template operator()<1>();
  else with.template operator()<2>();
  check_launch("conv stem_3x3_wgmma", p, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_stem_3x3_wgmma{
    .name = "stem_3x3_wgmma", .target = DeviceKind::cuda, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run};

}  // namespace falconet
