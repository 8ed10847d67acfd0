// The kernel of implicit_gemm_wgmma: forward and data gradient as a matrix product of pixels by channels on Hopper's tensor cores, in
// bf16 with f32 sums, tensors channels-last.
//   result[pixel][channel] = sum over taps and source channels of source[pixel moved by tap][c] * filter[tap][c][channel]
// Forward: source x, filter K-major as it lies in memory. Data gradient: source dy, the filter read M/N-major, so no transposed copy is
// made. A strided data gradient falls into parts, one per residue of (h, w) modulo the stride; each is a stride-1 product with its own
// taps, stored on its own sub-lattice of dx.
// The source is never unfolded in memory: the copy engine's im2col mode fetches [pixels][64 channels] of one tap into shared memory,
// wrapping rows and images by itself and filling padding with zeros. A block stays for the whole launch and walks over tiles in a fixed
// order; warpgroup 0 copies, warpgroups 1 and 2 multiply and store. They share a tile, or alternate between tiles (one multiplies while
// the other stores). Statistics are taken from the stored bf16 values by tensor core and written per block, then added in order.
#pragma once
#include <cmath>

#include "falconet/device/cuda/launch.cuh"
#include "falconet/device/cuda/wgmma.cuh"
#include "falconet/device/device.h"
#include "falconet/ops/conv/cuda/slice_sums.cuh"

