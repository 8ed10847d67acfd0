// Peak rates of one instruction set. Multiply-adds: 12 independent chains in registers, enough for 2 units of latency 4 to 6; copies:
// whole vectors, four at a time, ordinary stores (a kernel's results are read again soon, so they are not streamed past the caches).
#include <cstddef>
#include <cstdint>

namespace falconet {
struct LimitKernels {
  // 12 multiply-adds of whole vectors a round, from 12 starts of at least 0; returns how many elements a vector has.
  double (*fma_f32)(std::int64_t rounds, double const* starts);
  double (*fma_f64)(std::int64_t rounds, double const* starts);
  void (*copy)(char const* from, char* to, std::size_t bytes);  // bytes: a multiple of 256
  double (*pairs)(std::int64_t rounds, double const* starts) = nullptr;  // as fma_f32, of pairs of bf16; null where the instruction set has none
};
}  // namespace falconet

#ifdef FALCONET_ISA
#include "falconet/device/cpu/simd.h"

namespace falconet::FALCONET_ISA {
namespace {

// Every chain has a start of its own, read from memory, so that the compiler cannot merge them.
template <class T>
double fma(std::int64_t rounds, double const* starts) {
  hn::ScalableTag<T> const d;
  using V = decltype(hn::Zero(d));
  V const a = hn::Set(d, T(0.9999)), b = hn::Set(d, T(1e-4));
  auto const start = [&](int i) { return hn::Set(d, T(starts[i])); };
  V s0 = start(0), s1 = start(1), s2 = start(2), s3 = start(3), s4 = start(4), s5 = start(5);
  V s6 = start(6), s7 = start(7), s8 = start(8), s9 = start(9), s10 = start(10), s11 = start(11);
  for (std::int64_t i = 0; i < rounds; ++i) {
    s0 = hn::MulAdd(s0, a, b), s1 = hn::MulAdd(s1, a, b), s2 = hn::MulAdd(s2, a, b), s3 = hn::MulAdd(s3, a, b);
    s4 = hn::MulAdd(s4, a, b), s5 = hn::MulAdd(s5, a, b), s6 = hn::MulAdd(s6, a, b), s7 = hn::MulAdd(s7, a, b);
    s8 = hn::MulAdd(s8, a, b), s9 = hn::MulAdd(s9, a, b), s10 = hn::MulAdd(s10, a, b), s11 = hn::MulAdd(s11, a, b);
  }
  V const sum = hn::Add(hn::Add(hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)), hn::Add(hn::Add(s4, s5), hn::Add(s6, s7))),
                        hn::Add(hn::Add(s8, s9), hn::Add(s10, s11)));
  return hn::GetLane(sum) < T(0) ? 0 : double(hn::Lanes(d));      // depends on every chain, so that none is left out
}

#if HWY_TARGET <= HWY_AVX3
__attribute__((target("avx512bf16"))) double pairs(std::int64_t rounds, double const* starts) {
  __m512 sum[12];
#pragma GCC unroll 12
  for (int i = 0; i < 12; ++i) sum[i] = _mm512_set1_ps(float(starts[i]));
  __m512bh const a = (__m512bh)_mm512_set1_epi32(0x3c003c00);   // 2^-7
  for (std::int64_t round = 0; round < rounds; ++round)
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) sum[i] = _mm512_dpbf16_ps(sum[i], a, a);
  __m512 all = sum[0];
#pragma GCC unroll 12
  for (int i = 1; i < 12; ++i) all = _mm512_add_ps(all, sum[i]);
  return _mm512_cvtss_f32(all) < 0 ? 0 : 32;
}
#endif

void copy(char const* from, char* to, std::size_t bytes) {
  hn::ScalableTag<std::uint8_t> const d;
  std::size_t const n = hn::Lanes(d);
  auto const* f = reinterpret_cast<std::uint8_t const*>(from);
  auto* t = reinterpret_cast<std::uint8_t*>(to);
  for (std::size_t i = 0; i < bytes; i += 4 * n) {
    auto const v0 = hn::Load(d, f + i), v1 = hn::Load(d, f + i + n), v2 = hn::Load(d, f + i + 2 * n), v3 = hn::Load(d, f + i + 3 * n);
    hn::Store(v0, d, t + i), hn::Store(v1, d, t + i + n), hn::Store(v2, d, t + i + 2 * n), hn::Store(v3, d, t + i + 3 * n);
  }
}

}  // namespace

