// The transforms of winograd.cpp and winograd_filter.cpp, a vector of channels at a time. The matrices of Lavin and Gray (2015) with
// interpolation points 0, 1, -1, (2, -2,) infinity, applied along columns and then along rows; each one's transpose, too, for the filter
// gradient. Elements of the domain lie in row order.
#include "falconet/ops/conv/cpu/tile_products.h"

#ifdef FALCONET_ISA
#include "falconet/device/cpu/simd.h"
#include "falconet/ops/conv/cpu/tile_kernels.h"

namespace falconet::FALCONET_ISA {
namespace {

HWY_INLINE VF times(float a, VF v) { return hn::Mul(hn::Set(d, a), v); }
HWY_INLINE VF times_add(float a, VF v, VF w) { return hn::MulAdd(hn::Set(d, a), v, w); }

// One axis of each transform, in[In] -> out[Out].
template <int m>
struct Matrices;

template <>
struct Matrices<2> {
  struct Input {  // B^T
    static constexpr int in = 4, out = 4;
    static HWY_INLINE void apply(VF const* x, VF* v) {
      v[0] = hn::Sub(x[0], x[2]);
      v[1] = hn::Add(x[1], x[2]);
      v[2] = hn::Sub(x[2], x[1]);
      v[3] = hn::Sub(x[1], x[3]);
    }
  };
  struct Filter {  // G
    static constexpr int in = 3, out = 4;
    static HWY_INLINE void apply(VF const* g, VF* u) {
      VF const even = times(0.5f, hn::Add(g[0], g[2])), odd = times(0.5f, g[1]);
      u[0] = g[0];
      u[1] = hn::Add(even, odd);
      u[2] = hn::Sub(even, odd);
      u[3] = g[2];
    }
  };
  struct Output {  // A^T
    static constexpr int in = 4, out = 2;
    static HWY_INLINE void apply(VF const* s, VF* y) {
      y[0] = hn::Add(s[0], hn::Add(s[1], s[2]));
      y[1] = hn::Sub(hn::Sub(s[1], s[2]), s[3]);
    }
  };
  struct OutputGradient {  // A
    static constexpr int in = 2, out = 4;
    static HWY_INLINE void apply(VF const* y, VF* z) {
      z[0] = y[0];
      z[1] = hn::Add(y[0], y[1]);
      z[2] = hn::Sub(y[0], y[1]);
      z[3] = hn::Neg(y[1]);
    }
  };
  struct FilterGradient {  // G^T
    static constexpr int in = 4, out = 3;
    static HWY_INLINE void apply(VF const* z, VF* g) {
      VF const even = times(0.5f, hn::Add(z[1], z[2]));
      g[0] = hn::Add(z[0], even);
      g[1] = times(0.5f, hn::Sub(z[1], z[2]));
      g[2] = hn::Add(even, z[3]);
    }
  };
};

template <>
struct Matrices<4> {
  struct Input {
    static constexpr int in = 6, out = 6;
    static HWY_INLINE void apply(VF const* x, VF* v) {
      VF const a = times_add(-4, x[2], x[4]), b = times_add(-4, x[1], x[3]);
      VF const c = hn::Sub(x[4], x[2]), e = times(2, hn::Sub(x[3], x[1]));
      v[0] = times_add(4, x[0], times_add(-5, x[2], x[4]));
      v[1] = hn::Add(a, b);
      v[2] = hn::Sub(a, b);
      v[3] = hn::Add(c, e);
      v[4] = hn::Sub(c, e);
      v[5] = times_add(4, x[1], times_add(-5, x[3], x[5]));
    }
  };
  struct Filter {
    static constexpr int in = 3, out = 6;
    static HWY_INLINE void apply(VF const* g, VF* u) {
      VF const a = times(-1 / 6.0f, hn::Add(g[0], g[2])), b = times(1 / 6.0f, g[1]);
      VF const c = times_add(1 / 24.0f, g[0], times(1 / 6.0f, g[2])), e = times(1 / 12.0f, g[1]);
      u[0] = times(0.25f, g[0]);
      u[1] = hn::Sub(a, b);
      u[2] = hn::Add(a, b);
      u[3] = hn::Add(c, e);
      u[4] = hn::Sub(c, e);
      u[5] = g[2];
    }
  };
  struct Output {
    static constexpr int in = 6, out = 4;
    static HWY_INLINE void apply(VF const* s, VF* y) {
      VF const a = hn::Add(s[1], s[2]), b = hn::Sub(s[1], s[2]), c = hn::Add(s[3], s[4]), e = hn::Sub(s[3], s[4]);
      y[0] = hn::Add(s[0], hn::Add(a, c));
      y[1] = times_add(2, e, b);
      y[2] = times_add(4, c, a);
      y[3] = hn::Add(times_add(8, e, b), s[5]);
    }
  };
  struct OutputGradient {
    static constexpr int in = 4, out = 6;
    static HWY_INLINE void apply(VF const* y, VF* z) {
      VF const a = hn::Add(y[0], y[2]), b = hn::Add(y[1], y[3]);
      VF const c = times_add(4, y[2], y[0]), e = times(2, times_add(4, y[3], y[1]));
      z[0] = y[0];
      z[1] = hn::Add(a, b);
      z[2] = hn::Sub(a, b);
      z[3] = hn::Add(c, e);
      z[4] = hn::Sub(c, e);
      z[5] = y[3];
    }
  };
  struct FilterGradient {
    static constexpr int in = 6, out = 3;
    static HWY_INLINE void apply(VF const* z, VF* g) {
      VF const a = times(-1 / 6.0f, hn::Add(z[1], z[2])), b = times(1 / 6.0f, hn::Sub(z[2], z[1]));
      VF const c = hn::Add(z[3], z[4]), e = hn::Sub(z[3], z[4]);
      g[0] = times_add(0.25f, z[0], times_add(1 / 24.0f, c, a));
      g[1] = times_add(1 / 12.0f, e, b);
      g[2] = hn::Add(times_add(1 / 6.0f, c, a), z[5]);
    }
  };
};

// in[T::in][T::in] -> out[T::out][T::out]; get(i, j) reads, put(i, j, v) takes the result.
template <class T, class Get, class Put>
HWY_INLINE void transform(Get const& get, Put const& put) {
  VF half[T::in][T::out];  // [column of in][row of out]
  FALCONET_UNROLL for (int j = 0; j < T::in; ++j) {
    VF column[T::in];
    FALCONET_UNROLL for (int i = 0; i < T::in; ++i) column[i] = get(i, j);
    T::apply(column, half[j]);
  }
  FALCONET_UNROLL for (int i = 0; i < T::out; ++i) {
    VF row[T::in], out[T::out];
    FALCONET_UNROLL for (int j = 0; j < T::in; ++j) row[j] = half[j][i];
    T::apply(row, out);
    FALCONET_UNROLL for (int j = 0; j < T::out; ++j) put(i, j, out[j]);
  }
}

// Elements of one tile, channels [c, c + n), as vectors of f32 side by side; zero outside the image and past the last channel.
HWY_NOINLINE void copy_tile(TileGrid const& s, Place const& p, int c, int n, int size, float* to) {
  for (int i = 0; i < size; ++i)
    for (int j = 0; j < size; ++j, to += lanes) {
      bool const inside = unsigned(p.h + i) < unsigned(s.height) && unsigned(p.w + j) < unsigned(s.width);
      std::int64_t const at = c + i * p.row + std::int64_t(j) * s.channels;
      void const* const first = s.bf16 ? static_cast<void const*>(p.first_bf16) : p.first;
      hn::StoreU(inside ? load_channels(first, s.bf16, at, n) : hn::Zero(d), d, to);
    }
}

// Transforms `size` x `size` elements of one tile, channels [c, c + n), n <= lanes.
template <class T, class Put>
HWY_INLINE void transform_tile(TileGrid const& s, Place const& p, int c, int n, Put const& put) {
  constexpr int size = T::in;
  HWY_ALIGN float copied[size * size * lanes];
  float const* from = p.first + c;
  std::int64_t row = p.row, pixel = s.channels;
  if (s.bf16 || p.h < 0 || p.w < 0 || p.h + size > s.height || p.w + size > s.width || n < lanes) {
    copy_tile(s, p, c, n, size, copied);
    from = copied, row = size * lanes, pixel = lanes;
  }
  transform<T>([&](int i, int j) HWY_ATTR { return hn::LoadU(d, from + i * row + j * pixel); }, put);
}

template <int m>
void input_as(TileGrid const& s, std::int64_t first, int rows, float* panel) {
  constexpr int a = m + 2;
  HWY_ALIGN float temporary[a * a * gemm_max_rows * lanes];
  Place place[gemm_max_rows];
  for (int i = 0; i < rows; ++i) place[i] = place_of(s, first + i);
  for (int c = 0; c < s.channels; c += lanes) {
    int const n = s.channels - c < lanes ? s.channels - c : lanes;
    for (int i = 0; i < rows; ++i) {
      float* const to = temporary + i * lanes;
      transform_tile<typename Matrices<m>::Input>(s, place[i], c, n,
                                                  [&](int x, int y, VF v) HWY_ATTR { hn::Store(v, d, to + (x * a + y) * rows * lanes); });
    }
    for (int e = 0; e < a * a; ++e) {
      float const* row[gemm_max_rows];
      for (int i = 0; i < rows; ++i) row[i] = temporary + (e * rows + i) * lanes;
      transpose_rows(row, rows, n, panel + (std::int64_t(e) * s.channels + c) * rows, rows);
    }
  }
}
void input(TileGrid const& s, std::int64_t first, int rows, float* panel) {
  s.size == 2 ? input_as<2>(s, first, rows, panel) : input_as<4>(s, first, rows, panel);
}

// Columns are filters: vectors of channels are transformed filter by filter, then transposed.
template <int m>
void filter_forward(TileFilter const& f, std::int64_t first, std::int64_t count, std::int64_t out, std::int64_t out_count) {
  constexpr int a = m + 2;
  HWY_ALIGN float temporary[a * a][lanes][lanes];
  for (std::int64_t k0 = out; k0 < out + out_count; k0 += lanes)
    for (std::int64_t l = first; l < first + count; l += lanes) {
      int const n = first + count - l < lanes ? int(first + count - l) : lanes;
      for (int i = 0; i < lanes; ++i) {
        if (k0 + i >= f.k) {
          for (int e = 0; e < a * a; ++e) hn::Store(hn::Zero(d), d, temporary[e][i]);
          continue;
        }
        std::int64_t const from = (k0 + i) * 9 * f.c + l;
        transform<typename Matrices<m>::Filter>([&](int r, int s) HWY_ATTR { return load_channels(f.data, f.bf16, from + (r * 3 + s) * std::int64_t(f.c), n); },
                                                [&](int x, int y, VF u) HWY_ATTR { hn::Store(u, d, temporary[x * a + y][i]); });
      }
      Packed const to = packed_at(f, l, k0);
      for (int e = 0; e < a * a; ++e) {
        float const* row[lanes];
        for (int i = 0; i < lanes; ++i) row[i] = temporary[e][i];
        transpose_rows(row, lanes, n, to.data + e * to.element, to.row);
      }
    }
}
// Columns are channels, as they lie; the filter is flipped.
template <int m>
void filter_backward(TileFilter const& f, std::int64_t first, std::int64_t count, std::int64_t out, std::int64_t out_count) {
  constexpr int a = m + 2;
  for (std::int64_t l = first; l < first + count; ++l)
    for (std::int64_t c = out; c < out + out_count; c += lanes) {
      int const n = c >= f.c ? 0 : f.c - c < lanes ? int(f.c - c) : lanes;
      std::int64_t const from = l * 9 * f.c + c;
      Packed const to = packed_at(f, l, c);
      transform<typename Matrices<m>::Filter>(
          [&](int r, int s) HWY_ATTR { return n > 0 ? load_channels(f.data, f.bf16, from + (8 - r * 3 - s) * std::int64_t(f.c), n) : hn::Zero(d); },
          [&](int x, int y, VF u) HWY_ATTR { hn::StoreU(u, d, to.data + (x * a + y) * to.element); });
    }
}
void filter(TileFilter const& f, std::int64_t first, std::int64_t count, std::int64_t out, std::int64_t out_count) {
  if (f.data_gradient)
    f.size == 2 ? filter_backward<2>(f, first, count, out, out_count) : filter_backward<4>(f, first, count, out, out_count);
  else
    f.size == 2 ? filter_forward<2>(f, first, count, out, out_count) : filter_forward<4>(f, first, count, out, out_count);
}

template <int m>
void output_as(TileResult const& r, std::int64_t first, int count, float const* sums) {
  constexpr int a = m + 2;
  for (int t = 0; t < count; ++t, sums += r.wide)
    for (int c = 0; c < r.channels; c += lanes) {
      VF out[m][m];
      transform<typename Matrices<m>::Output>([&](int i, int j) HWY_ATTR { return hn::LoadU(d, sums + (i * a + j) * (r.wide * count) + c); },
                                              [&](int i, int j, VF v) HWY_ATTR { out[i][j] = v; });
      store_tile(r, first + t, c, [&](int i, int j) HWY_ATTR { return out[i][j]; });
    }
}
void output(TileResult const& r, std::int64_t first, int count, float const* sums) {
  r.size == 2 ? output_as<2>(r, first, count, sums) : output_as<4>(r, first, count, sums);
}

template <int m>
void gather_x_as(TileOperands const& o, std::int64_t base, std::int64_t first, std::int64_t count) {
  constexpr int a = m + 2;
  TileGrid const& s = o.tiles;
  std::int64_t const wide = (s.channels + 15) / 16 * 16;
  for_tiles(s, first, count, [&](Place const* places, std::int64_t t0, int tiles) HWY_ATTR {
    for (int c = 0; c < wide; c += lanes) {
      int const n = s.channels - c < lanes ? s.channels - c : lanes;
      Packed const packed = packed_at(o, t0 - base, c, wide, o.count);
      for (int t = 0; t < tiles; ++t) {
        float* const to = packed.data + t * packed.row;
        if (n > 0)
          transform_tile<typename Matrices<m>::Input>(s, places[t], c, n,
                                                      [&](int x, int y, VF u) HWY_ATTR { hn::StoreU(u, d, to + (x * a + y) * packed.element); });
        else
          for (int e = 0; e < a * a; ++e) hn::StoreU(hn::Zero(d), d, to + e * packed.element);
      }
    }
  });
}
void gather_x(TileOperands const& o, std::int64_t base, std::int64_t first, std::int64_t count) {
  o.tiles.size == 2 ? gather_x_as<2>(o, base, first, count) : gather_x_as<4>(o, base, first, count);
}

template <int m>
void gather_dy_as(TileOperands const& o, std::int64_t base, std::int64_t first, std::int64_t count, float* db) {
  constexpr int a = m + 2;
  for_dy(o, base, first, count, 1, db, [&](Place const& place, int k, int n, float* to) HWY_ATTR {
    if (n > 0)
      transform_tile<typename Matrices<m>::OutputGradient>(o.tiles, place, k, n,
                                                           [&](int x, int y, VF u) HWY_ATTR { hn::StoreU(u, d, to + (x * a + y) * o.domain_stride); });
    else
      for (int e = 0; e < a * a; ++e) hn::StoreU(hn::Zero(d), d, to + e * o.domain_stride);
  });
}
void gather_dy(TileOperands const& o, std::int64_t base, std::int64_t first, std::int64_t count, float* db) {
  o.tiles.size == 2 ? gather_dy_as<2>(o, base, first, count, db) : gather_dy_as<4>(o, base, first, count, db);
}

template <int m>
void filter_gradient_as(TileTaps const& t, float const* sums, float* dw) {
  constexpr int a = m + 2;
  for (int c = 0; c < t.c; c += lanes) {
    int const n = t.c - c < lanes ? t.c - c : lanes;
    transform<typename Matrices<m>::FilterGradient>(
        [&](int i, int j) HWY_ATTR { return hn::LoadU(d, sums + (i * a + j) * t.domain_stride + c); },
        [&](int r, int s, VF v) HWY_ATTR { store_channels(v, dw + (r * 3 + s) * std::int64_t(t.c) + c, n); });
  }
}
void filter_gradient(TileTaps const& t, float const* sums, float* dw) {
  t.size == 2 ? filter_gradient_as<2>(t, sums, dw) : filter_gradient_as<4>(t, sums, dw);
}

}  // namespace

TileKernels const winograd_kernels = {filter, input, output, gather_x, gather_dy, filter_gradient};

}  // namespace falconet::FALCONET_ISA

#endif
