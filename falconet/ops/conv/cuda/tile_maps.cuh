// What convolutions in a transformed domain (winograd, fft) share on a GPU: the maps that tiles are cut from, read through their load slots, the grid of
// tiles, and where results go, through their store slots.
#pragma once
#include "falconet/device/cuda/ptx.cuh"
#include "falconet/ops/conv/cuda/pooled_map.cuh"

namespace falconet::tile_maps {

FALCONET_DEVICE float clip(Activation act, float v) {   // none, relu or relu6
  if (act != Activation::none && v < 0) v = 0;
  return act == Activation::relu6 && v > 6 ? 6 : v;
}

// The maps that tiles are cut from: x, or dy.
struct Source {
  PooledMap map;
  float const *data, *other, *vectors;   // other, vectors: of the affine
  std::uint8_t const* winner;
  Affine affine;
  Activation act;
  PoolSlot::Kind unpool;
  bool plain() const { return affine == Affine::none && act == Activation::none && unpool == PoolSlot::none; }
};
// Tiles of `step` x `step` places begin at (row * step - pad_top, column * step - pad_left) of the source.
struct Tiles {
  int across, of_image, all, step, pad_top, pad_left;
  FastDivide by_image, by_across;
};
inline Tiles tiles_of(int images, int rows, int columns, int step, int pad_top, int pad_left) {
  int const down = (rows + step - 1) / step, across = (columns + step - 1) / step;
  return {across, down * across, images * down * across, step, pad_top, pad_left, FastDivide(down * across), FastDivide(across)};
}
struct Place {
  int n, row, column;                    // row, column: of the tile's first place, without padding
};
FALCONET_DEVICE Place place_in(Tiles const& t, int tile) {
  Place p;
  int in_image, column;
  p.n = t.by_image(tile, in_image);
  p.row = t.by_across(in_image, column) * t.step;
  p.column = column * t.step;
  return p;
}

// One place of channel c; zero outside.
FALCONET_DEVICE float read_place(Source const& s, int n, int row, int column, int c, float a, float b, float shift) {
  int here = 0;
  std::int64_t const at = place_of(s.map, s.unpool != PoolSlot::none, n, row, column, here);
  if (at < 0) return 0;                  // padding is zero after the slots
  float v = __ldg(s.data + at + c);
  if (s.unpool != PoolSlot::none) v = share_of_place(s.unpool, s.map.pool, s.winner[at + c], here, v);
  if (s.affine == Affine::scale_shift) v = a * v + b;
  if (s.affine == Affine::two_operand) v = a * v + b * s.other[at + c] + shift;
  return clip(s.act, v);
}
struct Vectors {                         // of the affine, of one channel
  float a = 1, b = 0, shift = 0;
};
FALCONET_DEVICE Vectors vectors_of(Source const& s, int c) {
  Vectors v;
  if (s.affine == Affine::none) return v;
  v.a = s.vectors[c], v.b = s.vectors[s.map.channels + c];
  if (s.affine == Affine::two_operand) v.shift = s.vectors[2 * s.map.channels + c];
  return v;
}

// Where results go.
struct Result {
  int height, width, channels, pooled_height, pooled_width;
  float* data;
  float const *affine, *bias, *residual, *mask_data;
  std::uint8_t* winner;
  Activation act;
  Mask mask;
  PoolSlot::Kind pool;
};
// A window's four results on their way to memory, as one: window (row, column) of channel k of image n.
FALCONET_DEVICE void store_window(Result const& r, int n, int row, int column, int k, float scale, float shift, float bias, float const (&results)[4]) {
  std::int64_t const at = ((std::int64_t(n) * r.pooled_height + row) * r.pooled_width + column) * r.channels + k;
  bool const average = r.pool == PoolSlot::average;
  float best = 0;                        // of the average the sum
  int winner = -1, passing = 0;          // passing: bits of places where the activation's derivative is one
#pragma unroll
  for (int place = 0; place < 4; ++place) {
    float u = results[place];
    if (r.affine) u = scale * u + shift;
    u += bias;
    float const v = clip(r.act, u);
    passing |= int(r.act == Activation::none || (u > 0 && (r.act == Activation::relu || u < 6))) << place;
    if (average) best += v;
    else if (winner < 0 || v > best || v != v) best = v, winner = place;
  }
  r.data[at] = average ? 0.25f * best : best;
  r.winner[at] = average ? std::uint8_t(passing) : passing >> winner & 1 ? std::uint8_t(winner) : no_winner;
}
// A result of place `at` on its way to memory; not where results are pooled.
FALCONET_DEVICE void store_place(Result const& r, std::int64_t at, float scale, float shift, float bias, float v) {
  if (r.affine) v = scale * v + shift;
  v += bias;
  if (r.residual) v += r.residual[at];
  v = clip(r.act, v);
  if (r.mask != Mask::none && !passes(r.mask, r.mask_data[at])) v = 0;
  r.data[at] = v;
}

inline Source source_of(ConvProblem const& p, ConvArgs const& a, bool dy) {   // dy of a problem, or x
  auto const unpool = dy ? p.load_dy.unpool.kind : PoolSlot::none;
  OnLoad const& load = dy ? p.load_dy : p.load_x;
  PooledMap map = pooled_map(dy ? p.p() : p.h, dy ? p.q() : p.w, dy ? p.k : p.c, p);
  if (unpool == PoolSlot::none) map.pool = 1;
  return {map,
          (dy ? a.y : a.x).as<float>(),
          dy ? a.load_dy_other.as<float>() : nullptr,
          (dy ? a.load_dy : a.load_x).as<float>(),
          a.winner.as<std::uint8_t>(),
          load.affine,
          load.act,
          unpool};
}
inline Result result_of(ConvProblem const& p, ConvArgs const& a) {
  bool const data = p.direction == Direction::bwd_data;
  auto const& s = p.store;
  return {data ? p.h : p.p(),
          data ? p.w : p.q(),
          data ? p.c : p.k,
          p.stored_p(),
          p.stored_q(),
          (data ? a.x : a.y).as<float>(),
          s.affine == Affine::none ? nullptr : a.store_affine.as<float>(),
          s.bias ? a.bias.as<float>() : nullptr,
          s.residual ? a.residual.as<float>() : nullptr,
          a.mask.as<float>(),
          a.winner.as<std::uint8_t>(),
          s.act,
          s.mask,
          s.pool.kind};
}

}  // namespace falconet::tile_maps
