// bfloat16: the upper half of an IEEE float32, rounded to nearest even. Plain data, usable on host and device.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define FALCONET_HOST_DEVICE __host__ __device__
#else
#define FALCONET_HOST_DEVICE
#endif

namespace falconet {

struct bf16 {
  std::uint16_t bits;
};

FALCONET_HOST_DEVICE static inline float to_float(bf16 v) {
  union {
    std::uint32_t u;
    float f;
  } pun;
  pun.u = std::uint32_t(v.bits) << 16;
  return pun.f;
}

FALCONET_HOST_DEVICE static inline bf16 to_bf16(float f) {
  union {
    float f;
    std::uint32_t u;
  } pun;
  pun.f = f;
  if ((pun.u & 0x7fffffffu) > 0x7f800000u) return bf16{std::uint16_t((pun.u >> 16) | 0x40u)};  // a NaN stays a NaN
  return bf16{std::uint16_t((pun.u + 0x7fffu + ((pun.u >> 16) & 1u)) >> 16)};
}

}  // namespace falconet
