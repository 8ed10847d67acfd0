// The first convolution of an ImageNet network: 7x7, stride 2, padding 3, 3 to 64 channels, in bf16 on Hopper's tensor cores, channels-last.
// With 3 channels nothing is aligned for the copy engine's im2col, but a window of 8 pixels by 3 channels is 24 consecutive elements of an
// input row: with the window starting one pixel early (that pixel's weights are zero) output pixel q reads elements 6q-12 .. 6q+11 of rows
// 2p-3 .. 2p+3. The sum therefore runs over 7 rows x 24 elements = 168, laid out as octets that never straddle a row.
//   A block keeps raw input rows in shared memory (21 rows for 8 output rows, zeros left and right), so x is read from memory once.
//   forward: pixels by channels; the A operand goes from the raw rows to registers by 4-byte loads without bank conflicts, the filter
//     stays in shared memory; endings: store, channel sums, or affine + bias + clamp.
//   filter gradient: channels by window elements; the windows of 64 pixels are written out in shared memory as B, dy comes by the copy
//     engine; every warpgroup sums over all its pixels, then the sums are added in order.
// Limits: output rows a multiple of 8, output columns a multiple of 16, at most 112. Cost: 2*64*176 operations per output pixel (of them
// 84 % useful); bytes: x and y once.
#include <algorithm>
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/tensor_map.h"
#include "falconet/device/cuda/wgmma.cuh"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/raw_rows.cuh"
#include "falconet/ops/conv/cuda/slice_sums.cuh"

