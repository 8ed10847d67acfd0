// Channel sums of a stored tile of 64 pixels by 64 channels (bf16, rows of 128 bytes, 128-byte swizzle), by tensor core: with A the
// transposed tile, A * ones has the sums of v in every column; A * A' has the sums of v*v on its diagonal, A * M' those of v*m for a
// second tile m. Each of the four warps takes 16 channels; chains are 64 pixels long and added in f32.
#pragma once
#include "falconet/device/cuda/ptx.cuh"

namespace falconet {

// sums: {sum v, sum v of the channel 8 above, sum v*v or v*m, the same 8 above}, meaningful in the lanes that write_slice asks. Only the
// first `left` pixels count.
template <bool with_other>
FALCONET_DEVICE void add_slice(float (&sums)[4], std::uint32_t tile, std::uint32_t other, int warp, int lane, int left) {
  using namespace ptx;
  float total[4] = {}, product_low[4] = {}, product_high[4] = {};
  std::uint32_t const from = swizzled((lane >> 4) * 8 + (lane & 7), 2 * warp + (lane >> 3 & 1));
#pragma unroll
  for (int kk = 0; kk < 4; ++kk) {
    std::uint32_t a[4], m[4];
    load_matrices_transposed(a, tile + from + kk * 2048);
    if constexpr (with_other) load_matrices_transposed(m, other + from + kk * 2048);
    if (left < 64) {
      int const first = kk * 16 + 2 * (lane & 3);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        int const row = first + (e >> 1) * 8;
        std::uint32_t const keep = (row < left ? 0xffffu : 0u) | (row + 1 < left ? 0xffff0000u : 0u);
        a[e] &= keep;
        if constexpr (with_other) m[e] &= keep;
      }
    }
    if constexpr (!with_other) {
#pragma unroll
      for (int e = 0; e < 4; ++e) m[e] = a[e];
    }
    mma_bf16(product_low, a, m[0], m[2]);
    mma_bf16(product_high, a, m[1], m[3]);
    mma_bf16(total, a, 0x3f803f80u, 0x3f803f80u);
  }
  bool const odd = lane >> 2 & 1;
  sums[0] += total[0], sums[1] += total[2];
  sums[2] += odd ? product_low[1] : product_low[0], sums[3] += odd ? product_high[3] : product_high[2];
}

// Channel sums alone of 16 * sixteens pixels: sums[0] and sums[2] are those of channels 16 warp + lane / 4 and 8 more.
FALCONET_DEVICE void add_rows(float (&sums)[4], std::uint32_t tile, int sixteens, int warp, int lane) {
  using namespace ptx;
  std::uint32_t const from = tile + swizzled((lane >> 4) * 8 + (lane & 7), 2 * warp + (lane >> 3 & 1));
#pragma unroll
  for (int kk = 0; kk < sixteens; ++kk) {
    std::uint32_t a[4];
    load_matrices_transposed(a, from + kk * 2048);
    mma_bf16(sums, a, 0x3f803f80u, 0x3f803f80u);
  }
}

// out[c] = sum of v, out[stride + c] = the products' sum, for the slice's 64 channels c.
FALCONET_DEVICE void write_slice(float const (&sums)[4], float* out, int stride, int warp, int lane) {
  if (lane >> 3 != (lane & 3)) return;
  int const c = 16 * warp + lane / 4;
  out[c] = sums[0], out[c + 8] = sums[1];
  out[stride + c] = sums[2], out[stride + c + 8] = sums[3];
}

}  // namespace falconet
