// Kernel half of direct.cpp and direct_filter.cpp: vectors cut off at a channel count, and rows of a tensor copied with padding.
#pragma once
#include "falconet/device/cpu/simd.h"
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

// Columns [first, first + columns) of one row of `width` pixels of c floats; columns outside are zero.
inline void copy_row(float const* row, int width, int c, int first, int columns, float* to) {
  int const left = first < 0 ? (-first < columns ? -first : columns) : 0;
  int const end = first + columns < width ? first + columns : width;
  int const inside = end > first + left ? end - first - left : 0;
  zero(to, long(left) * c);
  copy(row + long(first + left) * c, to + long(left) * c, long(inside) * c);
  zero(to + long(left + inside) * c, long(columns - left - inside) * c);
}

// The same for a row of dy that is known by its max-pooled form: element (j, k) is dy where it won its window, zero elsewhere.
// pooled, winner: the pooled row and its winners, pooled_width pixels; row_in_window: which row of the windows this is.
inline void unpool_row(float const* pooled, std::uint8_t const* winner, int pooled_width, int size, int row_in_window, int k, int first, int columns, float* to, long step) {
  hn::CappedTag<float, 8> const d;
  hn::Rebind<std::uint8_t, decltype(d)> const bytes;
  hn::RebindToSigned<decltype(d)> const ints;
  int const lanes = int(hn::MaxLanes(d));
  int const covered = pooled_width * size;
  for (int j = 0; j < columns; ++j) {
    int const column = first + j;
    float* const out = to + j * step;
    if (column < 0 || column >= covered) {
      zero(out, step);
      continue;
    }
    float const* const v = pooled + long(column / size) * k;
    std::uint8_t const* const won = winner + long(column / size) * k;
    int const here = row_in_window * size + column % size;
    int c = 0;
    for (; c + lanes <= k; c += lanes) {
      auto const index = hn::PromoteTo(ints, hn::LoadU(bytes, won + c));
      auto const keep = hn::RebindMask(d, hn::Eq(index, hn::Set(ints, here)));
      hn::StoreU(hn::IfThenElseZero(keep, hn::LoadU(d, v + c)), d, out + c);
    }
    for (; c < k; ++c) out[c] = won[c] == here ? v[c] : 0.0f;
    for (; c < step; ++c) out[c] = 0.0f;
  }
}

}  // namespace
}  // namespace falconet::FALCONET_ISA