namespace falconet {
namespace {

constexpr int most_blocks = 132;                           // multiprocessors of the H100 and H200; fixed for reproducible sums
constexpr int out_rows = 8, in_rows = 2 * out_rows + 5;    // of a tile
constexpr int most_columns = 112;                          // of y
constexpr int left_bytes = RawRows::left_bytes;
constexpr int pitch = 2 * most_columns * 6 + left_bytes + RawRows::right_bytes;
constexpr int slot_bytes = in_rows * pitch, slots = 3;
constexpr int window = 24, octets = 21;                    // elements of one filter row; octets of the whole sum

struct Work {
  RawRows raw;
  bf16 const* filter = nullptr;
  CUtensorMap y;                       // {64, pixels}
  int p = 0, q = 0, tiles = 0;
  unsigned reciprocal = 0;             // of q: (m * reciprocal) >> 20 = m / q for m < out_rows * q
  float const *affine = nullptr, *bias = nullptr;
  bool has_stats = false, clamp = false;
  float highest = 0;
  StepState const* step = nullptr;
  float* partial = nullptr;
};

// Byte of the window of pixel m of a tile, less the octet's place.
__device__ int window_of(Work const& work, int m) {
  int const row = int((unsigned(m) * work.reciprocal) >> 20), q = m - row * work.q;
  return row * 2 * pitch + left_bytes + q * 12 - 24;
}
__device__ constexpr int octet_offset(int octet) { return octet / 3 * pitch + octet % 3 * 16; }

// ---------------------------------------------------------------- forward

enum class Ending { store, squares, pointwise };
constexpr int groups = 3, threads = 128 * (1 + groups);     // of warpgroups that multiply
constexpr int filter_bytes = 3 * 8192, staging_bytes = groups * 2 * 8192;
constexpr int forward_shared = filter_bytes + staging_bytes + slots * slot_bytes + 1024;

template <Ending ending>
__global__ void __launch_bounds__(threads, 1) stem(const __grid_constant__ Work work) {
  using namespace ptx;
  if (lacks_hopper()) return;
  extern __shared__ __align__(1024) char dynamic[];
  __shared__ std::uint64_t full[slots], empty[slots];
  __shared__ float2 scale[32], shift[32];   // of pairs of channels
  std::uint32_t const base = (shared_address(dynamic) + 1023) & ~1023u;
  char* const memory = dynamic + (base - shared_address(dynamic));
  char* const rows = memory + filter_bytes + staging_bytes;
  int const group = threadIdx.x / 128;
  // The filter as B, k_major: element e of window row r at 24 r + e; e = 0..2 is the early pixel.
  for (int i = threadIdx.x; i < 64 * 192; i += threads) {
    int const k = i / 192, element = i % 192, r = element / window, e = element % window;
    bf16 const v = r < 7 && e >= 3 ? work.filter[((k * 7 + r) * 7 + e / 3 - 1) * 3 + e % 3] : bf16{0};
    *reinterpret_cast<bf16*>(memory + element / 64 * 8192 + swizzled(k, element % 64 / 8) + element % 8 * 2) = v;
  }
  if (ending == Ending::pointwise && threadIdx.x < 64) {
    int const c = threadIdx.x;
    reinterpret_cast<float*>(scale)[c] = work.affine ? work.affine[c] : 1.f;
    reinterpret_cast<float*>(shift)[c] = (work.affine ? work.affine[64 + c] : 0.f) + (work.bias ? work.bias[c] : 0.f);
  }
  clear_margins(work.raw, rows, threads);
  fence_async_shared();
  if (threadIdx.x == 0) {
    for (int i = 0; i < slots; ++i) barrier_init(shared_address(full + i), 1), barrier_init(shared_address(empty + i), groups);
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
  int const me = group - 1, thread = threadIdx.x & 127, warp = thread / 32, lane = thread % 32;
  bool const leader = thread == 0;
  std::uint32_t const staging = base + filter_bytes + me * 2 * 8192;
  float sums[4] = {0, 0, 0, 0};
  int const valid = ending == Ending::squares ? work.step->valid_count : 0;
  int const blocks = out_rows * work.q / 64;
  float d[32];
#pragma unroll
  for (int i = 0; i < 32; ++i) d[i] = 0;
  int slot = 0, phase = 0, number = 0, block = me;
  for (int tile = blockIdx.x; tile < work.tiles; tile += gridDim.x) {
    barrier_wait(shared_address(full + slot), phase);
    char const* const in = rows + slot * slot_bytes + (lane & 3) * 4;
    for (; block < blocks; block += groups, ++number) {   // the warpgroups take the blocks in turn, across tiles
      int const m = block * 64 + 16 * warp + lane / 4, pixel = tile * out_rows * work.q + block * 64;
      char const* const low = in + window_of(work, m);
      char const* const high = in + window_of(work, m + 8);
      std::uint32_t a[11][4];
#pragma unroll
      for (int kk = 0; kk < 11; ++kk)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          int const octet = 2 * kk + half;
          a[kk][2 * half] = octet < octets ? *reinterpret_cast<std::uint32_t const*>(low + octet_offset(octet)) : 0;
          a[kk][2 * half + 1] = octet < octets ? *reinterpret_cast<std::uint32_t const*>(high + octet_offset(octet)) : 0;
        }
      hold(d);
      wgmma_fence();
#pragma unroll
      for (int kk = 0; kk < 11; ++kk) wgmma_registers(d, a[kk], k_major_operand(base + kk / 4 * 8192) + kk % 4 * k_major_step, kk != 0);
      wgmma_commit();
      wgmma_wait<0>();
      hold(d);
      std::uint32_t const buffer = staging + (number & 1) * 8192;
      if (leader) store_wait_read<1>();
      named_sync(1 + me, 128);
      int const fragment_row = 16 * warp + (lane / 8 & 1) * 8 + lane % 8;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float* const v = d + 8 * j;
        if constexpr (ending == Ending::pointwise) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            int const pair = 8 * j + 4 * half + (lane & 3);
            float2 const by = scale[pair], plus = shift[pair];
            float* const u = v + 4 * half;
            u[0] = u[0] * by.x + plus.x, u[1] = u[1] * by.y + plus.y, u[2] = u[2] * by.x + plus.x, u[3] = u[3] * by.y + plus.y;
          }
          if (work.clamp) {
#pragma unroll
            for (int e = 0; e < 8; ++e) v[e] = fminf(fmaxf(v[e], 0.f), work.highest);
          }
        }
        std::uint32_t const packed[4] = {pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])};
        store_matrices(buffer + swizzled(fragment_row, 2 * j + lane / 16), packed);
      }
      fence_async_shared();
      named_sync(1 + me, 128);
      if (leader) store_2d(&work.y, 0, pixel, buffer), store_commit();
      if constexpr (ending == Ending::squares) add_slice<false>(sums, buffer, 0, warp, lane, valid * work.p * work.q - pixel);
    }
    block -= blocks;
    named_sync(1 + me, 128);   // every warp has read its rows
    if (leader) barrier_arrive(shared_address(empty + slot));
    if (++slot == slots) slot = 0, phase ^= 1;
  }
  if (leader) store_wait();
  if constexpr (ending == Ending::squares) write_slice(sums, work.partial + (blockIdx.x * groups + me) * 128, 64, warp, lane);
}

