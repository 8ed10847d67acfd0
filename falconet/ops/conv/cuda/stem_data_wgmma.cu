// The data gradient of a network's first convolution: 3 channels, up to 64 filters of up to 7x7 with stride 2, in bf16 on Hopper's tensor cores,
// channels-last. A block of 2x2 pixels of dx, 12 numbers, gets products from 4x4 pixels of dy at most: of pixel (i + down, j + across) through tap
// (r, s) = (a + pad_top - 2 down, b + pad_left - 2 across) for pixel (a, b) of block (i, j). So a row of dy is multiplied at once, shifted along
// itself by 0 to 3 pixels, with the filter's parts for the four rows of blocks that it touches: 64 pixels by 48 columns, 64 filters deep.
//   A warpgroup goes down a strip of 64 blocks. With each row of dy one row of blocks is complete and is stored; the sums of the other three move
//     up by one: no partial sums leave the registers.
//   Rows of dy come by the copy engine, zeros beside the image; a shift by pixels is one of the operand's address.
// Limits: 3 channels, filters a multiple of 8, nothing on load or store. Filters smaller than 7x7 pay for 8x8.
// Cost: 2*48*4*64 operations per pixel of dy; bytes: dy and dx once (halos of 3 pixels in 67).
#include <algorithm>
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/device/cuda/tensor_map.h"
#include "falconet/device/cuda/wgmma.cuh"
#include "falconet/ops/conv/cuda/algorithms.h"

