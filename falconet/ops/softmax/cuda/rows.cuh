// What the kernels over rows of channels side by side share: vectors of a row, sums and maxima of the threads that share one.
#pragma once
#include "falconet/device/cuda/element.cuh"

namespace falconet::softmax_rows {

// NaN wins, as in the reference.
__device__ __forceinline__ float larger(float a, float b) {
  float out;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(out) : "f"(a), "f"(b));
  return out;
}
__device__ __forceinline__ float add(float a, float b) { return a + b; }

// e^v for v <= 0 in a multiplication and one instruction, off by 2e-6 of itself at v = -20 (the multiplication's rounding) and 3e-7 near 0. Where the
// accurate one takes longer than the memory.
__device__ __forceinline__ float fast_exp(float v) {
  float out;
  asm("ex2.approx.f32 %0, %1;" : "=f"(out) : "f"(v * 1.44269504f));
  return out;
}

// Over `lanes` neighbouring threads of a warp (a power of two); every one gets the result. All lanes of the warp take part.
template <class Combine>
__device__ __forceinline__ float over_lanes(float v, int lanes, Combine const& combine) {
  for (int step = lanes / 2; step > 0; step /= 2) v = combine(v, __shfl_xor_sync(~0u, v, step));
  return v;
}
// Over a block of whole warps, in the order of the warps. memory: a float a warp, used by one call at a time.
template <class Combine>
__device__ __forceinline__ float over_block(float v, float* memory, Combine const& combine) {
  v = over_lanes(v, 32, combine);
  if (threadIdx.x % 32 == 0) memory[threadIdx.x / 32] = v;
  __syncthreads();
  v = memory[0];
  for (int w = 1; w < int(blockDim.x) / 32; ++w) v = combine(v, memory[w]);
  __syncthreads();
  return v;
}

// Channels of a vector: those of 16 bytes where rows are made of such.
inline int vector_of(std::int64_t channels, DType type) {
  int const most = type == DType::bf16 ? 8 : 4;
  return channels % most == 0 ? most : 1;
}

}  // namespace falconet::softmax_rows
