// Copies from global to shared memory that pass no register and hold up nobody until they are waited for (compute capability 8.0).
#pragma once
#include <cstdint>

namespace falconet {

// Copies `bytes` (4, 8 or 16, aligned so), or writes zeros where `from` is not to be read; `from` is then any valid address.
template <int bytes>
__device__ __forceinline__ void copy_async(float* shared, float const* from, bool read) {
  std::uint32_t const to = std::uint32_t(__cvta_generic_to_shared(shared));
  int const count = read ? bytes : 0;
  if constexpr (bytes == 16) asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(count) : "memory");
  else if constexpr (bytes == 8) asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(from), "r"(count) : "memory");
  else asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(count) : "memory");
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }   // ends a group of copies
// All groups but the last `most` are done.
template <int most>
__device__ __forceinline__ void copy_async_wait_but() { asm volatile("cp.async.wait_group %0;" ::"n"(most) : "memory"); }
// This thread's copies are done; a barrier makes them visible to the others.
__device__ __forceinline__ void copy_async_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }

}  // namespace falconet
