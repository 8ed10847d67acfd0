// Loads, partial loads and transposes that the matrix products and the patches of a convolution share; for kernel halves only,
// after device/cpu/simd.h. Everything is in an anonymous namespace, so nothing is shared between instruction sets.
#pragma once
#include "falconet/device/cpu/simd_load.h"

namespace falconet::FALCONET_ISA {
namespace {

#define FALCONET_UNROLL _Pragma("GCC unroll 16")

inline float widen_element(float const* p) { return *p; }
inline float widen_element(std::uint16_t const* p) { return to_float(bf16{*p}); }

using D = hn::ScalableTag<float>;
using VF = hn::Vec<D>;
constexpr D d{};
constexpr int lanes = int(hn::MaxLanes(D()));

// A whole vector of f32, or of bf16 widened.
template <class T>
HWY_INLINE VF load_vector(T const* p) { return load_f32(d, p); }
// The first n < lanes elements; the rest is zero, and memory past them is not touched.
HWY_INLINE VF load_some(float const* p, int n) {
#if HWY_TARGET <= HWY_AVX2
  return hn::MaskedLoad(hn::FirstN(d, std::size_t(n)), d, p);
#else
  HWY_ALIGN float part[lanes] = {};
  for (int i = 0; i < n; ++i) part[i] = p[i];
  return hn::Load(d, part);
#endif
}
HWY_INLINE VF load_some(std::uint16_t const* p, int n) {
  HWY_ALIGN std::uint16_t part[lanes] = {};
  for (int i = 0; i < n; ++i) part[i] = p[i];
  return load_vector(part);
}

#if HWY_TARGET != HWY_SCALAR
using D4 = hn::Full128<float>;

// Four consecutive elements as f32.
template <class T>
HWY_INLINE hn::Vec<D4> load4(T const* p) { return load_f32(D4(), p); }

// Transposes 4x4 within each block of 128 bits: r[i] holds elements 0..3 of row i, afterwards element i of rows 0..3.
template <class DD, class VV>
HWY_INLINE void transpose4(DD dd, VV (&r)[4]) {
  hn::Repartition<double, DD> const d64;
  auto const a = hn::BitCast(d64, hn::InterleaveLower(dd, r[0], r[1])), b = hn::BitCast(d64, hn::InterleaveLower(dd, r[2], r[3]));
  auto const c = hn::BitCast(d64, hn::InterleaveUpper(dd, r[0], r[1])), e = hn::BitCast(d64, hn::InterleaveUpper(dd, r[2], r[3]));
  r[0] = hn::BitCast(dd, hn::InterleaveLower(d64, a, b));
  r[1] = hn::BitCast(dd, hn::InterleaveUpper(d64, a, b));
  r[2] = hn::BitCast(dd, hn::InterleaveLower(d64, c, e));
  r[3] = hn::BitCast(dd, hn::InterleaveUpper(d64, c, e));
}
#endif

#if HWY_TARGET != HWY_SCALAR
// packed[l * stride + i] = rows[i][l] for i in [0, N), N = 4 or 8, and l in [0, k), k a multiple of 4.
template <int N, class T>
HWY_INLINE void transpose_group(T const* const* rows, std::int64_t k, float* packed, std::int64_t stride) {
  T const* row[N];  // held in registers: the stores below might otherwise be thought to change them
  FALCONET_UNROLL for (int i = 0; i < N; ++i) row[i] = rows[i];
  for (std::int64_t l = 0; l < k; l += 4, packed += 4 * stride) {
#if HWY_TARGET <= HWY_AVX2
    if constexpr (N == 8) {
      hn::Full256<float> const d8;
      hn::Vec<hn::Full256<float>> r[4];
      FALCONET_UNROLL for (int j = 0; j < 4; ++j) r[j] = hn::Combine(d8, load4(row[4 + j] + l), load4(row[j] + l));
      transpose4(d8, r);
      FALCONET_UNROLL for (int j = 0; j < 4; ++j) hn::StoreU(r[j], d8, packed + j * stride);
      continue;
    }
#endif
    FALCONET_UNROLL for (int i = 0; i < N; i += 4) {
      hn::Vec<D4> r[4];
      FALCONET_UNROLL for (int j = 0; j < 4; ++j) r[j] = load4(row[i + j] + l);
      transpose4(D4(), r);
      FALCONET_UNROLL for (int j = 0; j < 4; ++j) hn::StoreU(r[j], D4(), packed + j * stride + i);
    }
  }
}
#endif

// packed[l * stride + i] = rows[i][l] for i in [0, count), l in [0, k).
template <class T>
HWY_INLINE void transpose_rows(T const* const* rows, int count, std::int64_t k, float* packed, std::int64_t stride) {
  std::int64_t l = 0;
#if HWY_TARGET != HWY_SCALAR
  if (count >= 4) {
    l = k / 4 * 4;
    int i = 0;
    for (; i + 8 <= count; i += 8) transpose_group<8>(rows + i, l, packed + i, stride);
    for (; i < count; i += 4) {  // the last group of rows overlaps its neighbour
      int const at = i + 4 <= count ? i : count - 4;
      transpose_group<4>(rows + at, l, packed + at, stride);
    }
  }
#endif
  for (; l < k; ++l)
    for (int i = 0; i < count; ++i) packed[l * stride + i] = widen_element(rows[i] + l);
}

}  // namespace
}  // namespace falconet::FALCONET_ISA
