// Division of non-negative 31-bit integers by a divisor known at launch, by one multiplication and a shift (Granlund and Montgomery 1994).
#pragma once
#include <cstdint>

namespace falconet {

struct FastDivide {
  std::uint32_t divisor = 1, multiplier = 0, shift = 0;
  FastDivide() = default;
  explicit FastDivide(int d) : divisor(std::uint32_t(d)) {
    while ((std::uint64_t(1) << shift) < divisor) ++shift;
    multiplier = std::uint32_t(((std::uint64_t(1) << 32) * ((std::uint64_t(1) << shift) - divisor)) / divisor + 1);
  }
#ifdef __CUDACC__
  // quotient returned, remainder through the reference
  __device__ __forceinline__ int operator()(int n, int& remainder) const {
    std::uint32_t const high = __umulhi(std::uint32_t(n), multiplier), quotient = (high + std::uint32_t(n)) >> shift;
    remainder = n - int(quotient * divisor);
    return int(quotient);
  }
#endif
};

}  // namespace falconet