namespace falconet {
namespace {

constexpr int most_blocks = 132;                                      // multiprocessors of the H100 and H200
constexpr int groups = 4, threads = 128 * groups + 32 * groups;       // warpgroups that multiply, each with a warp that copies for it
constexpr int strip = 64, reach = 4, elements = 12;                   // blocks of pixels of a strip; pixels of dy along an axis; numbers of a block
constexpr int columns = reach * elements;                             // of the product
constexpr int form_bytes = columns * 128, filter_bytes = reach * form_bytes;   // of the filter for one shift
constexpr int row_pixels = strip + reach - 1, row_bytes = row_pixels * 128, slot_bytes = (row_bytes + 1023) / 1024 * 1024, slots = 5;
constexpr int shared = filter_bytes + groups * slots * slot_bytes + 1024;
static_assert(64 * 7 * 7 * 3 * 2 <= groups * slots * slot_bytes, "the filter is first laid where the rows of dy come later");

struct Work {
  CUtensorMap dy;                      // {k, q, p, n}
  bf16* dx = nullptr;
  void const* filter = nullptr;
  bool f32_filter = false;
  int n = 0, h = 0, w = 0, k = 0, r = 0, s = 0, pad_top = 0, pad_left = 0;
  int strips = 0, bands = 0, band_rows = 0, items = 0;   // of an image: strips of its columns, bands of its rows of blocks; all of them
};

// An item's place: image, first column and first row of blocks, rows.
struct Place {
  int n, column, row, rows;
};
FALCONET_DEVICE Place place_of(Work const& work, int item) {
  int const each = work.strips * work.bands, n = item / each, in_image = item - n * each, band = in_image / work.strips;
  int const row = band * work.band_rows;
  return {n, (in_image - band * work.strips) * strip, row, min(work.band_rows, (work.h + 1) / 2 - row)};
}
// Rows of dy that an item reads.
FALCONET_DEVICE int steps_of(Place const& place) { return place.rows + reach - 1; }

// The row of dy with which a row of blocks is complete lies so many below it; the last of the four shifts is so many pixels to the right.
FALCONET_DEVICE int ahead(int pad) { return (pad + 1) / 2; }

// Column of the product for number e of the blocks that a row of dy completes (turn 0), or that the turn-th row after it does: eight of each, then
// the other four of each.
FALCONET_DEVICE int column_of(int turn, int e) { return e < 8 ? turn * 8 + e : reach * 8 + turn * 4 + e - 8; }

// d[64 x 48] = a b (+ d), both k_major.
FALCONET_DEVICE void multiply(float (&d)[24], std::uint64_t a, std::uint64_t b, int add) {
  FALCONET_HOPPER_ASM(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %26, 0;\nwgmma.mma_async.sync.aligned.m64n48k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, "
      "%17, %18, %19, %20, %21, %22, %23}, %24, %25, p, 1, 1, 0, 0;\n}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
        "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
      : "l"(a), "l"(b), "r"(add));
}

// Writes the filter as operands, one for each shift: a row is a column of the product, 64 filters. By all threads.
FALCONET_DEVICE void write_filter(Work const& work, char* to, bf16* plain) {
  int const taps = work.r * work.s * 3, lane = threadIdx.x % 32;
#pragma unroll 4
  for (int i = threadIdx.x; i < work.k * taps; i += threads)
    plain[i] = work.f32_filter ? to_bf16(static_cast<float const*>(work.filter)[i]) : static_cast<bf16 const*>(work.filter)[i];
  __syncthreads();
  for (int i = threadIdx.x / 32; i < reach * reach * elements; i += threads / 32) {
    // turn: row of dy, counted back from the one that completes the block
    int const e = i % elements, shift = i / elements % reach, turn = i / elements / reach;
    int const r = e / 6 + work.pad_top - 2 * (ahead(work.pad_top) - turn), s = e % 6 / 3 + work.pad_left - 2 * (ahead(work.pad_left) - reach + 1 + shift);
    bool const within = r >= 0 && r < work.r && s >= 0 && s < work.s;
    bf16 const* const tap = plain + (r * work.s + s) * 3 + e % 3;
    std::uint32_t const low = within && 2 * lane < work.k ? tap[2 * lane * taps].bits : 0u, high = within && 2 * lane + 1 < work.k ? tap[(2 * lane + 1) * taps].bits : 0u;
    *reinterpret_cast<std::uint32_t*>(to + shift * form_bytes + ptx::swizzled(column_of(turn, e), lane / 4) + lane % 4 * 4) = low | high << 16;
  }
  ptx::fence_async_shared();
  __syncthreads();
}

// Two neighbouring numbers of a row of six: pixels of a block, 3 channels each; `left` columns of the image from the block on.
FALCONET_DEVICE void store_two(bf16* row, int word, int left, bool pairs, std::uint32_t both) {
  if (pairs) {
    if (left > 0) reinterpret_cast<std::uint32_t*>(row)[word] = both;
    return;
  }
  std::uint16_t* const to = reinterpret_cast<std::uint16_t*>(row) + 2 * word;
  if (2 * word / 3 < left) to[0] = std::uint16_t(both);
  if ((2 * word + 1) / 3 < left) to[1] = std::uint16_t(both >> 16);
}

__global__ void __launch_bounds__(threads, 1) stem_data(const __grid_constant__ Work work) {
  using namespace ptx;
  if (lacks_hopper()) return;
  extern __shared__ __align__(1024) char dynamic[];
  __shared__ std::uint64_t full[groups][slots], empty[groups][slots];
  std::uint32_t const base = (shared_address(dynamic) + 1023) & ~1023u;
  char* const memory = dynamic + (base - shared_address(dynamic));
  if (threadIdx.x == 0) {
    for (int i = 0; i < groups * slots; ++i) barrier_init(shared_address(&full[0][0] + i), 1), barrier_init(shared_address(&empty[0][0] + i), 4);
    barrier_init_done();
    prefetch_map(&work.dy);
  }
  wait_for_work_ahead();
  write_filter(work, memory, reinterpret_cast<bf16*>(memory + filter_bytes));
  int const warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = warp < 4 * groups ? warp / 4 : warp - 4 * groups;
  std::uint32_t const rows = base + filter_bytes + group * slots * slot_bytes;
  int const first = blockIdx.x + gridDim.x * group, step = gridDim.x * groups;
  if (warp >= 4 * groups) {
    if (lane > 0) return;
    int slot = 0, phase = 1;
    for (int item = first; item < work.items; item += step) {
      Place const at = place_of(work, item);
      int const q = at.column + ahead(work.pad_left) - reach + 1, p = at.row + ahead(work.pad_top) - reach + 1, steps = steps_of(at);
      for (int i = 0; i < steps; ++i) {
        barrier_wait(shared_address(&empty[group][slot]), phase);
        barrier_expect(shared_address(&full[group][slot]), row_bytes);
        load_4d(rows + slot * slot_bytes, &work.dy, 0, q, p + i, at.n, shared_address(&full[group][slot]));
        if (++slot == slots) slot = 0, phase ^= 1;
      }
    }
    return;
  }
  int const quad = lane & 3, block = 16 * (warp & 3) + lane / 4;   // of the strip, this thread's first; the other is 8 further
  bool const pairs = work.w % 2 == 0, lower_half = quad < 2;
  float d[24];
#pragma unroll
  for (int i = 0; i < 24; ++i) d[i] = 0;
  int slot = 0, phase = 0;
  for (int item = first; item < work.items; item += step) {
    Place const at = place_of(work, item);
    int const steps = steps_of(at), left = work.w - 2 * (at.column + block);
    bf16* const to = work.dx + (std::int64_t(at.n) * work.h * work.w + 2 * (at.column + block)) * 3;
    // What the rows of dy so far gave to the rows of blocks to come; rest: as the product's last 16 columns lie, two rows of blocks each.
    float sums[3][4], rest[2][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[0][i] = sums[1][i] = sums[2][i] = rest[0][i] = rest[1][i] = 0;
    for (int turn = 0; turn < steps; ++turn) {
      barrier_wait(shared_address(&full[group][slot]), phase);
      std::uint64_t const a = k_major_operand(rows + slot * slot_bytes), b = k_major_operand(base);
      hold(d);
      wgmma_fence();
#pragma unroll
      for (int shift = 0; shift < reach; ++shift)
#pragma unroll
        for (int kk = 0; kk < 4; ++kk) multiply(d, a + shift * (128 >> 4) + kk * k_major_step, b + shift * (form_bytes >> 4) + kk * k_major_step, (shift | kk) != 0);
      wgmma_commit();
      wgmma_wait<0>();
      hold(d);
      if (lane == 0) barrier_arrive(shared_address(&empty[group][slot]));
      if (++slot == slots) slot = 0, phase ^= 1;
      float complete[8];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        complete[i] = sums[0][i] + d[i];
        sums[0][i] = sums[1][i] + d[4 + i];
        sums[1][i] = sums[2][i] + d[8 + i];
        sums[2][i] = d[12 + i];
        float const near = rest[0][i] + d[16 + i], far = rest[1][i] + d[20 + i];   // lower half: rows 0 and 2 to come, upper half: rows 1 and 3
        complete[4 + i] = near;
        rest[0][i] = __shfl_xor_sync(~0u, lower_half ? far : near, 2);
        float const last = __shfl_xor_sync(~0u, far, 2);
        rest[1][i] = lower_half ? last : 0.f;
      }
      int const done = turn - reach + 1, h = 2 * (at.row + done);
      if (done < 0) continue;
      bf16* const upper = to + std::int64_t(h) * work.w * 3;
      bf16* const lower = upper + work.w * 3;
      bool const two = h + 1 < work.h;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int const on = half * 8, still = left - 2 * on;
        if (quad < 3 || two) store_two((quad < 3 ? upper : lower) + on * 6, quad % 3, still, pairs, pack_bf16(complete[2 * half], complete[2 * half + 1]));
        if (lower_half && two) store_two(lower + on * 6, 1 + quad, still, pairs, pack_bf16(complete[4 + 2 * half], complete[4 + 2 * half + 1]));
      }
    }
  }
}

// ---------------------------------------------------------------- host

std::string reject(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.direction != Direction::bwd_data) return "the data gradient only";
  if (facts.compute_capability != 90) return "needs a Hopper GPU (compute capability 9.0)";
  if (p.x_type != DType::bf16 || p.y_type != DType::bf16 || p.layout != Layout::nhwc) return "bf16 and nhwc only";
  if (p.w_type != DType::bf16 && p.w_type != DType::f32) return "a filter in bf16 or f32 only";
  if (p.c != 3 || p.groups != 1) return "3 channels in one group only";
  if (p.k % 8 || p.k > 64) return "multiples of 8 filters up to 64 only";
  if (p.r > 7 || p.s > 7) return "filters larger than 7x7";
  if (p.stride_h != 2 || p.stride_w != 2 || p.dilation_h != 1 || p.dilation_w != 1) return "stride 2 without dilation only";
  if (!p.plain()) return "slots on load or store";
  if (std::int64_t(p.n) * p.h * p.w >= std::int64_t(1) << 30) return "2^30 pixels or more";
  return {};
}

