// Reading and writing elements of any floating type in kernels, and vectors of them.
#pragma once
#include "falconet/tensor/bf16.h"

namespace falconet {

__device__ __forceinline__ float load(float v) { return v; }
__device__ __forceinline__ double load(double v) { return v; }
__device__ __forceinline__ float load(bf16 v) { return to_float(v); }
__device__ __forceinline__ void put(float& to, double v) { to = float(v); }
__device__ __forceinline__ void put(float& to, float v) { to = v; }
__device__ __forceinline__ void put(double& to, double v) { to = v; }
__device__ __forceinline__ void put(bf16& to, float v) { to = to_bf16(v); }
__device__ __forceinline__ void put(bf16& to, double v) { to = to_bf16(float(v)); }

// v neighbouring elements, moved as one.
template <class E, int v>
struct alignas(sizeof(E) * v) Pack {
  E e[v];
};

}  // namespace falconet
