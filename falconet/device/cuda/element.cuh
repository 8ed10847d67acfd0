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
__device__ __forceinline__ void put(bf16& to, float v) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(v)); }   // as to_bf16, in one instruction
__device__ __forceinline__ void put(bf16& to, double v) { put(to, float(v)); }

// v neighbouring elements, moved as one.
template <class E, int v>
struct alignas(sizeof(E) * v) Pack {
  E e[v];
};

}  // namespace falconet