extern LimitKernels const limit_kernels;
#if HWY_TARGET <= HWY_AVX3
LimitKernels const limit_kernels = {fma<float>, fma<double>, copy, pairs};
#else
LimitKernels const limit_kernels = {fma<float>, fma<double>, copy};
#endif

}  // namespace falconet::FALCONET_ISA
#else
#include <algorithm>
#include <chrono>
#include <cstring>

#include "falconet/device/cpu/amx.h"
#include "falconet/device/cpu/limits.h"
#include "falconet/tensor/tensor.h"

namespace falconet {

FALCONET_DECLARE_KERNELS(LimitKernels, limit_kernels)

namespace {

template <class Run>
double seconds_of(Run const& run) {
  auto const start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

#if defined(__x86_64__)
// 12 products of tiles for 12 rounds of vectors: a product counts as so many of them; six sums, tiles of zeros.
double tile_products(std::int64_t rounds, double const*) {
  amx::TileConfig config;
  for (int tile = 0; tile < 8; ++tile) config.set(tile, 16, 64);
  amx::HardwareTiles tiles;
  tiles.configure(config);
  for (std::int64_t round = 0; round < rounds; round += 12) {
    tiles.multiply<0, 6, 7>(), tiles.multiply<1, 6, 7>(), tiles.multiply<2, 6, 7>(), tiles.multiply<3, 6, 7>(), tiles.multiply<4, 6, 7>(), tiles.multiply<5, 6, 7>();
    tiles.multiply<0, 6, 7>(), tiles.multiply<1, 6, 7>(), tiles.multiply<2, 6, 7>(), tiles.multiply<3, 6, 7>(), tiles.multiply<4, 6, 7>(), tiles.multiply<5, 6, 7>();
  }
  tiles.release();
  return 16 * 16 * 32 / 12.0;
}
#endif

// Operations a second of 12 chains of vectors by `kernel`.
double rate_of(ThreadPool& threads, double (*kernel)(std::int64_t, double const*)) {
  std::int64_t const rounds = 300'000;  // about a millisecond
  double const starts[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  double const lanes = kernel(1, starts);
  double best = 0;
  for (int repetition = 0; repetition < 30; ++repetition) {
    double const seconds = seconds_of([&] { threads.run(threads.size(), [&](int) { (void)kernel(rounds, starts); }); });
    best = std::max(best, 2.0 * 12 * lanes * double(rounds) * threads.size() / seconds);
  }
  return best;
}

}  // namespace

double fma_per_second(ThreadPool& threads, Isa isa, bool f64) {
  return rate_of(threads, f64 ? FALCONET_KERNELS(isa, limit_kernels).fma_f64 : FALCONET_KERNELS(isa, limit_kernels).fma_f32);
}

double bf16_products_per_second(ThreadPool& threads, Isa isa) {
  if (isa != Isa::avx512 || !has_bf16_products()) return fma_per_second(threads, isa);
#if defined(__x86_64__)
  if (has_amx()) return rate_of(threads, tile_products);
#endif
  return rate_of(threads, FALCONET_KERNELS(isa, limit_kernels).pairs);
}

double copy_bytes_per_second(ThreadPool& threads, Isa isa, std::size_t working_set) {
  auto const kernel = FALCONET_KERNELS(isa, limit_kernels).copy;
  std::size_t const shares = std::size_t(threads.size());
  std::size_t const share = std::max<std::size_t>(working_set / 2 / shares / 256, 1) * 256, half = share * shares;
  Buffer from(half), to(half);
  std::memset(from.data(), 1, half);
  std::memset(to.data(), 1, half);
  int const passes =
      int(std::clamp<std::size_t>((4 << 20) / half, 1, 1000));  // small blocks: several passes, so that the clock is fine enough
  int const repetitions = half > (64u << 20) ? 5 : 20;
  double best = 0;
  for (int repetition = 0; repetition < repetitions; ++repetition) {
    double const seconds = seconds_of([&] {
      threads.run(int(shares), [&](int task) {
        auto const offset = std::size_t(task) * share;
        for (int pass = 0; pass < passes; ++pass)
          kernel(static_cast<char const*>(from.data()) + offset, static_cast<char*>(to.data()) + offset, share);
      });
    });
    best = std::max(best, 2.0 * double(half) * passes / seconds);
  }
  return best;
}

}  // namespace falconet
#endif
