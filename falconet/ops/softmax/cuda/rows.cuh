// What the kernels over rows of channels side by side share: vectors of a row, sums and maxima of the threads that share one.
#pragma once
#include "falconet/device/cuda/element.cuh"

namespace falconet::softmax_rows {

// NaN wins, as in the reference.
__device__ __forceinline__ float larger(float a, float b) { return b > a || b != b ? b : a; }
__device__ __forceinline__ float add(float a, float b) { return a + b; }

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
