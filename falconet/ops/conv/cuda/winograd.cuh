// The transforms of F(2x2,3x3) and F(4x4,3x3) (winograd.cu), a thread per tile and channel, and tiles read and
// stored through their slots (tile_maps.cuh). The matrices of Lavin and Gray (2015) with interpolation points 0, 1, -1, (2, -2,) infinity, applied along columns and
// then along rows; each one's transpose, too, for the filter gradient.
#pragma once
#include "falconet/ops/conv/cuda/tile_maps.cuh"

namespace falconet::winograd {

using namespace tile_maps;

template <int m>
struct Matrices;

template <>
struct Matrices<2> {
  struct Input {  // B^T
    static constexpr int in = 4, out = 4;
    static FALCONET_DEVICE void apply(float const (&x)[4], float (&v)[4]) {
      v[0] = x[0] - x[2], v[1] = x[1] + x[2], v[2] = x[2] - x[1], v[3] = x[1] - x[3];
    }
  };
  struct Filter {  // G
    static constexpr int in = 3, out = 4;
    static FALCONET_DEVICE void apply(float const (&g)[3], float (&u)[4]) {
      float const even = 0.5f * (g[0] + g[2]), odd = 0.5f * g[1];
      u[0] = g[0], u[1] = even + odd, u[2] = even - odd, u[3] = g[2];
    }
  };
  struct Output {  // A^T
    static constexpr int in = 4, out = 2;
    static FALCONET_DEVICE void apply(float const (&s)[4], float (&y)[2]) { y[0] = s[0] + (s[1] + s[2]), y[1] = (s[1] - s[2]) - s[3]; }
  };
  struct OutputGradient {  // A
    static constexpr int in = 2, out = 4;
    static FALCONET_DEVICE void apply(float const (&y)[2], float (&z)[4]) { z[0] = y[0], z[1] = y[0] + y[1], z[2] = y[0] - y[1], z[3] = -y[1]; }
  };
  struct FilterGradient {  // G^T
    static constexpr int in = 4, out = 3;
    static FALCONET_DEVICE void apply(float const (&z)[4], float (&g)[3]) {
      float const even = 0.5f * (z[1] + z[2]);
      g[0] = z[0] + even, g[1] = 0.5f * (z[1] - z[2]), g[2] = even + z[3];
    }
  };
};

template <>
struct Matrices<4> {
  struct Input {
    static constexpr int in = 6, out = 6;
    static FALCONET_DEVICE void apply(float const (&x)[6], float (&v)[6]) {
      float const a = fmaf(-4, x[2], x[4]), b = fmaf(-4, x[1], x[3]), c = x[4] - x[2], e = 2 * (x[3] - x[1]);
      v[0] = fmaf(4, x[0], fmaf(-5, x[2], x[4])), v[1] = a + b, v[2] = a - b, v[3] = c + e, v[4] = c - e, v[5] = fmaf(4, x[1], fmaf(-5, x[3], x[5]));
    }
  };
  struct Filter {
    static constexpr int in = 3, out = 6;
    static FALCONET_DEVICE void apply(float const (&g)[3], float (&u)[6]) {
      float const a = (-1 / 6.0f) * (g[0] + g[2]), b = (1 / 6.0f) * g[1], c = fmaf(1 / 24.0f, g[0], (1 / 6.0f) * g[2]), e = (1 / 12.0f) * g[1];
      u[0] = 0.25f * g[0], u[1] = a - b, u[2] = a + b, u[3] = c + e, u[4] = c - e, u[5] = g[2];
    }
  };
  struct Output {
    static constexpr int in = 6, out = 4;
    static FALCONET_DEVICE void apply(float const (&s)[6], float (&y)[4]) {
      float const a = s[1] + s[2], b = s[1] - s[2], c = s[3] + s[4], e = s[3] - s[4];
      y[0] = s[0] + (a + c), y[1] = fmaf(2, e, b), y[2] = fmaf(4, c, a), y[3] = fmaf(8, e, b) + s[5];
    }
  };
  struct OutputGradient {
    static constexpr int in = 4, out = 6;
    static FALCONET_DEVICE void apply(float const (&y)[4], float (&z)[6]) {
      float const a = y[0] + y[2], b = y[1] + y[3], c = fmaf(4, y[2], y[0]), e = 2 * fmaf(4, y[3], y[1]);
      z[0] = y[0], z[1] = a + b, z[2] = a - b, z[3] = c + e, z[4] = c - e, z[5] = y[3];
    }
  };
  struct FilterGradient {
    static constexpr int in = 6, out = 3;
    static FALCONET_DEVICE void apply(float const (&z)[6], float (&g)[3]) {
      float const a = (-1 / 6.0f) * (z[1] + z[2]), b = (1 / 6.0f) * (z[2] - z[1]), c = z[3] + z[4], e = z[3] - z[4];
      g[0] = fmaf(0.25f, z[0], fmaf(1 / 24.0f, c, a)), g[1] = fmaf(1 / 12.0f, e, b), g[2] = fmaf(1 / 6.0f, c, a) + z[5];
    }
  };
};

// in[T::in][T::in] -> out[T::out][T::out].
template <class T>
FALCONET_DEVICE void transform(float const (&in)[T::in][T::in], float (&out)[T::out][T::out]) {
  float half[T::out][T::in];
#pragma unroll
  for (int j = 0; j < T::in; ++j) {
    float column[T::in], done[T::out];
#pragma unroll
    for (int i = 0; i < T::in; ++i) column[i] = in[i][j];
    T::apply(column, done);
#pragma unroll
    for (int i = 0; i < T::out; ++i) half[i][j] = done[i];
  }
#pragma unroll
  for (int i = 0; i < T::out; ++i) T::apply(half[i], out[i]);
}

// size x size places of channel c from (row, column) of image n on; zero outside.
template <int size, bool plain>
FALCONET_DEVICE void read_tile(Source const& s, int n, int row, int column, int c, float (&x)[size][size]) {
  if constexpr (plain) {
    float const* const from = s.data + ((std::int64_t(n) * s.map.height + row) * s.map.width + column) * s.map.channels + c;
#pragma unroll
    for (int i = 0; i < size; ++i)
#pragma unroll
      for (int j = 0; j < size; ++j)
        x[i][j] = unsigned(row + i) < unsigned(s.map.height) && unsigned(column + j) < unsigned(s.map.width)
                      ? __ldg(from + (i * s.map.width + j) * s.map.channels)
                      : 0;
  } else {
    Vectors const v = vectors_of(s, c);
#pragma unroll
    for (int i = 0; i < size; ++i)
#pragma unroll
      for (int j = 0; j < size; ++j) x[i][j] = read_place(s, n, row + i, column + j, c, v.a, v.b, v.shift);
  }
}

// The same of a map in its pooled form, windows of 2x2, from whose first row and column on `odd` are left out: a window is read once for its four places.
template <int size, int odd>
FALCONET_DEVICE void read_tile_of_windows(Source const& s, int n, int row, int column, int c, float (&x)[size][size]) {
  constexpr int windows = (size + odd + 1) / 2;
  int const first_row = row >> 1, first_column = column >> 1;
  std::int64_t const from = ((std::int64_t(n) * s.map.stored_height + first_row) * s.map.stored_width + first_column) * s.map.channels + c;
  float v[windows][windows];
  int places[windows][windows];          // bit 2 i + j: place (i, j) receives v
#pragma unroll
  for (int i = 0; i < windows; ++i)
#pragma unroll
    for (int j = 0; j < windows; ++j) {
      bool const in = unsigned(first_row + i) < unsigned(s.map.stored_height) && unsigned(first_column + j) < unsigned(s.map.stored_width);
      std::int64_t const at = from + (i * s.map.stored_width + j) * s.map.channels;
      v[i][j] = in ? __ldg(s.data + at) : 0;
      places[i][j] = in ? __ldg(s.winner + at) : 0;
    }
#pragma unroll
  for (int i = 0; i < windows; ++i)
#pragma unroll
    for (int j = 0; j < windows; ++j)
      if (s.unpool == PoolSlot::average) v[i][j] *= 0.25f;
      else places[i][j] = places[i][j] < 4 ? 1 << places[i][j] : 0;
#pragma unroll
  for (int i = 0; i < size; ++i)
#pragma unroll
    for (int j = 0; j < size; ++j) {
      int const here = (i + odd) % 2 * 2 + (j + odd) % 2;
      x[i][j] = places[(i + odd) / 2][(j + odd) / 2] >> here & 1 ? v[(i + odd) / 2][(j + odd) / 2] : 0;
    }
}

template <int m>
FALCONET_DEVICE void store_tile(Result const& r, Place const& p, int k, float const (&y)[m][m]) {
  float scale = 1, shift = 0;
  if (r.affine) scale = r.affine[k], shift = r.affine[r.channels + k];
  float const bias = r.bias ? r.bias[k] : 0;
  if (r.pool != PoolSlot::none) {                          // windows of 2x2, none of which straddles a tile
#pragma unroll
    for (int i = 0; i < m; i += 2)
#pragma unroll
      for (int j = 0; j < m; j += 2) {
        int const row = (p.row + i) / 2, column = (p.column + j) / 2;
        if (row >= r.pooled_height || column >= r.pooled_width) continue;
        store_window(r, p.n, row, column, k, scale, shift, bias, {y[i][j], y[i][j + 1], y[i + 1][j], y[i + 1][j + 1]});
      }
    return;
  }
  std::int64_t const first = ((std::int64_t(p.n) * r.height + p.row) * r.width + p.column) * r.channels + k;
#pragma unroll
  for (int i = 0; i < m; ++i)
#pragma unroll
    for (int j = 0; j < m; ++j) {
      if (p.row + i >= r.height || p.column + j >= r.width) continue;
      std::int64_t const at = first + (i * r.width + j) * r.channels;
      store_place(r, at, scale, shift, bias, y[i][j]);
    }
}

}  // namespace falconet::winograd
