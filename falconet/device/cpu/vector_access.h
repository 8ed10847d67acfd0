// Vectors of f32 loaded from and stored to f32 and bf16 memory, for kernel halves (SIMD sources) of any operation.
#pragma once
#include <cstdint>

#include "falconet/device/cpu/simd.h"
#include "falconet/tensor/bf16.h"

namespace falconet::FALCONET_ISA {

template <class D>
HWY_INLINE hn::Vec<D> load_vector(D d, float const* p) {
  return hn::LoadU(d, p);
}
template <class D>
HWY_INLINE hn::Vec<D> load_vector(D d, bf16 const* p) {
  hn::RebindToUnsigned<D> const du;
  hn::Rebind<std::uint16_t, D> const d16;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(d16, &p->bits))));
}

// bf16: rounded to nearest even; a NaN stays a NaN.
template <class D>
HWY_INLINE void store_vector(D d, hn::Vec<D> v, float* p) {
  hn::StoreU(v, d, p);
}
template <class D>
HWY_INLINE void store_vector(D, hn::Vec<D> v, bf16* p) {
  hn::RebindToUnsigned<D> const du;
  hn::RebindToSigned<D> const di;
  hn::Rebind<std::uint16_t, D> const d16;
  auto const bits = hn::BitCast(du, v);
  auto const odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  auto const rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fffu))));
  auto const quiet = hn::Or(hn::ShiftRight<16>(bits), hn::Set(du, 0x40u));
  auto const nan = hn::RebindMask(du, hn::IsNaN(v));
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, hn::IfThenElse(nan, quiet, rounded))), d16, &p->bits);
}

// The first `count` elements, fewer than a vector; the rest of the vector is zero. Nothing beyond them is touched.
template <class D, class T>
HWY_INLINE hn::Vec<D> load_part(D d, T const* p, std::int64_t count) {
  alignas(64) T buffer[hn::MaxLanes(D())] = {};
  for (std::int64_t i = 0; i < count; ++i) buffer[i] = p[i];
  return load_vector(d, buffer);
}
template <class D, class T>
HWY_INLINE void store_part(D d, hn::Vec<D> v, T* p, std::int64_t count) {
  alignas(64) T buffer[hn::MaxLanes(D())];
  store_vector(d, v, buffer);
  for (std::int64_t i = 0; i < count; ++i) p[i] = buffer[i];
}

// Access to element i and the lanes after it: a whole vector, or the last `count`. for_elements calls body with either.
struct Whole {
  std::int64_t i;
  template <class T>
  HWY_INLINE auto get(T const* p) const {
    return load_vector(hn::ScalableTag<float>(), p + i);
  }
  template <class T, class V>
  HWY_INLINE void put(T* p, V v) const {
    store_vector(hn::ScalableTag<float>(), v, p + i);
  }
};
struct Part {
  std::int64_t i, count;
  template <class T>
  HWY_INLINE auto get(T const* p) const {
    return load_part(hn::ScalableTag<float>(), p + i, count);
  }
  template <class T, class V>
  HWY_INLINE void put(T* p, V v) const {
    store_part(hn::ScalableTag<float>(), v, p + i, count);
  }
};
template <class Body>
HWY_INLINE void for_elements(std::int64_t begin, std::int64_t end, Body const& body) {
  std::int64_t const lanes = std::int64_t(hn::Lanes(hn::ScalableTag<float>()));
  std::int64_t i = begin;
  for (; i + lanes <= end; i += lanes) body(Whole{i});
  if (i < end) body(Part{i, end - i});
}

}  // namespace falconet::FALCONET_ISA