// sums[i] = the sum of partial[row][i] over the rows, in a fixed order; a warp per element.
__global__ void __launch_bounds__(256) sum_rows(float const* partial, int rows, int elements, float* sums) {
  int const element = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (element >= elements) return;
  double sum = 0;
  for (int i = lane; i < rows; i += 32) sum += partial[std::int64_t(i) * elements + element];
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  if (lane == 0) sums[element] = float(sum);
}

// ---------------------------------------------------------------- filter gradient

constexpr int windows_bytes = 3 * 8192;                    // 64 pixels by 192 elements
constexpr int group_bytes = 2 * windows_bytes + 2 * 8192;  // two sets of windows, two of dy
constexpr int filter_shared = 2 * group_bytes + slots * slot_bytes + 1024;

__global__ void __launch_bounds__(384, 1) stem_filter(const __grid_constant__ Work work) {
  using namespace ptx;
  if (lacks_hopper()) return;
  extern __shared__ __align__(1024) char dynamic[];
  __shared__ std::uint64_t full[slots], empty[slots], dy_full[2][2];
  std::uint32_t const base = (shared_address(dynamic) + 1023) & ~1023u;
  char* const memory = dynamic + (base - shared_address(dynamic));
  char* const rows = memory + 2 * group_bytes;
  int const group = threadIdx.x / 128;
  clear_margins(work.raw, rows, 384);
  for (int i = threadIdx.x; i < 2 * group_bytes / 16; i += 384) reinterpret_cast<uint4*>(memory)[i] = make_uint4(0, 0, 0, 0);
  fence_async_shared();
  if (threadIdx.x == 0) {
    for (int i = 0; i < slots; ++i) barrier_init(shared_address(full + i), 1), barrier_init(shared_address(empty + i), 2);
    for (int i = 0; i < 4; ++i) barrier_init(shared_address(&dy_full[0][0] + i), 1);
    barrier_init_done();
    prefetch_map(&work.y);
  }
  __syncthreads();
  if (group == 0) {
    give_registers<40>();
    if (threadIdx.x < 32) copy_rows(work.raw, full, empty, rows);
    return;
  }
  take_registers<232>();
  int const me = group - 1, thread = threadIdx.x & 127, warp = thread / 32, lane = thread % 32;
  bool const leader = thread == 0;
  std::uint32_t const mine = base + me * group_bytes;
  int const blocks = out_rows * work.q / 64;
  int const pixel = warp / 2 * 32 + lane;   // whose windows this thread writes: half of the octets
  float d[96];
#pragma unroll
  for (int i = 0; i < 96; ++i) d[i] = 0;
  int slot = 0, phase = 0, number = 0;
  for (int tile = blockIdx.x; tile < work.tiles; tile += gridDim.x) {
    barrier_wait(shared_address(full + slot), phase);
    for (int block = me; block < blocks; block += 2, ++number) {
      int const set = number & 1;
      std::uint32_t const windows = mine + set * windows_bytes, dy = mine + 2 * windows_bytes + set * 8192;
      // The product of two blocks ago has been waited for by every warp (the barrier below), so its operands may be replaced.
      if (leader) {
        std::uint32_t const ready = shared_address(&dy_full[me][set]);
        barrier_expect(ready, 8192);
        load_2d(dy, &work.y, 0, tile * out_rows * work.q + block * 64, ready);
      }
      char const* const from = rows + slot * slot_bytes + window_of(work, block * 64 + pixel);
      char* const to = memory + (windows - base);
      auto const write = [&](int octet) {
        std::uint32_t const* const source = reinterpret_cast<std::uint32_t const*>(from + octet_offset(octet));
        *reinterpret_cast<uint4*>(to + octet / 8 * 8192 + swizzled(pixel, octet % 8)) = make_uint4(source[0], source[1], source[2], source[3]);
      };
      if (warp % 2 == 0) {
#pragma unroll
        for (int octet = 0; octet < 11; ++octet) write(octet);
      } else {
#pragma unroll
        for (int octet = 11; octet < octets; ++octet) write(octet);
      }
      fence_async_shared();
      wgmma_wait<0>();   // the product of the last block
      hold(d);
      named_sync(1 + me, 128);
      barrier_wait(shared_address(&dy_full[me][set]), (number >> 1) & 1);
      wgmma_fence();
#pragma unroll
      for (int kk = 0; kk < 4; ++kk) wgmma<1, 1>(d, mn_major_operand(dy, 8192) + kk * mn_major_step, mn_major_operand(windows, 8192) + kk * mn_major_step, 1);
      wgmma_commit();
    }
    if (leader) barrier_arrive(shared_address(empty + slot));   // the barrier of the last block came after all its loads
    if (++slot == slots) slot = 0, phase ^= 1;
  }
  wgmma_wait<0>();
  hold(d);
  float* const out = work.partial + ((blockIdx.x * 2 + me) * 64 + thread / 32 * 16 + lane / 4) * 192 + 2 * (lane & 3);
#pragma unroll
  for (int j = 0; j < 24; ++j) {
    *reinterpret_cast<float2*>(out + 8 * j) = make_float2(d[4 * j], d[4 * j + 1]);
    *reinterpret_cast<float2*>(out + 8 * 192 + 8 * j) = make_float2(d[4 * j + 2], d[4 * j + 3]);
  }
}

