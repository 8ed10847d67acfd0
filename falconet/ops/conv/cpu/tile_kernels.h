// Kernel half of the transforms (winograd_transforms.cpp, fft_transforms.cpp): where tiles and packed elements lie, and how results are stored.
#pragma once
#include "falconet/device/cpu/simd.h"
#include "falconet/ops/conv/cpu/direct_rows.h"
#include "falconet/ops/conv/cpu/tile_products.h"
#include "falconet/ops/gemm/cpu/packed.h"
#include "falconet/ops/gemm/cpu/packing_simd.h"

namespace falconet::FALCONET_ISA {
namespace {

// Where a tile lies: its first element, and how far its rows are apart.
struct Place {
  float const* first;  // may lie outside the image; of bf16: first_bf16
  std::uint16_t const* first_bf16;
  int h, w;
  std::int64_t row;
};
HWY_INLINE Place place_of(TileGrid const& s, std::int64_t tile) {
  std::int64_t const n = tile / s.grid();
  int const in_grid = int(tile - n * s.grid()), i = in_grid / s.columns, j = in_grid - i * s.columns;
  Place p;
  p.h = i * s.step_h + s.first_h;
  p.w = j * s.step_w + s.first_w;
  p.row = std::int64_t(s.width) * s.channels;
  std::int64_t const at = (n * s.height + p.h) * p.row + std::int64_t(p.w) * s.channels;
  p.first = static_cast<float const*>(s.data) + at;
  p.first_bf16 = static_cast<std::uint16_t const*>(s.data) + at;
  return p;
}
// Calls body(places, first tile, tiles) for at most 16 tiles at a time.
template <class Body>
HWY_INLINE void for_tiles(TileGrid const& s, std::int64_t first, std::int64_t count, Body const& body) {
  Place places[16];
  for (std::int64_t t = 0; t < count; t += 16) {
    int const tiles = count - t < 16 ? int(count - t) : 16;
    for (int i = 0; i < tiles; ++i) places[i] = place_of(s, first + t + i);
    body(places, first + t, tiles);
  }
}
HWY_INLINE VF load_channels(float const* from, int n) { return n >= lanes ? hn::LoadU(d, from) : load_some(from, n); }
HWY_INLINE void store_channels(VF v, float* to, int n) { n >= lanes ? hn::StoreU(v, d, to) : store_first(v, d, to, n); }
HWY_INLINE VF load_channels(void const* from, bool bf16, std::int64_t at, int n) {
  if (!bf16) return load_channels(static_cast<float const*>(from) + at, n);
  auto const* const first = static_cast<std::uint16_t const*>(from) + at;
  return n >= lanes ? load_vector(first) : load_some(first, n);
}
HWY_INLINE void store_channels(VF v, void* to, bool bf16, std::int64_t at, int n) {
  if (!bf16) return store_channels(v, static_cast<float*>(to) + at, n);
  auto* const first = static_cast<std::uint16_t*>(to) + at;
  n >= lanes ? store_f32(v, d, first) : store_first(v, d, first, n);
}

// The vector of a packed filter at depth l and columns [column, column + lanes), element 0 of the domain; from there to the next element, and
// to the next l of the same piece.
struct Packed {
  float* data;
  std::int64_t element, row;
  // At row `at` of `depth` and at `column` of a block of `width` columns that is packed from `base` on in the product's panels.
  HWY_INLINE Packed(float* base, std::int64_t element, std::int64_t column, std::int64_t width, std::int64_t depth, std::int64_t at) : element(element) {
    GemmPanels const panels = GemmPanels::of(int(width / lanes), gemm_kernels.max_vectors);
    int const vector = int(column) / lanes, in_wide = panels.wide * (panels.narrow + 1);
    int const v = vector < in_wide ? panels.narrow + 1 : panels.narrow;
    int const v0 = vector < in_wide ? vector / v * v : in_wide + (vector - in_wide) / v * v;
    data = base + v0 * lanes * depth + at * v * lanes + (vector - v0) * lanes;
    row = std::int64_t(v) * lanes;
  }
};
HWY_INLINE Packed packed_at(TileFilter const& f, std::int64_t l, std::int64_t column) {
  std::int64_t const block = column / f.block * f.block, width = f.columns - block < f.block ? f.columns - block : f.block;
  std::int64_t const piece = l / f.piece * f.piece, deep = f.depth - piece < f.piece ? f.depth - piece : f.piece;
  return {f.packed + block * f.elements * f.depth + piece * width, width * f.depth, column - block, width, deep, l - piece};
}
// The same within a block of x for the filter gradient: tile t of the round, and from there to the same tile `count` further down.
HWY_INLINE Packed packed_at(TileOperands const& o, std::int64_t t, std::int64_t column, std::int64_t columns, std::int64_t depth) {
  std::int64_t const block = column / o.block * o.block, width = columns - block < o.block ? columns - block : o.block;
  return {o.packed + block * depth, o.domain_stride, column - block, width, depth, t};
}

// The results get(i, j) of one tile, channels [c, c + lanes), through the store slots; those outside the image are left out.
template <class Get>
HWY_INLINE void store_tile(TileResult const& r, std::int64_t tile, int c, Get const& get) {
  std::int64_t const grid = std::int64_t(r.rows) * r.columns, n = tile / grid;
  int const in_grid = int(tile - n * grid), i0 = in_grid / r.columns, h = i0 * r.step_h, w = (in_grid - i0 * r.columns) * r.step_w;
  int const rows = r.height - h < r.step_h ? r.height - h : r.step_h, columns = r.width - w < r.step_w ? r.width - w : r.step_w;
  int const left = r.channels - c < lanes ? r.channels - c : lanes;
  VF const bias = r.bias ? load_channels(r.bias + c, left) : hn::Zero(d);
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < columns; ++j) {
      std::int64_t const at = ((n * r.height + h + i) * r.width + w + j) * r.channels + c;
      VF v = hn::Add(get(i, j), bias);
      if (r.residual) v = hn::Add(v, load_channels(r.residual, r.bf16, at, left));
      if (r.relu) v = hn::IfThenZeroElse(hn::Lt(v, hn::Zero(d)), v);  // a NaN stays visible
      if (r.mask) v = hn::IfThenElseZero(hn::Gt(load_channels(r.mask, r.bf16, at, left), hn::Zero(d)), v);
      store_channels(v, r.out, r.bf16, at, left);
    }
}

// db(k ...) += the pixels of one tile of dy.
HWY_INLINE void add_tile(TileGrid const& s, Place const& place, int k, int n, float* db) {
  VF sum = load_channels(db + k, n);
  for (int i = 0; i < s.extent_h && place.h + i < s.height; ++i)
    for (int j = 0; j < s.extent_w && place.w + j < s.width; ++j)
      sum = hn::Add(sum, load_channels(s.bf16 ? static_cast<void const*>(place.first_bf16) : place.first, s.bf16, i * place.row + std::int64_t(j) * s.channels + k, n));
  store_channels(sum, db + k, n);
}

// The dy half of a filter gradient: put(place, k, n, to) for each tile and each vector of channels, of which n are there (none: zeros are wanted);
// `planes` packed numbers make an element of the domain. Adds up db, if that is wanted.
template <class Put>
HWY_INLINE void for_dy(TileOperands const& o, std::int64_t base, std::int64_t first, std::int64_t count, int planes, float* db, Put const& put) {
  TileGrid const& s = o.tiles;
  int const wide = (s.channels + 15) / 16 * 16;
  for_tiles(s, first, count, [&](Place const* places, std::int64_t t0, int tiles) HWY_ATTR {
    for (int k = 0; k < wide; k += lanes) {
      int const n = s.channels - k < lanes ? s.channels - k : lanes;
      for (int t = 0; t < tiles; ++t) {
        put(places[t], k, n, o.packed + (k / 16 * planes * o.count + (t0 + t - base)) * 16 + k % 16);
        if (n > 0 && db) add_tile(s, places[t], k, n, db);
      }
    }
  });
}

}  // namespace
}  // namespace falconet::FALCONET_ISA
