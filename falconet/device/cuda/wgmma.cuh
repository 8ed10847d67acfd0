// wgmma: asynchronous matrix products of a warpgroup (4 warps) on operands in shared memory, bf16 with f32 sums.
//   d[64 x N] = a[64 x 16] b[16 x N] (+ d): thread t of warp w holds rows 16w + t/4 and +8; d[4j], d[4j+1]: row t/4, columns 8j + 2(t%4), +1;
//   d[4j+2], d[4j+3]: the row 8 below.
#pragma once
#include "falconet/device/cuda/ptx.cuh"

namespace falconet::ptx {

// How a tile lies in shared memory, in rows of 128 bytes under the 128-byte swizzle, rows 1024-byte aligned in groups of 8.
// k_major: a row is one m (or n) with 64 consecutive k; the next 16 k are 32 bytes on.
// mn_major: a row is one k with 64 consecutive m (or n); the next 16 k are 16 rows on; blocks of 64 m (or n) lie block_bytes apart.
FALCONET_DEVICE std::uint64_t k_major_operand(std::uint32_t address) {
  return std::uint64_t((address & 0x3ffff) >> 4) | std::uint64_t(1) << 16 | std::uint64_t(1024 >> 4) << 32 | std::uint64_t(1) << 62;
}
FALCONET_DEVICE std::uint64_t mn_major_operand(std::uint32_t address, int block_bytes) {
  return std::uint64_t((address & 0x3ffff) >> 4) | std::uint64_t(block_bytes >> 4) << 16 | std::uint64_t(1024 >> 4) << 32 | std::uint64_t(1) << 62;
}
constexpr int k_major_step = 32 >> 4, mn_major_step = 2048 >> 4;   // added to an operand: the next 16 k

FALCONET_DEVICE void wgmma_fence() { FALCONET_HOPPER_ASM("wgmma.fence.sync.aligned;" ::: "memory"); }
FALCONET_DEVICE void wgmma_commit() { FALCONET_HOPPER_ASM("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int pending>
FALCONET_DEVICE void wgmma_wait() { FALCONET_HOPPER_ASM("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory"); }
// Keeps the compiler from moving accumulators across a batch.
template <int n>
FALCONET_DEVICE void hold(float (&d)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

template <int n>
FALCONET_DEVICE void hold(std::uint32_t (&a)[n]) {   // operands in registers, until the product is waited for
#pragma unroll
  for (int i = 0; i < n; ++i) asm volatile("" : "+r"(a[i])::"memory");
}

#define FALCONET_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define FALCONET_D16(i) FALCONET_D4(i), FALCONET_D4(i + 4), FALCONET_D4(i + 8), FALCONET_D4(i + 12)
#define FALCONET_D32(i) FALCONET_D16(i), FALCONET_D16(i + 16)
#define FALCONET_R0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define FALCONET_R16 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FALCONET_R32 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define FALCONET_R48 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define FALCONET_R64 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define FALCONET_R80 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define FALCONET_R96 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define FALCONET_R112 "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define FALCONET_R112A "%112, %113, %114, %115"

// mn_a, mn_b: 1 where the operand is mn_major. add: 0 starts the sum afresh.
#define FALCONET_WGMMA(N, COUNT, A, B, P, TA, TB, REGISTERS, ...)                                                                            \
  template <int mn_a, int mn_b>                                                                                                              \
  FALCONET_DEVICE void wgmma(float (&d)[COUNT], std::uint64_t a, std::uint64_t b, int add) {                                                  \
    FALCONET_HOPPER_ASM("{\n.reg .pred p;\nsetp.ne.b32 p, " P ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" REGISTERS         \
                 "}, " A ", " B ", p, 1, 1, " TA ", " TB ";\n}"                                                                              \
                 : __VA_ARGS__                                                                                                               \
                 : "l"(a), "l"(b), "r"(add), "n"(mn_a), "n"(mn_b));                                                                           \
  }
FALCONET_WGMMA(64, 32, "%32", "%33", "%34", "%35", "%36", FALCONET_R0 ", " FALCONET_R16, FALCONET_D32(0))
FALCONET_WGMMA(128, 64, "%64", "%65", "%66", "%67", "%68", FALCONET_R0 ", " FALCONET_R16 ", " FALCONET_R32 ", " FALCONET_R48, FALCONET_D32(0), FALCONET_D32(32))
FALCONET_WGMMA(192, 96, "%96", "%97", "%98", "%99", "%100", FALCONET_R0 ", " FALCONET_R16 ", " FALCONET_R32 ", " FALCONET_R48 ", " FALCONET_R64 ", " FALCONET_R80, FALCONET_D32(0), FALCONET_D32(32), FALCONET_D32(64))
FALCONET_WGMMA(232, 116, "%116", "%117", "%118", "%119", "%120", FALCONET_R0 ", " FALCONET_R16 ", " FALCONET_R32 ", " FALCONET_R48 ", " FALCONET_R64 ", " FALCONET_R80 ", " FALCONET_R96 ", " FALCONET_R112A, FALCONET_D32(0), FALCONET_D32(32), FALCONET_D32(64), FALCONET_D16(96), FALCONET_D4(112))
FALCONET_WGMMA(256, 128, "%128", "%129", "%130", "%131", "%132", FALCONET_R0 ", " FALCONET_R16 ", " FALCONET_R32 ", " FALCONET_R48 ", " FALCONET_R64 ", " FALCONET_R80 ", " FALCONET_R96 ", " FALCONET_R112, FALCONET_D32(0), FALCONET_D32(32), FALCONET_D32(64), FALCONET_D32(96))
#undef FALCONET_WGMMA

// d[64x64] = a b (+ d) with a in registers: warp w holds rows 16w..16w+15 as a 16x16 fragment of mma_bf16. b is k_major. The registers must
// not change until the product is waited for.
FALCONET_DEVICE void wgmma_registers(float (&d)[32], std::uint32_t const (&a)[4], std::uint64_t b, int add) {
  FALCONET_HOPPER_ASM("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" FALCONET_R0 ", " FALCONET_R16
               "}, {%32, %33, %34, %35}, %36, p, 1, 1, 0;\n}"
               : FALCONET_D32(0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}
#undef FALCONET_R0
#undef FALCONET_R16
#undef FALCONET_R32
#undef FALCONET_R48
#undef FALCONET_R64
#undef FALCONET_R80
#undef FALCONET_R96
#undef FALCONET_R112
#undef FALCONET_R112A
#undef FALCONET_D4
#undef FALCONET_D16
#undef FALCONET_D32

}  // namespace falconet::ptx