struct Split {
  int strips, bands, band_rows, items;
};
Split split_of(ConvProblem const& p) {
  int const rows = (p.h + 1) / 2, strips = ((p.w + 1) / 2 + strip - 1) / strip;
  int const wanted = std::max(1, std::min(most_blocks * groups / (p.n * strips), rows / 8));
  int const band_rows = (rows + wanted - 1) / wanted, bands = (rows + band_rows - 1) / band_rows;
  return {strips, bands, band_rows, p.n * strips * bands};
}

double seconds(ConvProblem const& p, DeviceFacts const&) {
  Split const split = split_of(p);
  double const rounds = std::ceil(double(split.items) / (most_blocks * groups));
  return 8e-6 + std::max(rounds * (split.band_rows + reach) * 1.0e-6, bytes_of(p.operands()) / 3.6e12);
}

void run(ConvProblem const& p, Config const&, ConvArgs const& args, View, Stream& on) {
  static bool const allowed = (allow_shared_memory(stem_data, shared), true);
  (void)allowed;
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  Split const split = split_of(p);
  Work work;
  std::int64_t const row = std::int64_t(p.q()) * p.k;
  work.dy = tiled_map(args.y.data, {p.k, p.q(), p.p(), p.n}, {p.k, row, p.p() * row}, {64, row_pixels, 1, 1});
  work.dx = args.x.as<bf16>();
  work.filter = args.w.data;
  work.f32_filter = p.w_type == DType::f32;
  work.n = p.n, work.h = p.h, work.w = p.w, work.k = p.k, work.r = p.r, work.s = p.s, work.pad_top = p.pad_top, work.pad_left = p.pad_left;
  work.strips = split.strips, work.bands = split.bands, work.band_rows = split.band_rows, work.items = split.items;
  int const blocks = std::min(split.items, most_blocks);
  launch_ahead(stem_data, dim3(unsigned(blocks)), dim3(threads), shared, 1, stream, work);
  check_launch("conv stem_data_wgmma", p, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_stem_data_wgmma{
    .name = "stem_data_wgmma", .target = DeviceKind::cuda, .reject = reject, .seconds = seconds, .run = run};

}  // namespace falconet