__device__ void put(float* p, float v) { *p = v; }
__device__ void put(bf16* p, float v) { *p = to_bf16(v); }

// dw[k][r][s][c] = the sum of partial[row][k][24 r + 3 (s + 1) + c] over the rows: thread (x, y) adds every eighth row from y on, then the
// eight are added in order.
template <class E>
__global__ void __launch_bounds__(256) add_windows(float const* partial, int rows, E* dw) {
  __shared__ float sums[8][32];
  int const k = blockIdx.y, element = blockIdx.x * 32 + threadIdx.x, r = element / window, e = element % window;
  float sum = 0;
#pragma unroll 4
  for (int i = threadIdx.y; i < rows; i += 8) sum += __ldg(partial + (std::int64_t(i) * 64 + k) * 192 + element);
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || r > 6 || e < 3) return;
  for (int i = 1; i < 8; ++i) sum += sums[i][threadIdx.x];
  put(dw + (k * 7 + r) * 21 + e - 3, sum);
}

// ---------------------------------------------------------------- host

std::string reject(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (facts.compute_capability != 90) return "needs a Hopper GPU (compute capability 9.0)";
  bool const filter = p.direction == Direction::bwd_filter;
  if (p.direction == Direction::bwd_data) return "no data gradient";
  if (p.x_type != DType::bf16 || p.y_type != DType::bf16 || p.layout != Layout::nhwc) return "bf16 and nhwc only";
  if (p.w_type != DType::bf16 && !(filter && p.w_type == DType::f32)) return "a filter in bf16 only (dw in f32 too)";
  if (p.c != 3 || p.k != 64 || p.groups != 1) return "3 to 64 channels only";
  if (p.r != 7 || p.s != 7 || p.stride_h != 2 || p.stride_w != 2 || p.dilation_h != 1 || p.dilation_w != 1) return "7x7 filters of stride 2 only";
  if (p.pad_top != 3 || p.pad_left != 3 || p.pad_bottom != 3 || p.pad_right != 3) return "padding 3 only";
  if (p.h % 2 || p.w % 8 || p.p() % out_rows || p.q() % 16 || p.q() > most_columns) return "output rows a multiple of 8 and columns a multiple of 16, at most 112, only";
  if (p.load_x != OnLoad{} || p.load_dy != OnLoad{}) return "slots on load";
  auto const& s = p.store;
  if (filter) return s == OnStore{} ? "" : "slots of the filter gradient";
  if (s.pool.kind != PoolSlot::none || s.residual || s.mask != Mask::none || s.stats == Stats::dot || s.stats == Stats::dot_other) return "pooling, residual or mask";
  if (s.stats != Stats::none && (s.affine != Affine::none || s.bias || s.act != Activation::none)) return "statistics beside other store slots";
  if (s.affine == Affine::two_operand) return "a result has no second operand";
  if (s.act != Activation::none && s.act != Activation::relu && s.act != Activation::relu6) return "only relu and relu6";
  if (std::int64_t(p.n) * p.p() * p.q() >= std::int64_t(1) << 30) return "2^30 pixels or more";
  return {};
}

