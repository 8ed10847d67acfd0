// Hopper's copy engine, its barriers and matrix-fragment moves as inline functions. Shared-memory addresses are 32-bit (shared_address).
#pragma once
#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

#define FALCONET_DEVICE __device__ __forceinline__

// An instruction of Hopper's own: the code of other architectures (docs/adr/0119) has a trap in its place.
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FALCONET_HOPPER_ASM(...) asm volatile(__VA_ARGS__)
#else
#define FALCONET_HOPPER_ASM(...) asm volatile("trap;")
#endif

namespace falconet::ptx {

// `if (lacks_hopper()) return;` is the first statement of every kernel that is made of such instructions: elsewhere nothing of it is left but a
// trap. It is never launched there, because its algorithm rejects every compute capability but 9.0.
FALCONET_DEVICE bool lacks_hopper() {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  return false;
#else
  asm volatile("trap;");
  return true;
#endif
}

FALCONET_DEVICE std::uint32_t shared_address(void const* p) { return std::uint32_t(__cvta_generic_to_shared(p)); }

// --- barriers in shared memory (mbarrier) ---
FALCONET_DEVICE void barrier_init(std::uint32_t barrier, int arrivals) {
  FALCONET_HOPPER_ASM("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
FALCONET_DEVICE void barrier_init_done() {
  FALCONET_HOPPER_ASM("fence.mbarrier_init.release.cluster;" ::: "memory");
  FALCONET_HOPPER_ASM("fence.proxy.async;" ::: "memory");
}
FALCONET_DEVICE void barrier_arrive(std::uint32_t barrier) { FALCONET_HOPPER_ASM("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory"); }
FALCONET_DEVICE void barrier_expect(std::uint32_t barrier, int bytes) {   // arrives, and announces bytes to come
  FALCONET_HOPPER_ASM("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
FALCONET_DEVICE bool barrier_reached(std::uint32_t barrier, std::uint32_t parity) {
  std::uint32_t reached = 1;
  FALCONET_HOPPER_ASM("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(reached) : "r"(barrier), "r"(parity) : "memory");
  return reached;
}
#ifdef FALCONET_BARRIER_TIMEOUT
// Turns a hang into a launch failure after some seconds.
FALCONET_DEVICE void barrier_wait(std::uint32_t barrier, std::uint32_t parity) {
  long long const start = clock64();
  while (!barrier_reached(barrier, parity))
    if (clock64() - start > 4000000000ll) __trap();
}
#else
FALCONET_DEVICE void barrier_wait(std::uint32_t barrier, std::uint32_t parity) {
  while (!barrier_reached(barrier, parity)) {}
}
#endif
// Named barrier of some threads of the block; 0 is __syncthreads.
FALCONET_DEVICE void named_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
FALCONET_DEVICE void named_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// --- copy engine ---
FALCONET_DEVICE void prefetch_map(CUtensorMap const* map) { FALCONET_HOPPER_ASM("prefetch.tensormap [%0];" ::"l"(map)); }
FALCONET_DEVICE void load_2d(std::uint32_t to, CUtensorMap const* map, int x, int y, std::uint32_t barrier) {
  FALCONET_HOPPER_ASM("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to), "l"(map), "r"(x), "r"(y),
               "r"(barrier)
               : "memory");
}
FALCONET_DEVICE void load_3d(std::uint32_t to, CUtensorMap const* map, int x, int y, int z, std::uint32_t barrier) {
  FALCONET_HOPPER_ASM("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to), "l"(map), "r"(x), "r"(y),
               "r"(z), "r"(barrier)
               : "memory");
}
FALCONET_DEVICE void load_4d(std::uint32_t to, CUtensorMap const* map, int x, int y, int z, int u, std::uint32_t barrier) {
  FALCONET_HOPPER_ASM("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(to), "l"(map), "r"(x),
               "r"(y), "r"(z), "r"(u), "r"(barrier)
               : "memory");
}
// Pixels from (n, h, w) on, displaced by the offsets of one filter tap.
FALCONET_DEVICE void load_im2col(std::uint32_t to, CUtensorMap const* map, int c, int w, int h, int n, int offset_w, int offset_h, std::uint32_t barrier) {
  FALCONET_HOPPER_ASM("cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6], {%7, %8};" ::"r"(to), "l"(map),
               "r"(c), "r"(w), "r"(h), "r"(n), "r"(barrier), "h"(std::uint16_t(offset_w)), "h"(std::uint16_t(offset_h))
               : "memory");
}
FALCONET_DEVICE void store_2d(CUtensorMap const* map, int x, int y, std::uint32_t from) {
  FALCONET_HOPPER_ASM("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(x), "r"(y), "r"(from) : "memory");
}
FALCONET_DEVICE void store_4d(CUtensorMap const* map, int x, int y, int z, int u, std::uint32_t from) {
  FALCONET_HOPPER_ASM("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3, %4}], [%5];" ::"l"(map), "r"(x), "r"(y), "r"(z), "r"(u), "r"(from)
               : "memory");
}
FALCONET_DEVICE void store_im2col(CUtensorMap const* map, int c, int w, int h, int n, std::uint32_t from) {
  FALCONET_HOPPER_ASM("cp.async.bulk.tensor.4d.global.shared::cta.im2col_no_offs.bulk_group [%0, {%1, %2, %3, %4}], [%5];" ::"l"(map), "r"(c), "r"(w), "r"(h), "r"(n), "r"(from)
               : "memory");
}
FALCONET_DEVICE void store_commit() { FALCONET_HOPPER_ASM("cp.async.bulk.commit_group;" ::: "memory"); }
template <int pending>
FALCONET_DEVICE void store_wait_read() { FALCONET_HOPPER_ASM("cp.async.bulk.wait_group.read %0;" ::"n"(pending) : "memory"); }   // sources may be reused
FALCONET_DEVICE void store_wait() { FALCONET_HOPPER_ASM("cp.async.bulk.wait_group 0;" ::: "memory"); }
// Between ordinary writes of shared memory and their reading by the copy engine or wgmma.
FALCONET_DEVICE void fence_async_shared() { FALCONET_HOPPER_ASM("fence.proxy.async.shared::cta;" ::: "memory"); }

template <int registers>
FALCONET_DEVICE void take_registers() { FALCONET_HOPPER_ASM("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers)); }
template <int registers>
FALCONET_DEVICE void give_registers() { FALCONET_HOPPER_ASM("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers)); }

// --- 8x8 matrices of bf16 between shared memory and registers ---
FALCONET_DEVICE void load_matrices(std::uint32_t (&r)[4], std::uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row) : "memory");
}
FALCONET_DEVICE void load_matrices_transposed(std::uint32_t (&r)[4], std::uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row) : "memory");
}
FALCONET_DEVICE void store_matrices(std::uint32_t row, std::uint32_t const (&r)[4]) {
  FALCONET_HOPPER_ASM("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
}
FALCONET_DEVICE void store_matrices_transposed(std::uint32_t row, std::uint32_t const (&r)[4]) {
  FALCONET_HOPPER_ASM("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
}
FALCONET_DEVICE void store_two_matrices_transposed(std::uint32_t row, std::uint32_t a, std::uint32_t b) {
  FALCONET_HOPPER_ASM("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(row), "r"(a), "r"(b) : "memory");
}
FALCONET_DEVICE std::uint32_t pack_bf16(float low, float high) {
  std::uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
FALCONET_DEVICE float low_bf16(std::uint32_t pair) { return __uint_as_float(pair << 16); }
FALCONET_DEVICE float high_bf16(std::uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

// d[16x8] += a[16x16] b[16x8] in bf16 with f32 sums, by one warp.
FALCONET_DEVICE void mma_bf16(float (&d)[4], std::uint32_t const (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Byte of 16-byte chunk `chunk` of row `row` in a tile whose rows are 128 bytes, under the copy engine's 128-byte swizzle.
FALCONET_DEVICE std::uint32_t swizzled(int row, int chunk) { return std::uint32_t(row * 128 + ((chunk ^ (row & 7)) << 4)); }

}  // namespace falconet::ptx
