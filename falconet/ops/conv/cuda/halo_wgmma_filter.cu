// The filter gradient of halo_wgmma: dw[k][tap][c] = sum over pixels of dy[pixel][k] * x[pixel + tap][c]. Tiles of 4 x 56 pixels, dy padded with
// zeros to rows of 58; three warpgroups, one per filter row; a block sums over all its tiles, the blocks' sums are added in order.
#include <algorithm>
#include <type_traits>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/device/cuda/tensor_map.h"
#include "falconet/device/cuda/wgmma.cuh"
#include "falconet/ops/conv/cuda/halo_wgmma.h"
#include "falconet/ops/conv/cuda/slice_sums.cuh"

namespace falconet {
namespace {

constexpr int width = 56, pitch = width + 2;   // columns of a tile, and of its halo
constexpr int dy_bytes = 30 * 1024, x_bytes = 45 * 1024, stages = 3;   // 240 and 360 pixels of 128 bytes
constexpr int filter_shared = stages * (dy_bytes + x_bytes) + 1024;

struct Work {
  CUtensorMap dy, x;
  int tile_rows = 0, tile_columns = 0, tiles = 0;
  float *partial = nullptr, *bias_partial = nullptr;   // [blocks][64 k][9][64 c], [blocks][3][64 k]
};

// bias: the filter rows' warpgroups take the tiles in turn and sum dy.
template <bool bias>
__global__ void __launch_bounds__(512, 1) halo_filter(const __grid_constant__ Work work) {
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

}  // namespace

void launch_halo_filter(ConvProblem const& p, ConvArgs const& args, int blocks, View memory, cudaStream_t stream) {
  static bool const allowed = (allow_shared_memory(halo_filter<false>, filter_shared), allow_shared_memory(halo_filter<true>, filter_shared), true);
  (void)allowed;
  Work work;
  std::int64_t const row = std::int64_t(p.w) * 64;
  int const columns = std::min(p.w, width), across = (p.w + width - 1) / width, down = (p.h + 3) / 4;
  // Columns as (tile, column): the two beyond a tile's last are out of bounds, so zero.
  work.dy = tiled_map(args.y.data, {64, columns, across, p.h, p.n}, {64, std::int64_t(width) * 64, row, p.h * row}, {64, pitch, 1, 4, 1});
  work.x = tiled_map(args.x.data, {64, p.w, p.h, p.n}, {64, row, p.h * row}, {64, pitch, 6, 1});
  work.tile_rows = down, work.tile_columns = across, work.tiles = p.n * down * across;
  work.partial = memory.as<float>();
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

}  // namespace falconet
