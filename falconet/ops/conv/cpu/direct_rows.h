// Kernel half of direct.cpp and direct_filter.cpp: vectors cut off at a channel count, and rows of a tensor copied with padding.
#pragma once
#include "falconet/device/cpu/simd.h"
#include "falconet/device/cpu/simd_load.h"
#include "falconet/ops/conv/cpu/direct.h"

namespace falconet::FALCONET_ISA {
namespace {

// The first n lanes; the others are zero. Reads and writes nothing beyond.
template <class D>
inline hn::Vec<D> load_first(D d, float const* from, int n) {
#if HWY_TARGET <= HWY_AVX2
  return hn::MaskedLoad(hn::FirstN(d, std::size_t(n)), d, from);
#else
  HWY_ALIGN float lanes[hn::MaxLanes(d)] = {};
  for (int i = 0; i < n; ++i) lanes[i] = from[i];
  return hn::Load(d, lanes);
#endif
}
template <class D>
inline hn::Vec<D> load_first(D d, std::uint16_t const* from, int n) {   // bf16
  HWY_ALIGN std::uint16_t lanes[hn::MaxLanes(d)] = {};
  for (int i = 0; i < n; ++i) lanes[i] = from[i];
  return load_f32(d, lanes);
}
template <class D>
inline void store_first(hn::Vec<D> v, D d, std::uint16_t* to, int n) {
  HWY_ALIGN std::uint16_t lanes[hn::MaxLanes(d)];
  store_f32(v, d, lanes);
  for (int i = 0; i < n; ++i) to[i] = lanes[i];
}
template <class D>
inline void store_first(hn::Vec<D> v, D d, float* to, int n) {
#if HWY_TARGET <= HWY_AVX2
  hn::BlendedStore(v, hn::FirstN(d, std::size_t(n)), d, to);
#else
  HWY_ALIGN float lanes[hn::MaxLanes(d)];
  hn::Store(v, d, lanes);
  for (int i = 0; i < n; ++i) to[i] = lanes[i];
#endif
}

inline void zero(float* to, long n) { __builtin_memset(to, 0, std::size_t(n) * sizeof(float)); }
inline void copy(float const* from, float* to, long n) { __builtin_memcpy(to, from, std::size_t(n) * sizeof(float)); }
inline void copy(std::uint16_t const* from, float* to, long n) {   // bf16, widened
  hn::ScalableTag<float> const d;
  long const lanes = long(hn::Lanes(d));
  long i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(load_f32(d, from + i), d, to + i);
  for (; i < n; ++i) to[i] = to_float(bf16{from[i]});
}

// Columns [first, first + columns) of one row of `width` pixels of c elements, as floats; columns outside are zero.
template <class T>
inline void copy_row(T const* row, int width, int c, int first, int columns, float* to) {
  int const left = first < 0 ? (-first < columns ? -first : columns) : 0;
  int const end = first + columns < width ? first + columns : width;
  int const inside = end > first + left ? end - first - left : 0;
  zero(to, long(left) * c);
  copy(row + long(first + left) * c, to + long(left) * c, long(inside) * c);
  zero(to + long(left + inside) * c, long(columns - left - inside) * c);
}

// The same of bf16 for an odd number of channels c, a zero behind each pixel's.
inline void copy_row_padded(std::uint16_t const* row, int width, int c, int first, int columns, std::uint16_t* to) {
  for (int j = 0; j < columns; ++j, to += c + 1) {
    int const column = first + j;
    if (column < 0 || column >= width) {
      __builtin_memset(to, 0, std::size_t(c + 1) * 2);
      continue;
    }
    std::uint16_t const* const from = row + long(column) * c;
    if (c == 3) {                                        // an image's colours
      std::uint64_t const pixel = from[0] | std::uint64_t(from[1]) << 16 | std::uint64_t(from[2]) << 32;
      __builtin_memcpy(to, &pixel, 8);
      continue;
    }
    __builtin_memcpy(to, from, std::size_t(c) * 2);
    to[c] = 0;
  }
}

// The same for a row of dy that is known by its max-pooled form: element (j, k) is dy where it won its window, zero elsewhere.
// pooled, winner: the pooled row and its winners, pooled_width pixels; row_in_window: which row of the windows this is. Beyond channel k up to
// `step` there are zeros. f32 or bf16 to f32, or elements as they are.
template <class From, class To>
inline void unpool_row(From const* pooled, std::uint8_t const* winner, int pooled_width, int size, int row_in_window, int k, int first, int columns, To* to, long step) {
  hn::CappedTag<To, 8> const d;
  hn::Rebind<std::uint8_t, decltype(d)> const bytes;
  hn::RebindToSigned<decltype(d)> const ints;
  using Int = hn::TFromD<decltype(ints)>;
  int const lanes = int(hn::MaxLanes(d));
  int const covered = pooled_width * size;
  for (int j = 0; j < columns; ++j) {
    int const column = first + j;
    To* const out = to + j * step;
    if (column < 0 || column >= covered) {
      __builtin_memset(out, 0, std::size_t(step) * sizeof(To));
      continue;
    }
    From const* const v = pooled + long(column / size) * k;
    std::uint8_t const* const won = winner + long(column / size) * k;
    int const here = row_in_window * size + column % size;
    int c = 0;
    for (; c + lanes <= k; c += lanes) {
      auto const index = hn::PromoteTo(ints, hn::LoadU(bytes, won + c));
      auto const keep = hn::RebindMask(d, hn::Eq(index, hn::Set(ints, Int(here))));
      if constexpr (sizeof(To) == 2) hn::StoreU(hn::IfThenElseZero(keep, hn::LoadU(d, v + c)), d, out + c);
      else hn::StoreU(hn::IfThenElseZero(keep, load_f32(d, v + c)), d, out + c);
    }
    for (; c < k; ++c) {
      if constexpr (sizeof(From) == sizeof(To)) out[c] = won[c] == here ? v[c] : To(0);
      else out[c] = won[c] == here ? to_float(bf16{v[c]}) : 0.0f;
    }
    for (; c < step; ++c) out[c] = To(0);
  }
}

}  // namespace
}  // namespace falconet::FALCONET_ISA
