// Kernel half of direct.cpp: rows of sums through the store slots (bias, residual, relu, mask, max-pool) into the result.
#pragma once
#include "falconet/device/cpu/simd.h"
#include "falconet/ops/conv/cpu/direct.h"
#include "falconet/ops/conv/cpu/direct_rows.h"
#include "falconet/ops/conv/cpu/direct_tile.h"

namespace falconet::FALCONET_ISA {
namespace {

// The store slots of one row, for channels [first, first + vectors * lanes) that exist. `from` may be the row itself.
template <class D>
void finish_row(D d, DirectGather const& g, float const* from, long from_step, long pixel, int first, int vectors) {
  int const lanes = int(hn::MaxLanes(d));
  auto const none = hn::Zero(d);
  for (int v = 0; v < vectors; ++v) {
    int const c = first + v * lanes, n = g.out_c - c < lanes ? g.out_c - c : lanes;
    if (n <= 0) return;
    auto const bias = g.bias_on ? load_first(d, g.bias + c, n) : none;
    for (int j = 0; j < g.col.out; ++j) {
      long const at = (pixel + j) * g.out_c + c;
      auto z = hn::Add(hn::LoadU(d, from + j * from_step + v * lanes), bias);
      if (g.residual_on) z = hn::Add(z, n == lanes ? hn::LoadU(d, g.residual + at) : load_first(d, g.residual + at, n));
      if (g.relu) z = rectified(d, z, g.relu);
      if (g.mask_on) z = hn::IfThenElseZero(hn::Gt(n == lanes ? hn::LoadU(d, g.mask + at) : load_first(d, g.mask + at, n), none), z);
      if (n == lanes) hn::StoreU(z, d, g.out + at);
      else store_first(z, d, g.out + at, n);
    }
  }
}
// The same for so many rows of bf16, one behind the other, of image `image` in task `number`.
inline void finish_bf16(DirectGather const& g, float const* from, long from_step, int rows, int image, int number, long pixel, int first, int channels) {
  StoredRows s = g.slots;
  s.pixels = rows * g.col.out, s.channels = channels;
  s.from = from, s.from_step = from_step;
  advance(s, pixel * g.out_c + first);
  s.bias = s.bias ? s.bias + first : nullptr;
  s.totals = s.totals && image < g.valid_images ? s.totals + 2 * s.second * number + first : nullptr;
  store_kernels.rows(s);
}
// `size` rows of sums into one pooled row: maximum, bias, relu, and which element of the window it was.
template <class D>
void pool_row(D d, DirectGather const& g, float const* from, long from_row, long from_step, long pixel, int first, int vectors) {
  int const lanes = int(hn::MaxLanes(d)), size = g.pool;
  hn::RebindToSigned<D> const ints;
  hn::Rebind<std::uint8_t, D> const bytes;
  auto const none = hn::Zero(d);
  for (int v = 0; v < vectors; ++v) {
    int const c = first + v * lanes, n = g.out_c - c < lanes ? g.out_c - c : lanes;
    if (n <= 0) return;
    auto const bias = g.bias_on ? load_first(d, g.bias + c, n) : none;
    for (int j = 0; j < g.col.out / size; ++j) {
      float const* const window = from + j * size * from_step + v * lanes;
      auto best = hn::LoadU(d, window);
      auto winner = hn::Zero(ints);
      for (int r = 0; r < size; ++r)
        for (int s = r == 0; s < size; ++s) {
          auto const z = hn::LoadU(d, window + r * from_row + s * from_step);
          auto const more = hn::Or(hn::Gt(z, best), hn::IsNaN(z));   // as the reference: the last NaN of a window wins
          best = hn::IfThenElse(more, z, best);
          winner = hn::IfThenElse(hn::RebindMask(ints, more), hn::Set(ints, r * size + s), winner);
        }
      best = hn::Add(best, bias);
      if (g.relu) {
        winner = hn::IfThenElse(hn::RebindMask(ints, hn::Gt(best, none)), winner, hn::Set(ints, 255));
        best = hn::IfThenZeroElse(hn::Lt(best, none), best);
      }
      long const at = (pixel + j) * g.out_c + c;
      auto const index = hn::DemoteTo(bytes, winner);
      if (g.bf16) {
        auto* const out = reinterpret_cast<std::uint16_t*>(g.out) + at;
        n == lanes ? store_f32(best, d, out) : store_first(best, d, out, n);
      } else n == lanes ? hn::StoreU(best, d, g.out + at) : store_first(best, d, g.out + at, n);
      if (n == lanes) hn::StoreU(index, bytes, g.out_winner + at);
      else {
        HWY_ALIGN std::uint8_t index_lanes[HWY_LANES(std::uint8_t)];
        hn::StoreU(index, bytes, index_lanes);
        for (int i = 0; i < n; ++i) g.out_winner[at + i] = index_lanes[i];
      }
    }
  }
}
template <class Body>
inline void with_lanes(int lanes, Body const& body) {
  if constexpr (kLanes >= 16)
    if (lanes == 16) return body(hn::CappedTag<float, 16>());
  if constexpr (kLanes >= 8)
    if (lanes == 8) return body(hn::CappedTag<float, 8>());
  body(hn::CappedTag<float, 4>());
}

}  // namespace
}  // namespace falconet::FALCONET_ISA
