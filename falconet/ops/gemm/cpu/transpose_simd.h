// Small pieces of packing that the matrix product and the patches of a convolution share; for kernel halves only, after
// device/cpu/simd.h. Everything is in an anonymous namespace, so nothing is shared between instruction sets.
#pragma once

namespace falconet::FALCONET_ISA {
namespace {

#define FALCONET_UNROLL _Pragma("GCC unroll 16")

inline float widen_element(float const* p) { return *p; }
inline float widen_element(std::uint16_t const* p) {   // of bf16
  union {
    std::uint32_t u;
    float f;
  } pun;
  pun.u = std::uint32_t(*p) << 16;
  return pun.f;
}

#if HWY_TARGET != HWY_SCALAR
using D4 = hn::Full128<float>;

// Four consecutive elements as f32.
HWY_INLINE hn::Vec<D4> load4(float const* p) { return hn::LoadU(D4(), p); }
HWY_INLINE hn::Vec<D4> load4(std::uint16_t const* p) {
  hn::RebindToUnsigned<D4> const d32;
  return hn::BitCast(D4(), hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(hn::Rebind<std::uint16_t, D4>(), p))));
}

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

// packed[l * stride + i] = rows[i][l] for i in [0, count), l in [0, k).
template <class T>
HWY_INLINE void transpose_rows(T const* const* rows, int count, std::int64_t k, float* packed, std::int64_t stride) {
  std::int64_t l = 0;
#if HWY_TARGET != HWY_SCALAR
  if (count >= 4)
    for (; l + 4 <= k; l += 4) {
      int i = 0;
#if HWY_TARGET <= HWY_AVX2
      hn::Full256<float> const d8;
      for (; i + 8 <= count; i += 8) {
        hn::Vec<decltype(d8)> r[4];
        FALCONET_UNROLL for (int j = 0; j < 4; ++j) r[j] = hn::Combine(d8, load4(rows[i + 4 + j] + l), load4(rows[i + j] + l));
        transpose4(d8, r);
        FALCONET_UNROLL for (int j = 0; j < 4; ++j) hn::StoreU(r[j], d8, packed + (l + j) * stride + i);
      }
#endif
      for (; i < count; i += 4) {
        int const at = i + 4 <= count ? i : count - 4;   // the last group of rows overlaps its neighbour
        hn::Vec<D4> r[4];
        FALCONET_UNROLL for (int j = 0; j < 4; ++j) r[j] = load4(rows[at + j] + l);
        transpose4(D4(), r);
        FALCONET_UNROLL for (int j = 0; j < 4; ++j) hn::StoreU(r[j], D4(), packed + (l + j) * stride + at);
      }
    }
#endif
  for (; l < k; ++l)
    for (int i = 0; i < count; ++i) packed[l * stride + i] = widen_element(rows[i] + l);
}

}  // namespace
}  // namespace falconet::FALCONET_ISA
