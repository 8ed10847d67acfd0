// For the kernel half of SIMD sources: vectors of f32 from and to memory that holds f32 or bf16, and the choice of a vector as
// long as a row of few elements allows. bf16 is rounded to nearest even, a NaN stays a NaN.
#pragma once
#include <cstdint>

#include "falconet/device/cpu/simd.h"
#include "falconet/tensor/bf16.h"

namespace falconet::FALCONET_ISA {

template <class D>
HWY_INLINE hn::Vec<D> load_f32(D d, float const* from) { return hn::LoadU(d, from); }

template <class D>
HWY_INLINE hn::Vec<D> load_f32(D d, std::uint16_t const* from) {   // the bits of bf16
  hn::Rebind<std::uint32_t, D> const d32;
  hn::Rebind<std::uint16_t, D> const d16;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, from))));
}

template <class D>
HWY_INLINE hn::Vec<D> load_f32(D d, bf16 const* from) { return load_f32(d, &from->bits); }

template <class D>
HWY_INLINE void store_f32(hn::Vec<D> v, D d, float* to) { hn::StoreU(v, d, to); }

template <class D>
HWY_INLINE void store_f32(hn::Vec<D> v, D, std::uint16_t* to) {
  hn::Rebind<std::uint32_t, D> const d32;
  hn::Rebind<std::int32_t, D> const di32;
  hn::Rebind<std::uint16_t, D> const d16;
  auto const bits = hn::BitCast(d32, v);
  auto const odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1u));
  auto const rounded = hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7fffu)));
  auto const nan = hn::Or(bits, hn::Set(d32, 0x400000u));
  auto const upper = hn::ShiftRight<16>(hn::IfThenElse(hn::RebindMask(d32, hn::IsNaN(v)), nan, rounded));
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di32, upper)), d16, to);
}

template <class D>
HWY_INLINE void store_f32(hn::Vec<D> v, D d, bf16* to) { store_f32(v, d, &to->bits); }

// Calls body(d) with the longest vector of f32 that has at most `count` lanes (count >= 1). A row of `count` elements is then
// covered by steps of Lanes(d), the last one set back so that it ends with the row: see for_lanes.
template <class Body>
HWY_INLINE void with_lanes(long count, Body const& body) {
  if (count >= long(HWY_LANES(float))) return body(hn::ScalableTag<float>());
  if (HWY_LANES(float) > 8 && count >= 8) return body(hn::CappedTag<float, 8>());
  if (HWY_LANES(float) > 4 && count >= 4) return body(hn::CappedTag<float, 4>());
  if (count >= 2) return body(hn::CappedTag<float, 2>());
  body(hn::CappedTag<float, 1>());
}

// Calls body(first) for the first element of each step over [0, count), count >= Lanes(d). Steps may overlap at the end: the
// body must not care that some elements are done twice.
template <class D, class Body>
HWY_INLINE void for_lanes(D d, long count, Body const& body) {
  long const lanes = long(hn::Lanes(d));
  long first = 0;
  for (; first + lanes <= count; first += lanes) body(first);
  if (first < count) body(count - lanes);
}

// The same where nothing may be done twice (sums): calls body(first, fresh), `fresh` a mask of the lanes not done before.
template <class D, class Body>
HWY_INLINE void for_lanes_once(D d, long count, Body const& body) {
  long const lanes = long(hn::Lanes(d));
  long first = 0;
  for (; first + lanes <= count; first += lanes) body(first, hn::FirstN(d, std::size_t(lanes)));
  if (first < count) body(count - lanes, hn::Not(hn::FirstN(d, std::size_t(lanes - (count - first)))));
}

}  // namespace falconet::FALCONET_ISA
