// Walks over f32 and bf16 memory in whole vectors of f32 with a part of one at the end, for kernel halves (SIMD sources) of any
// operation.
#pragma once
#include <cstdint>

#include "falconet/device/cpu/simd_load.h"

namespace falconet::FALCONET_ISA {

// The first `count` elements, fewer than a vector; the rest of the vector is zero. Nothing beyond them is touched.
template <class D, class T>
HWY_INLINE hn::Vec<D> load_part(D d, T const* p, std::int64_t count) {
  alignas(64) T buffer[hn::MaxLanes(D())] = {};
  for (std::int64_t i = 0; i < count; ++i) buffer[i] = p[i];
  return load_f32(d, buffer);
}
template <class D, class T>
HWY_INLINE void store_part(D d, hn::Vec<D> v, T* p, std::int64_t count) {
  alignas(64) T buffer[hn::MaxLanes(D())];
  store_f32(v, d, buffer);
  for (std::int64_t i = 0; i < count; ++i) p[i] = buffer[i];
}

// Access to element i and the lanes after it: a whole vector, or the last `count`. for_elements calls body with either.
struct Whole {
  std::int64_t i;
  template <class T>
  HWY_INLINE auto get(T const* p) const {
    return load_f32(hn::ScalableTag<float>(), p + i);
  }
  template <class T, class V>
  HWY_INLINE void put(T* p, V v) const {
    store_f32(v, hn::ScalableTag<float>(), p + i);
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
