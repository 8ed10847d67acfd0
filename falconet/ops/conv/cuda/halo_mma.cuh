// What the products of few channels by mma.sync share (halo_mma here, one_wave of conv_norm): the filter in the order of the instruction's operand,
// its columns permuted so that a lane holds n/4 neighbouring channels of a pixel, and how such channels are moved.
#pragma once
#include "falconet/ops/conv/cuda/small_channels.cuh"

namespace falconet::small_channels {

FALCONET_DEVICE std::uint32_t pack(float low, float high) { return ptx::pack_bf16(low, high); }
FALCONET_DEVICE std::uint32_t pack(std::uint16_t low, std::uint16_t high) { return low | std::uint32_t(high) << 16; }  // bits of bf16

// The filter [k][tap][c] into the operand's order: [tap][c / 16][n / 16][lane][4 registers], a lane's four at a time. All loads of a batch
// are under way before the first is used. E: float, or the bits of bf16.
template <int C, int N, int side, bool gradient, class E>
FALCONET_DEVICE void place_filter_of(char* memory, E const* filter, int real) {
  constexpr int taps = side * side, all = taps * C * N / 8, batch = all <= 256 ? 1 : all <= 512 ? 2 : 5;
  for (int first = threadIdx.x; first < all; first += batch * blockDim.x) {
    E e[batch][4][2];
#pragma unroll
    for (int u = 0; u < batch; ++u) {
      int const i = min(first + u * int(blockDim.x), all - 1), lane = i % 32, v = i / 32 % (N / 16), kk = i / 32 / (N / 16) % (C / 16),
                tap = i / 32 / (N / 16) / (C / 16);
      int const n = lane / 8 * (N / 4) + 4 * v + (lane / 4 & 1), c = kk * 16 + 2 * (lane & 3);
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          int const to = n + 2 * (j >> 1), from = c + 8 * (j & 1) + k;
          if constexpr (gradient)
            e[u][j][k] = __ldg(filter + (from * taps + taps - 1 - tap) * N + to);
          else
            e[u][j][k] = from < real ? __ldg(filter + (to * taps + tap) * real + from) : E(0);
        }
    }
#pragma unroll
    for (int u = 0; u < batch; ++u)
      if (int const i = first + u * int(blockDim.x); i < all)
        reinterpret_cast<uint4*>(memory)[i] = make_uint4(pack(e[u][0][0], e[u][0][1]), pack(e[u][1][0], e[u][1][1]),
                                                         pack(e[u][2][0], e[u][2][1]), pack(e[u][3][0], e[u][3][1]));
  }
}
// filter: of f32, or of bf16. real: channels of an image pixel in memory. gradient: turned round, for a data gradient.
template <int C, int N, int side>
FALCONET_DEVICE void place_filter(char* memory, void const* filter, bool f32, bool gradient, int real) {
  auto const* const values = static_cast<float const*>(filter);
  auto const* const bits = static_cast<std::uint16_t const*>(filter);
  if (gradient)
    f32 ? place_filter_of<C, N, side, true>(memory, values, C) : place_filter_of<C, N, side, true>(memory, bits, C);
  else
    f32 ? place_filter_of<C, N, side, false>(memory, values, real) : place_filter_of<C, N, side, false>(memory, bits, real);
}

template <int words>
FALCONET_DEVICE void read_words(std::uint32_t (&to)[words], bf16 const* from) {
  if constexpr (words == 2) {
    uint2 const v = *reinterpret_cast<uint2 const*>(from);
    to[0] = v.x, to[1] = v.y;
  } else {
#pragma unroll
    for (int i = 0; i < words / 4; ++i) {
      uint4 const v = reinterpret_cast<uint4 const*>(from)[i];
      to[4 * i] = v.x, to[4 * i + 1] = v.y, to[4 * i + 2] = v.z, to[4 * i + 3] = v.w;
    }
  }
}
template <int words>
FALCONET_DEVICE void write_words(bf16* to, std::uint32_t const (&v)[words]) {
  if constexpr (words == 2) {
    *reinterpret_cast<uint2*>(to) = make_uint2(v[0], v[1]);
  } else {
#pragma unroll
    for (int i = 0; i < words / 4; ++i) reinterpret_cast<uint4*>(to)[i] = make_uint4(v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]);
  }
}

// ---------------------------------------------------------------- host

struct Shape4 {
  int in_channels, out_channels, rows, columns;  // channels of the tensor read and of the result; pixels of the result
};
inline Shape4 shape_of(ConvProblem const& p) {
  if (p.direction == Direction::fwd) return {p.c, p.k, p.p(), p.q()};
  return {p.k, p.c, p.h, p.w};
}
inline int padded(int channels) { return channels < 16 ? 16 : channels; }

}  // namespace falconet::small_channels