namespace falconet::wgmma_conv {

// What happens between the sum and the store.
enum class Ending {
  store,      // nothing
  squares,    // + channel sums of v and v*v
  pointwise,  // affine, bias, residual, clamp
  gradient,   // residual, mask, channel sums of v*m and v
  gradient_other,   // residual, mask, channel sums of v*o and v with a tensor o of its own
  gradient_bits,    // the same with a mask of bits, which arrives with the first slice of 64 pixels
  gradient_x,       // mask where the activation passes scale * x + shift, channel sums of v*x and v
};

struct Part {
  int first_tile = 0;
  int pixels = 0;                     // n * rows * columns of the result
  int image = 0, columns = 0;         // pixels per image and per row
  int step_h = 1, step_w = 1, lower_h = 0, lower_w = 0;            // first source pixel of a result pixel: row * step + lower
  int taps_h = 0, taps_w = 0, dilation_h = 1, dilation_w = 1;      // tap (i, j) is displaced by (i, j) * dilation
  int first_r = 0, first_s = 0, step_r = 1, step_s = 1;            // and is the filter's (first + (i, j) * step)
};

constexpr int most_parts = 4;
struct Work {
  CUtensorMap source[most_parts], result[most_parts], residual[most_parts], mask[most_parts], other[most_parts], filter;
  Part part[most_parts];
  int parts = 1, tiles = 0, channel_tiles = 0, channels = 0;       // channels of the result
  int blocks_of_64 = 0, filter_width = 0;                          // of source channels; s
  float const *affine = nullptr, *bias = nullptr, *load_x = nullptr;   // load_x: of gradient_x
  float mask_most = HUGE_VALF;   // the mask lets pass what lies between 0 and this
  bool has_residual = false, has_mask = false, masked = false, has_stats = false, clamp = false;   // has_mask: the tensor is read
  float lowest = 0, highest = 0;
  StepState const* step = nullptr;
  float* partial = nullptr;                                        // [blocks][2][2][channels of a tile]
};

template <int pixels_, int channels_, Ending ending_, bool gradient_, bool lattice_, bool alternate_>
struct Form {
  static constexpr int pixels = pixels_, channels = channels_;     // of a tile
  static constexpr Ending ending = ending_;
  static constexpr bool gradient = gradient_, lattice = lattice_, alternate = alternate_;
  static constexpr int blocks = pixels / 64 / (alternate ? 1 : 2); // of 64 pixels per warpgroup
  static constexpr int slices = channels / 64;
  static constexpr int stage_bytes = (pixels + channels) * 128;
  static constexpr bool inputs = ending == Ending::pointwise || ending == Ending::gradient || ending == Ending::gradient_other || ending == Ending::gradient_bits;
  static constexpr int staging = inputs ? (stage_bytes <= 32768 || ending == Ending::pointwise ? 4 : 3) : 2;   // buffers of 64x64 per warpgroup
  static constexpr bool of_x = ending == Ending::gradient_x, as_bits = ending == Ending::gradient_bits;
  static constexpr int masks = ending == Ending::gradient || ending == Ending::gradient_other ? 2 : 0, others = ending == Ending::gradient_other || of_x || as_bits ? 2 : 0;
  static constexpr int bits_row = channels > 128 ? channels / 8 : 16, bits_bytes = as_bits ? 64 * bits_row : 0;   // of a pixel, of 64; two of a warpgroup
  static constexpr bool beside = masks + others > 0;               // tensors are read beside a gradient, which may be summed
  static constexpr bool shifts = ending == Ending::pointwise;      // each warpgroup keeps its tile's biases
  static constexpr int room = 232448 - 1024 - 512 - (shifts || of_x ? 2 * channels * 4 : 1536) - 2 * ((staging + masks + others) * 8192 + 2 * bits_bytes);
  static constexpr int stages = room / stage_bytes > 6 ? 6 : room / stage_bytes;
  static constexpr int shared_bytes = stages * stage_bytes + 2 * ((staging + masks + others) * 8192 + 2 * bits_bytes) + 1024;
  static constexpr int threads = 384;
};

struct Place {
  int part, pixel_tile, channel_tile;
};
FALCONET_DEVICE Place place_of(Work const& work, int tile) {
  int part = 0;
  while (part + 1 < work.parts && tile >= work.part[part + 1].first_tile) ++part;
  int const local = tile - work.part[part].first_tile;
  return {part, local / work.channel_tiles, local % work.channel_tiles};
}

template <class F>
__global__ void __launch_bounds__(F::threads, 1) implicit_gemm(const __grid_constant__ Work work) {
  using namespace ptx;
  if (lacks_hopper()) return;
  extern __shared__ __align__(1024) char dynamic[];
  __shared__ std::uint64_t full[F::stages], empty[F::stages], residual_full[2][4], mask_full[2][2];
  __shared__ __align__(8) float shift[2][F::shifts ? F::channels : 1];
  __shared__ float4 load_x[F::of_x ? F::channels / 2 : 1];   // scale and shift of two channels
  std::uint32_t const base = (shared_address(dynamic) + 1023) & ~1023u;
  std::uint32_t const staging_base = base + F::stages * F::stage_bytes, mask_base = staging_base + 2 * F::staging * 8192,
                      other_base = mask_base + 2 * F::masks * 8192, bits_base = other_base + 2 * F::others * 8192;
  int const group = threadIdx.x / 128;

  if (threadIdx.x == 0) {
    for (int i = 0; i < F::stages; ++i) barrier_init(shared_address(full + i), 2), barrier_init(shared_address(empty + i), F::alternate ? 1 : 2);
    for (int g = 0; g < 2; ++g) {
      for (int i = 0; i < 4; ++i) barrier_init(shared_address(&residual_full[g][i]), 1);
      for (int i = 0; i < 2; ++i) barrier_init(shared_address(&mask_full[g][i]), 1);
    }
    barrier_init_done();
    prefetch_map(&work.source[0]);
    prefetch_map(&work.filter);
    prefetch_map(&work.result[0]);
  }
  if constexpr (F::of_x) {   // a block that sums stays with its channels
    wait_for_work_ahead();
    for (int i = threadIdx.x; i < F::channels / 2; i += F::threads) {
      int const c = blockIdx.x % work.channel_tiles * F::channels + 2 * i;
      float4 const none = make_float4(0, 0, 0, 0);
      float const *const scale = work.load_x + c, *const plus = scale + work.channels;
      load_x[i] = c < work.channels ? make_float4(scale[0], plus[0], scale[1], plus[1]) : none;
    }
  }
  __syncthreads();
  if constexpr (!F::of_x) wait_for_work_ahead();

  if (group == 0) {
    // Copies: thread 0 the source, thread 32 the filter.
    give_registers<40>();
    if (threadIdx.x == 0 || threadIdx.x == 32) {
      bool const source = threadIdx.x == 0;
      int stage = 0, phase = 1;
      for (int tile = blockIdx.x; tile < work.tiles; tile += gridDim.x) {
        Place const at = place_of(work, tile);
        Part const& part = work.part[at.part];
        int const pixel = at.pixel_tile * F::pixels, n = pixel / part.image, in_image = pixel - n * part.image, row = in_image / part.columns;
        int const h = row * part.step_h + part.lower_h, w = (in_image - row * part.columns) * part.step_w + part.lower_w;
        for (int i = 0; i < part.taps_h; ++i)
          for (int j = 0; j < part.taps_w; ++j)
            for (int block = 0; block < work.blocks_of_64; ++block) {
              barrier_wait(shared_address(empty + stage), phase);
              std::uint32_t const ready = shared_address(full + stage), to = base + stage * F::stage_bytes;
              if (source) {
                barrier_expect(ready, F::pixels * 128);
                load_im2col(to, &work.source[at.part], block * 64, w, h, n, j * part.dilation_w, i * part.dilation_h, ready);
              } else {
                barrier_expect(ready, F::channels * 128);
                int const tap = (part.first_r + i * part.step_r) * work.filter_width + part.first_s + j * part.step_s;
                std::uint32_t const filter_to = to + F::pixels * 128;
                if constexpr (F::gradient) {
#pragma unroll
                  for (int slice = 0; slice < F::slices; ++slice)   // [64 k][64 c]
                    load_3d(filter_to + slice * 8192, &work.filter, at.channel_tile * F::channels + slice * 64, tap, block * 64, ready);
                } else {
                  load_3d(filter_to, &work.filter, block * 64, tap, at.channel_tile * F::channels, ready);   // [channels][64 c]
                }
              }
              if (++stage == F::stages) stage = 0, phase ^= 1;
            }
      }
    }
    return;
  }

  take_registers<232>();
  int const me = group - 1, thread = threadIdx.x & 127, warp = thread / 32, lane = thread % 32;
  bool const leader = thread == 0;
  constexpr int slices_per_tile = F::blocks * F::slices;
  std::uint32_t const staging = staging_base + me * F::staging * 8192, masks = mask_base + me * F::masks * 8192, others = other_base + me * F::others * 8192,
                      bits = bits_base + me * 2 * F::bits_bytes;

  bool const beside = F::others > 0 || work.has_mask;   // mask and other tensor arrive together
  // Fetches the residual (or what is beside) of the slice with running number `slice`, if there is one. Leader only.
  auto fetch = [&](int slice, bool residual) {
    int const turn = slice / slices_per_tile, rest = slice % slices_per_tile;
    int const tile = blockIdx.x + (F::alternate ? 2 * turn + me : turn) * gridDim.x;
    if (tile >= work.tiles) return;
    Place const at = place_of(work, tile);
    Part const& part = work.part[at.part];
    int const pixel = at.pixel_tile * F::pixels + (F::alternate ? 0 : me * F::blocks * 64) + rest / F::slices * 64;
    int const channel = at.channel_tile * F::channels + rest % F::slices * 64;
    std::uint32_t const ready = residual ? shared_address(&residual_full[me][slice % F::staging]) : shared_address(&mask_full[me][slice & 1]);
    if (pixel >= part.pixels) {   // nothing of this slice exists
      barrier_arrive(ready);
      return;
    }
    bool const with_bits = F::as_bits && !residual && rest % F::slices == 0;
    barrier_expect(ready, with_bits ? 8192 + F::bits_bytes : !residual && F::masks > 0 && F::others > 0 && work.has_mask ? 2 * 8192 : 8192);
    auto const load = [&](std::uint32_t to, CUtensorMap const* map) {
      if constexpr (F::lattice) {
        int const n = pixel / part.image, in_image = pixel - n * part.image, row = in_image / part.columns;
        load_im2col(to, map, channel, in_image - row * part.columns, row, n, 0, 0, ready);
      } else {
        load_2d(to, map, channel, pixel, ready);
      }
    };
    if (residual) load(staging + slice % F::staging * 8192, &work.residual[at.part]);
    else if (with_bits) load_2d(bits + (slice / F::slices & 1) * F::bits_bytes, &work.mask[0], at.channel_tile * F::channels / 128 * 8, pixel, ready);
    else if (F::masks > 0 && work.has_mask) load(masks + (slice & 1) * 8192, &work.mask[at.part]);
    if constexpr (F::others > 0)
      if (!residual) load(others + (slice & 1) * 8192, &work.other[at.part]);
  };
  if constexpr (F::inputs) {
    if (leader) {
      if (work.has_residual)
        for (int i = 0; i < F::staging - 2; ++i) fetch(i, true);
      if constexpr (F::masks > 0)
        if (beside) fetch(0, false);
    }
  }
  if constexpr (F::of_x || F::as_bits)
    if (leader) fetch(0, false);

  float d[F::blocks][F::channels / 2];
  constexpr bool can_sum = F::ending == Ending::squares || F::beside;
  float sums[can_sum ? F::slices : 1][4];   // per lane: total and product of two channels
  int valid_images = 0;
  if constexpr (can_sum) {
#pragma unroll
    for (int i = 0; i < F::slices; ++i) sums[i][0] = sums[i][1] = sums[i][2] = sums[i][3] = 0;
    if (work.has_stats) valid_images = work.step->valid_count;
  }

  int stage = 0, phase = 0, turn = 0, slice_number = 0, shifts_of = -1;   // shifts_of: the tile of channels whose biases are in `shift`
  for (int tile = blockIdx.x; tile < work.tiles; tile += gridDim.x, ++turn) {
    Place const at = place_of(work, tile);
    Part const& part = work.part[at.part];
    int const steps = part.taps_h * part.taps_w * work.blocks_of_64;
    if constexpr (F::alternate) {
      if ((turn & 1) != me) {   // the other warpgroup's tile
        stage += steps;
        phase ^= (stage / F::stages) & 1;
        stage %= F::stages;
        continue;
      }
      if (turn > 0) named_sync(4 + me, 256);   // one multiplies at a time
    }

    // Biases are fetched now and kept when the product is done: nobody waits for them.
    constexpr int own_shifts = (F::channels + 127) / 128;
    float fetched[own_shifts];
    bool const fetch_shifts = F::shifts && work.bias && at.channel_tile != shifts_of;
    if (fetch_shifts) {
#pragma unroll
      for (int i = 0; i < own_shifts; ++i) {
        int const c = at.channel_tile * F::channels + i * 128 + thread;
        fetched[i] = i * 128 + thread < F::channels && c < work.channels ? work.bias[c] : 0.f;
      }
    }

    int previous = -1;
    for (int k = 0; k < steps; ++k) {
      barrier_wait(shared_address(full + stage), phase);
      std::uint32_t const tiles = base + stage * F::stage_bytes;
      std::uint64_t const a = k_major_operand(tiles + (F::alternate ? 0 : me * F::blocks * 8192));
      std::uint64_t const b = F::gradient ? mn_major_operand(tiles + F::pixels * 128, 8192) : k_major_operand(tiles + F::pixels * 128);
#pragma unroll
      for (int i = 0; i < F::blocks; ++i) hold(d[i]);
      wgmma_fence();
#pragma unroll
      for (int kk = 0; kk < 4; ++kk)
#pragma unroll
        for (int i = 0; i < F::blocks; ++i)
          wgmma<0, F::gradient>(d[i], a + i * 512 + kk * k_major_step, b + kk * (F::gradient ? mn_major_step : k_major_step), (k | kk) != 0);
      wgmma_commit();
      wgmma_wait<1>();
#pragma unroll
      for (int i = 0; i < F::blocks; ++i) hold(d[i]);
      if (previous >= 0 && leader) barrier_arrive(shared_address(empty + previous));
      previous = stage;
      if (++stage == F::stages) stage = 0, phase ^= 1;
    }
    if constexpr (F::alternate)
      if (tile + int(gridDim.x) < work.tiles) named_arrive(4 + (me ^ 1), 256);
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < F::blocks; ++i) hold(d[i]);
    if (previous >= 0 && leader) barrier_arrive(shared_address(empty + previous));
    if constexpr (F::lattice) {
      if (steps == 0) {   // no tap reaches this part
#pragma unroll
        for (int i = 0; i < F::blocks; ++i)
#pragma unroll
          for (int j = 0; j < F::channels / 2; ++j) d[i][j] = 0;
      }
    }

    if (fetch_shifts) {   // every warp has read the last ones before the barrier of its last slice
#pragma unroll
      for (int i = 0; i < own_shifts; ++i)
        if (i * 128 + thread < F::channels) shift[me][i * 128 + thread] = fetched[i];
      shifts_of = at.channel_tile;
    }

    // The ending, 64 pixels by 64 channels at a time.
#pragma unroll
    for (int i = 0; i < F::blocks; ++i) {
      int const pixel = at.pixel_tile * F::pixels + (F::alternate ? 0 : me * F::blocks * 64) + i * 64;
#pragma unroll
      for (int slice = 0; slice < F::slices; ++slice, ++slice_number) {
        int const channel = at.channel_tile * F::channels + slice * 64;
        std::uint32_t const buffer = staging + slice_number % F::staging * 8192;
        if (leader) {   // the buffer is free; with residuals the one that is fetched next, too
          if (F::shifts && !work.has_residual) store_wait_read<F::staging - 1>();
          else store_wait_read<1>();
        }
        named_sync(1 + me, 128);
        if constexpr (F::inputs) {
          if (leader && work.has_residual) fetch(slice_number + F::staging - 2, true);
          if constexpr (F::masks > 0)
            if (leader && beside) fetch(slice_number + 1, false);
          if (work.has_residual) barrier_wait(shared_address(&residual_full[me][slice_number % F::staging]), (slice_number / F::staging) & 1);
          if constexpr (F::masks > 0)
            if (beside) barrier_wait(shared_address(&mask_full[me][slice_number & 1]), (slice_number >> 1) & 1);
        }
        if constexpr (F::of_x || F::as_bits) {
          if (leader) fetch(slice_number + 1, false);
          barrier_wait(shared_address(&mask_full[me][slice_number & 1]), (slice_number >> 1) & 1);
        }
        [[maybe_unused]] uint2 passing[2];   // bits of this lane's two rows and all channels of the slice
        if constexpr (F::as_bits) {
          std::uint32_t const row = bits + (slice_number / F::slices & 1) * F::bits_bytes + (16 * warp + lane / 4) * F::bits_row +
                                    (F::channels == 64 ? at.channel_tile % 2 : slice) * 8;
#pragma unroll
          for (int half = 0; half < 2; ++half)
            asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(passing[half].x), "=r"(passing[half].y) : "r"(row + half * 8 * F::bits_row) : "memory");
        }
        std::uint32_t const mask_buffer = masks + (slice_number & 1) * 8192, other_buffer = others + (slice_number & 1) * 8192;
        int const fragment_row = 16 * warp + (lane / 8 & 1) * 8 + lane % 8;
#pragma unroll
        for (int j = 0; j < 4; ++j) {   // 16 channels
          float* const v = &d[i][slice * 32 + j * 8];
          std::uint32_t const offset = swizzled(fragment_row, 2 * j + lane / 16);
          if constexpr (F::ending == Ending::pointwise) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              int const in_slice = 16 * j + 8 * half + 2 * (lane & 3), c = channel + in_slice;
              if (work.affine && c < work.channels) {
                float2 const scale = *reinterpret_cast<float2 const*>(work.affine + c), plus = *reinterpret_cast<float2 const*>(work.affine + work.channels + c);
                v[4 * half] = v[4 * half] * scale.x + plus.x, v[4 * half + 1] = v[4 * half + 1] * scale.y + plus.y;
                v[4 * half + 2] = v[4 * half + 2] * scale.x + plus.x, v[4 * half + 3] = v[4 * half + 3] * scale.y + plus.y;
              }
              if (work.bias) {
                float2 const b = *reinterpret_cast<float2 const*>(&shift[me][slice * 64 + in_slice]);
                v[4 * half] += b.x, v[4 * half + 1] += b.y, v[4 * half + 2] += b.x, v[4 * half + 3] += b.y;
              }
            }
          }
          if constexpr (F::inputs) {
            if (work.has_residual) {
              std::uint32_t r[4];
              load_matrices(r, buffer + offset);
#pragma unroll
              for (int e = 0; e < 4; ++e) v[2 * e] += low_bf16(r[e]), v[2 * e + 1] += high_bf16(r[e]);
            }
          }
          if constexpr (F::ending == Ending::pointwise) {
            if (work.clamp) {
#pragma unroll
              for (int e = 0; e < 8; ++e) v[e] = fminf(fmaxf(v[e], work.lowest), work.highest);
            }
          }
          std::uint32_t packed[4] = {pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])};
          if constexpr (F::masks > 0) {
            if (work.masked) {
              std::uint32_t m[4];
              load_matrices(m, mask_buffer + offset);
#pragma unroll
              for (int e = 0; e < 4; ++e)
                packed[e] &= (low_bf16(m[e]) > 0 && low_bf16(m[e]) < work.mask_most ? 0xffffu : 0u) |
                             (high_bf16(m[e]) > 0 && high_bf16(m[e]) < work.mask_most ? 0xffff0000u : 0u);
            }
          }
          if constexpr (F::as_bits) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              std::uint32_t const pair = (j < 2 ? passing[e & 1].x : passing[e & 1].y) >> (j % 2 * 16 + e / 2 * 8 + 2 * (lane & 3));
              packed[e] &= (pair & 1 ? 0xffffu : 0u) | (pair & 2 ? 0xffff0000u : 0u);
            }
          }
          if constexpr (F::of_x) {
            std::uint32_t x[4];
            load_matrices(x, other_buffer + offset);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              float4 const by = load_x[slice * 32 + 8 * j + 4 * half + (lane & 3)];
#pragma unroll
              for (int e = 2 * half; e < 2 * half + 2; ++e) {
                float const low = fmaf(by.x, low_bf16(x[e]), by.y), high = fmaf(by.z, high_bf16(x[e]), by.w);
                packed[e] &= (low > 0 && low < work.mask_most ? 0xffffu : 0u) | (high > 0 && high < work.mask_most ? 0xffff0000u : 0u);
              }
            }
          }
          store_matrices(buffer + offset, packed);
        }
        fence_async_shared();
        named_sync(1 + me, 128);
        if (leader && pixel < part.pixels) {
          if constexpr (F::lattice) {
            int const n = pixel / part.image, in_image = pixel - n * part.image, row = in_image / part.columns;
            store_im2col(&work.result[at.part], channel, in_image - row * part.columns, row, n, buffer);
          } else {
            store_2d(&work.result[0], channel, pixel, buffer);
          }
        }
        if (leader) store_commit();   // an empty group keeps the count of buffers in step
        if constexpr (can_sum) {
          if (work.has_stats) {
            int const left = valid_images * part.image - pixel;   // pixels that count
            add_slice<F::beside>(sums[slice], buffer, F::others > 0 ? other_buffer : mask_buffer, warp, lane, left);
          }
        }
      }
    }
  }
  if (leader) store_wait();
  if constexpr (can_sum) {
    if (work.has_stats) {
      float* const out = work.partial + (blockIdx.x * 2 + me) * 2 * F::channels;
#pragma unroll
      for (int slice = 0; slice < F::slices; ++slice) write_slice(sums[slice], out + slice * 64, F::channels, warp, lane);
    }
  }
}

}  // namespace falconet::wgmma_conv
