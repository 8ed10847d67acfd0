// The pooled ending of halo_wgmma: scale and shift per channel, ReLU, the maximum of 2x2 pixels and which of them it is.
#pragma once
#include "falconet/device/cuda/ptx.cuh"
#include "falconet/ops/fusion.h"

namespace falconet {

// 4 rows of a warpgroup's result, width + 2 pixels apart, become 2 of width / 2: to `staging` as bf16 [pixel][64] (128-byte swizzle), after pooled_bytes
// the winners [pixel][64]. A lane's pairs of pixels are neighbours in a row; the row below lies 58 pixels on, that is with the next of the four
// lanes that share its channels.
template <int width>
constexpr int pooled_bytes = width * 128;
template <int width>
FALCONET_DEVICE void pool_halo(float (&d)[116], float const (&scale)[2], float const (&shift)[2], bool clamp, std::uint32_t staging, int warp, int lane) {
  using namespace ptx;
  constexpr int pitch = width + 2;
  static_assert(4 * pitch == 232, "29 times 8 pixels");
#pragma unroll
  for (int i = 0; i < 116; ++i) {
    d[i] = d[i] * scale[i >> 1 & 1] + shift[i >> 1 & 1];
    if (clamp) d[i] = fmaxf(d[i], 0.f);
  }
  int const t = lane & 3, below = (lane & ~3) | ((t + 1) & 3);
#pragma unroll
  for (int upper = 0; upper < 4; upper += 2)
#pragma unroll
    for (int j = upper * pitch / 8; j <= (upper * pitch + width - 2) / 8; ++j) {
      float lower[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {   // what the lane before this one needs: for the last of the four that is 8 pixels on
        float const later = j + 8 < 29 ? d[4 * (j + 8 < 29 ? j + 8 : 0) + e] : 0.f;
        lower[e] = __shfl_sync(~0u, t == 0 ? later : d[4 * (j + 7) + e], below);
      }
      int const column = 8 * j + 2 * t - upper * pitch;   // of the window's first pixel
      bool const exists = column >= 0 && column < width;
      int const pixel = upper / 2 * (width / 2) + column / 2;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float best = d[4 * j + 2 * half];
        int winner = 0;
        float const next[3] = {d[4 * j + 2 * half + 1], lower[2 * half], lower[2 * half + 1]};
#pragma unroll
        for (int k = 0; k < 3; ++k)
          if (next[k] > best) best = next[k], winner = k + 1;
        if (clamp && !(best > 0)) winner = no_winner;
        if (exists) {
          std::uint32_t const value = pack_bf16(best, 0.f);
          asm volatile("st.shared.b16 [%0], %1;" ::"r"(staging + swizzled(pixel, 2 * warp + half) + lane / 4 * 2), "h"(std::uint16_t(value)) : "memory");
          asm volatile("st.shared.b8 [%0], %1;" ::"r"(staging + pooled_bytes<width> + pixel * 64 + 16 * warp + 8 * half + lane / 4), "r"(winner) : "memory");
        }
      }
    }
}

}  // namespace falconet
