// Kernel half of direct_filter.cpp for bf16 on processors with AVX512-BF16: an element of 32 bits is a pair of neighbouring pixels, the first in the
// lower half, so that vdpbf16ps adds the products of two pixels to a sum (f32, subnormals as zero).
#pragma once
#include "falconet/device/cpu/simd.h"
#include "falconet/ops/conv/cpu/direct.h"

namespace falconet::FALCONET_ISA {
namespace {

// to[i] = low[i] and high[i] side by side; null: zeros.
inline void join(std::uint16_t const* low, std::uint16_t const* high, long n, std::uint32_t* to) {
  hn::ScalableTag<std::uint32_t> const d;
  hn::Rebind<std::uint16_t, decltype(d)> const d16;
  long const lanes = long(hn::Lanes(d));
  auto const none = hn::Zero(d);
  long i = 0;
  for (; i + lanes <= n; i += lanes) {
    auto const first = low ? hn::PromoteTo(d, hn::LoadU(d16, low + i)) : none;
    auto const second = high ? hn::ShiftLeft<16>(hn::PromoteTo(d, hn::LoadU(d16, high + i))) : none;
    hn::StoreU(hn::Or(first, second), d, to + i);
  }
  for (; i < n; ++i) to[i] = (low ? low[i] : 0u) | (high ? std::uint32_t(high[i]) << 16 : 0u);
}

// Columns [first, first + columns) of a row of `width` pixels of c bf16, each joined with the column `apart` further right; outside is zero.
inline void join_columns(std::uint16_t const* row, int width, int c, int first, int columns, int apart, std::uint32_t* to) {
  for (int j = 0; j < columns;) {
    int const low = first + j, high = low + apart;
    int end = columns;                                   // of the columns that are inside or outside like this one
    int const edges[] = {-apart - first, -first, width - apart - first, width - first};
    for (int edge : edges)
      if (edge > j && edge < end) end = edge;
    join(low >= 0 && low < width ? row + long(low) * c : nullptr, high >= 0 && high < width ? row + long(high) * c : nullptr, long(end - j) * c, to + long(j) * c);
    j = end;
  }
}

// db(k) += both halves of rows x pixels pairs of dy, for filters [first, end).
inline void add_bias_of_pairs(float const* dy, int rows, long row_step, int pixels, long step, int first, int end, float* db) {
  for (int row = 0; row < rows; ++row)
    for (int j = 0; j < pixels; ++j) {
      auto const* const from = reinterpret_cast<std::uint32_t const*>(dy + row * row_step + j * step);
      hn::ScalableTag<float> const d;
      hn::RebindToUnsigned<decltype(d)> const bits;
      int const lanes = int(hn::Lanes(d));
      int k = first;
      for (; k + lanes <= end; k += lanes) {
        auto const pair = hn::LoadU(bits, from + k);
        auto const low = hn::BitCast(d, hn::ShiftLeft<16>(pair)), high = hn::BitCast(d, hn::And(pair, hn::Set(bits, 0xffff0000u)));
        hn::StoreU(hn::Add(hn::LoadU(d, db + k), hn::Add(low, high)), d, db + k);
      }
      for (; k < end; ++k) db[k] += to_float(bf16{std::uint16_t(from[k])}) + to_float(bf16{std::uint16_t(from[k] >> 16)});
    }
}

#if HWY_TARGET <= HWY_AVX3
// Outer of direct_filter.cpp, pairs where it has floats.
template <class Outer, int vectors, int taps, int scalars>
__attribute__((target("avx512bf16"))) void outer_of_pairs(Outer const& a) {
  __m512 sum[taps * scalars][vectors];
#pragma GCC unroll 32
  for (int j = 0; j < taps * scalars; ++j)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sum[j][v] = _mm512_loadu_ps(a.sums + j / scalars * a.sums_tap + j % scalars * a.sums_step + v * 16);
  for (int row = 0; row < a.rows; ++row) {
    float const* from = a.vectors + row * a.vector_row;
    float const* x[taps];
#pragma GCC unroll 4
    for (int tap = 0; tap < taps; ++tap) x[tap] = a.scalars + row * a.scalar_row + tap * a.scalar_tap;
    for (int pixel = 0; pixel < a.pixels; ++pixel) {
      __m512 piece[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) piece[v] = _mm512_loadu_ps(from + v * 16);
#pragma GCC unroll 32
      for (int j = 0; j < taps * scalars; ++j) {
        __m512 const value = _mm512_set1_ps(x[j / scalars][j % scalars]);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sum[j][v] = _mm512_dpbf16_ps(sum[j][v], (__m512bh)piece[v], (__m512bh)value);
      }
      from += a.vector_pixel;
#pragma GCC unroll 4
      for (int tap = 0; tap < taps; ++tap) x[tap] += a.scalar_pixel;
    }
  }
#pragma GCC unroll 32
  for (int j = 0; j < taps * scalars; ++j)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) _mm512_storeu_ps(a.sums + j / scalars * a.sums_tap + j % scalars * a.sums_step + v * 16, sum[j][v]);
}
template <class Outer, int vectors, int taps, int scalars>
inline void (*pairs_of(int wanted))(Outer const&) {
  if constexpr (scalars == 1) return outer_of_pairs<Outer, vectors, taps, 1>;
  else return wanted == scalars ? outer_of_pairs<Outer, vectors, taps, scalars> : pairs_of<Outer, vectors, taps, scalars - 1>(wanted);
}
// As many sums as the plan makes of pairs: 12 of one vector, else 24.
template <class Outer>
inline void (*pairs_for(int vectors, int taps, int scalars))(Outer const&) {
  switch (vectors * 8 + taps) {
    case 8 + 2: return pairs_of<Outer, 1, 2, 6>(scalars);
    case 8 + 3: return pairs_of<Outer, 1, 3, 4>(scalars);
    case 8 + 4: return pairs_of<Outer, 1, 4, 3>(scalars);
    case 16 + 1: return pairs_of<Outer, 2, 1, 12>(scalars);
    case 24 + 1: return pairs_of<Outer, 3, 1, 8>(scalars);
    case 32 + 1: return pairs_of<Outer, 4, 1, 6>(scalars);
    default: return pairs_of<Outer, 1, 1, 12>(scalars);
  }
}
#endif

}  // namespace
}  // namespace falconet::FALCONET_ISA