int tiles_of(ConvProblem const& p) { return p.n * (p.p() / out_rows); }
int blocks_of(ConvProblem const& p) { return std::min(tiles_of(p), most_blocks); }

std::size_t scratch(ConvProblem const& p, Config const&) {
  if (p.direction == Direction::bwd_filter) return std::size_t(blocks_of(p)) * 2 * 64 * 192 * sizeof(float);
  return p.store.stats == Stats::none ? 0 : std::size_t(blocks_of(p)) * groups * 128 * sizeof(float);
}

double seconds(ConvProblem const& p, DeviceFacts const&) {
  return 8e-6 + std::max(std::ceil(double(tiles_of(p)) / most_blocks) * out_rows * p.q() / 64 * 0.4e-6, bytes_of(p.operands()) / 3.8e12);
}

template <Ending ending>
void launch(Work const& work, int blocks, cudaStream_t stream) {
  static bool const allowed = (allow_shared_memory(stem<ending>, forward_shared), true);
  (void)allowed;
  stem<ending><<<blocks, threads, forward_shared, stream>>>(work);
}

void run(ConvProblem const& p, Config const&, ConvArgs const& args, View memory, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  Work work;
  work.p = p.p(), work.q = p.q(), work.tiles = tiles_of(p);
  work.raw = {.x = args.x.as<bf16>(), .h = p.h, .row_bytes = p.w * 6, .tiles = work.tiles, .tiles_of_image = work.p / out_rows, .step = 2 * out_rows, .pad_top = 3,
              .rows = in_rows, .pitch = pitch, .slots = slots};
  work.reciprocal = (1u << 20) / unsigned(work.q) + 1;
  work.y = tiled_map(args.y.data, {64, std::int64_t(p.n) * work.p * work.q}, {64}, {64, 64});
  work.partial = memory.as<float>();
  work.step = args.step;
  int const blocks = blocks_of(p);
  if (p.direction == Direction::bwd_filter) {
    static bool const allowed = (allow_shared_memory(stem_filter, filter_shared), true);
    (void)allowed;
    stem_filter<<<blocks, 384, filter_shared, stream>>>(work);
    dim3 const grid(6, 64), block(32, 8);
    if (p.w_type == DType::f32) add_windows<<<grid, block, 0, stream>>>(work.partial, 2 * blocks, args.w.as<float>());
    else add_windows<<<grid, block, 0, stream>>>(work.partial, 2 * blocks, args.w.as<bf16>());
    return check_launch("conv stem_wgmma", p, stream);
  }
  work.filter = args.w.as<bf16>();
  if (p.store.affine != Affine::none) work.affine = args.store_affine.as<float>();
  if (p.store.bias) work.bias = args.bias.as<float>();
  work.clamp = p.store.act != Activation::none;
  work.highest = p.store.act == Activation::relu6 ? 6.f : HUGE_VALF;
  if (p.store.stats != Stats::none) {
    launch<Ending::squares>(work, blocks, stream);
    sum_rows<<<16, 256, 0, stream>>>(work.partial, groups * blocks, 128, args.stats.as<float>());
  } else if (p.store == OnStore{}) {
    launch<Ending::store>(work, blocks, stream);
  } else {
    launch<Ending::pointwise>(work, blocks, stream);
  }
  check_launch("conv stem_wgmma", p, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_stem_wgmma{
    .name = "stem_wgmma", .target = DeviceKind::cuda, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run};

}  // namespace falconet
