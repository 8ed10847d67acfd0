// TF32 on tensor cores: rounding to it, and the warp's product. ptx::load_matrices loads fragments: an 8x8 matrix of bf16 is an 8x4 one of TF32.
#pragma once
#include <cstdint>

#include "falconet/device/cuda/ptx.cuh"

namespace falconet::ptx {

// A TF32 value (8 bits of exponent, 10 of mantissa) in the upper bits of an f32: the nearest one, ties away from zero.
FALCONET_DEVICE std::uint32_t to_tf32(float v) {
  std::uint32_t r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(v));
  return r;
}
// v = high + low, both TF32 values (what mma_tf32 does not read of low is less than one bit of v): high the nearest one, ties away from zero, by integer
// arithmetic, because conversions pass a unit with a quarter of its rate. A NaN or an infinity stays one in high or low.
FALCONET_DEVICE void cut_in_two(float v, std::uint32_t& high, std::uint32_t& low) {
  high = (__float_as_uint(v) + 0x1000u) & ~0x1fffu;
  low = __float_as_uint(v - __uint_as_float(high));
}
// d[16x8] += a[16x8] b[8x8] in TF32 with f32 sums, by one warp.
FALCONET_DEVICE void mma_tf32(float (&d)[4], std::uint32_t const (&a)[4], std::uint32_t const (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace falconet::ptx
