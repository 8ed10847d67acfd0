// The transforms of fft.cpp: real two-dimensional discrete Fourier transforms of N x N tiles, N = 16 or 32, for a vector of channels at a time.
// Rows first, two real rows as one complex one (Cooley, Lewis and Welch, 1970), then the N/2 + 1 columns that are not conjugates of others,
// each by the radix-2 algorithm (Cooley and Tukey, 1965). Rows that are zero, or whose results nobody reads, are left out. Neither direction
// is scaled, and separating two rows doubles them: a product of two transforms comes back 4 N^2 times too large, which is exact to undo.
// Elements of the domain lie in row order: row i, column j at i * (N/2 + 1) + j.
#include "falconet/ops/conv/cpu/tile_products.h"

#ifdef FALCONET_ISA
#include "falconet/device/cpu/simd.h"
#include "falconet/ops/conv/cpu/tile_kernels.h"

namespace falconet::FALCONET_ISA {
namespace {

// cos(2 pi i / 32), i = 0 .. 8.
constexpr float cosines[9] = {1.0f,           0.98078528040f, 0.92387953251f, 0.83146961230f, 0.70710678119f,
                              0.55557023302f, 0.38268343236f, 0.19509032202f, 0.0f};
constexpr float cosine(int i) { return i <= 8 ? cosines[i] : -cosines[16 - i]; }  // i = 0 .. 16
constexpr float sine(int i) { return i <= 8 ? cosines[8 - i] : cosines[i - 8]; }

constexpr int reversed(int i, int n) {
  int out = 0;
  for (int bit = 1; bit < n; bit *= 2) out = out * 2 + (i / bit) % 2;
  return out;
}

// N complex numbers in bit-reversed order, transformed in place: e^(-2 pi i jk / N) or, inverse, its conjugate. Recursion by halves.
template <int N, bool inverse>
HWY_INLINE void transform_inline(VF* re, VF* im) {
  if constexpr (N > 1) {
    transform_inline<N / 2, inverse>(re, im);
    transform_inline<N / 2, inverse>(re + N / 2, im + N / 2);
    FALCONET_UNROLL for (int k = 0; k < N / 2; ++k) {
      VF const r = re[k + N / 2], i = im[k + N / 2];
      VF tr = r, ti = i;
      if (k == N / 4 && N > 2) {
        tr = inverse ? hn::Neg(i) : i;
        ti = inverse ? r : hn::Neg(r);
      } else if (k > 0) {
        VF const c = hn::Set(d, cosine(k * (32 / N))), s = hn::Set(d, inverse ? -sine(k * (32 / N)) : sine(k * (32 / N)));
        tr = hn::MulAdd(r, c, hn::Mul(i, s));
        ti = hn::NegMulAdd(r, s, hn::Mul(i, c));
      }
      re[k + N / 2] = hn::Sub(re[k], tr), im[k + N / 2] = hn::Sub(im[k], ti);
      re[k] = hn::Add(re[k], tr), im[k] = hn::Add(im[k], ti);
    }
  }
}

// Unrolled as a whole, and so one copy of each.
template <int N, bool inverse>
HWY_NOINLINE void transform(VF* re, VF* im) {
  transform_inline<N, inverse>(re, im);
}

// One tile in the domain, or on its way there.
template <int N>
struct Spectrum {
  static constexpr int half = N / 2 + 1, elements = N * half;
  VF re[elements], im[elements];  // [row][half]

  // rows(i, j) gives the real pixels, of which those in `rows` x `columns` are not zero.
  template <class Get>
  HWY_INLINE void forward(int rows, int columns, Get const& get) {
    for (int i = 0; i < N; i += 2) {
      if (i >= rows) {
        for (int k = 0; k < half; ++k) re[i * half + k] = im[i * half + k] = re[(i + 1) * half + k] = im[(i + 1) * half + k] = hn::Zero(d);
        continue;
      }
      VF a[N], b[N];
      for (int j = 0; j < N; ++j) {
        int const to = reversed(j, N);
        a[to] = j < columns ? get(i, j) : hn::Zero(d);
        b[to] = j < columns && i + 1 < rows ? get(i + 1, j) : hn::Zero(d);
      }
      separate(i, a, b);
    }
    columns_of<false>();
  }
  // The first `rows` rows of real pixels (one more if they are odd), out[row][N].
  HWY_NOINLINE void inverse(int rows, VF* out) {
    columns_of<true>();
    for (int i = 0; i < rows; i += 2) {
      VF a[N], b[N];
      for (int k = 0; k < half; ++k) {
        int const to = reversed(k, N), other = reversed((N - k) % N, N);
        // Columns 0 and N/2 are their own conjugates: of their two forms the second is kept, as the imaginary parts are zero but for rounding.
        a[other] = hn::Add(re[i * half + k], im[(i + 1) * half + k]), b[other] = hn::Sub(re[(i + 1) * half + k], im[i * half + k]);
        a[to] = hn::Sub(re[i * half + k], im[(i + 1) * half + k]), b[to] = hn::Add(re[(i + 1) * half + k], im[i * half + k]);
      }
      transform<N, true>(a, b);
      VF const scale = hn::Set(d, 1.0f / (4 * N * N));
      for (int j = 0; j < N; ++j) {
        out[i * N + j] = hn::Mul(a[j], scale);
        out[(i + 1) * N + j] = hn::Mul(b[j], scale);
      }
    }
  }

 private:
  // Rows i and i + 1 from their pixels in bit-reversed order.
  HWY_NOINLINE void separate(int i, VF* a, VF* b) {
    transform<N, false>(a, b);
    for (int k = 0; k < half; ++k) {
      int const other = (N - k) % N;
      re[i * half + k] = hn::Add(a[k], a[other]), im[i * half + k] = hn::Sub(b[k], b[other]);
      re[(i + 1) * half + k] = hn::Add(b[k], b[other]), im[(i + 1) * half + k] = hn::Sub(a[other], a[k]);
    }
  }
  template <bool back>
  HWY_NOINLINE void columns_of() {
    for (int k = 0; k < half; ++k) {
      VF a[N], b[N];
      for (int i = 0; i < N; ++i) a[reversed(i, N)] = re[i * half + k], b[reversed(i, N)] = im[i * half + k];
      transform<N, back>(a, b);
      for (int i = 0; i < N; ++i) re[i * half + k] = a[i], im[i * half + k] = b[i];
    }
  }
};

// One tile of channels [c, c + n) of an image.
template <int N>
HWY_INLINE void forward_tile(TileGrid const& s, Place const& p, int c, int n, Spectrum<N>& out) {
  float const* const from = p.first + c;
  out.forward(s.extent_h, s.extent_w, [&](int i, int j) HWY_ATTR {
    bool const inside = unsigned(p.h + i) < unsigned(s.height) && unsigned(p.w + j) < unsigned(s.width);
    return inside ? load_channels(from + i * p.row + std::int64_t(j) * s.channels, n) : hn::Zero(d);
  });
}

template <int N>
void input_as(TileGrid const& s, std::int64_t first, int rows, float* panel) {
  Spectrum<N> spectrum;
  HWY_ALIGN float block[2 * gemm_max_rows * lanes];
  Place place[gemm_max_rows];
  for (int i = 0; i < rows; ++i) place[i] = place_of(s, first + i);
  std::int64_t const element = 2 * std::int64_t(s.channels) * rows;
  for (int c = 0; c < s.channels; c += lanes) {
    int const n = s.channels - c < lanes ? s.channels - c : lanes;
    float* const to = panel + std::int64_t(c) * 2 * rows;  // [n][part][rows]; first as [part][rows][n], then turned in place
    for (int i = 0; i < rows; ++i) {
      forward_tile(s, place[i], c, n, spectrum);
      for (int e = 0; e < spectrum.elements; ++e) {
        store_channels(spectrum.re[e], to + e * element + i * n, n);
        store_channels(spectrum.im[e], to + e * element + (rows + i) * n, n);
      }
    }
    for (int e = 0; e < spectrum.elements; ++e) {
      copy(to + e * element, block, 2L * rows * n);
      for (int part = 0; part < 2; ++part) {
        float const* row[gemm_max_rows];
        for (int i = 0; i < rows; ++i) row[i] = block + (part * rows + i) * n;
        transpose_rows(row, rows, n, to + e * element + part * rows, 2 * rows);
      }
    }
  }
}
void input(TileGrid const& s, std::int64_t first, int rows, float* panel) {
  s.size == 16 ? input_as<16>(s, first, rows, panel) : input_as<32>(s, first, rows, panel);
}

// The taps of one filter, for a vector of channels `step` floats apart from tap to tap, where they lie in a tile: dilated, or flipped.
template <int N>
HWY_INLINE void forward_filter(TileFilter const& f, float const* from, int n, Spectrum<N>& out) {
  int const rows = (f.r - 1) * f.dilation_h + 1, columns = (f.s - 1) * f.dilation_w + 1;
  out.forward(rows, columns, [&](int i, int j) HWY_ATTR {
    if (n <= 0 || i % f.dilation_h || j % f.dilation_w) return hn::Zero(d);
    int const tap = i / f.dilation_h * f.s + j / f.dilation_w;
    return load_channels(from + std::int64_t(f.data_gradient ? f.r * f.s - 1 - tap : tap) * f.c, n);
  });
}

// Columns are filters: a vector of channels is transformed filter by filter and written as rows; whole squares are turned in place.
template <int N>
void filter_forward(TileFilter const& f, std::int64_t first, std::int64_t count, std::int64_t out, std::int64_t out_count) {
  Spectrum<N> spectrum;
  HWY_ALIGN float block[lanes * lanes];
  std::int64_t const taps = std::int64_t(f.r) * f.s;
  for (std::int64_t k0 = out; k0 < out + out_count; k0 += lanes)
    for (std::int64_t l = first; l < first + count; l += lanes) {
      int const n = first + count - l < lanes ? int(first + count - l) : lanes;
      Packed const real = packed_at(f, 2 * l, k0), imaginary = packed_at(f, 2 * l, f.wide + k0);
      for (int i = 0; i < lanes; ++i) {
        forward_filter(f, static_cast<float const*>(f.data) + (k0 + i) * taps * f.c + l, k0 + i < f.k ? n : 0, spectrum);
        for (int e = 0; e < spectrum.elements; ++e) {
          float* const re = real.data + e * real.element;
          float* const im = imaginary.data + e * imaginary.element;
          VF const wr = spectrum.re[e], wi = spectrum.im[e];
          if (n == lanes) {
            hn::StoreU(wr, d, re + i * 2 * real.row);
            hn::StoreU(wi, d, re + (i * 2 + 1) * real.row);
          } else {
            HWY_ALIGN float r[lanes];
            HWY_ALIGN float m[lanes];
            hn::Store(wr, d, r), hn::Store(wi, d, m);
            for (int c = 0; c < n; ++c) {
              re[c * 2 * real.row + i] = r[c], re[(c * 2 + 1) * real.row + i] = m[c];
              im[c * 2 * imaginary.row + i] = -m[c], im[(c * 2 + 1) * imaginary.row + i] = r[c];
            }
          }
        }
      }
      if (n < lanes) continue;
      for (int e = 0; e < spectrum.elements; ++e)
        for (int part = 0; part < 2; ++part) {
          float* const from = real.data + e * real.element + part * real.row;
          float* const to = imaginary.data + e * imaginary.element + (1 - part) * imaginary.row;
          float const* row[lanes];
          for (int i = 0; i < lanes; ++i) {
            row[i] = block + i * lanes;
            hn::Store(hn::LoadU(d, from + i * 2 * real.row), d, block + i * lanes);
          }
          transpose_rows(row, lanes, lanes, from, 2 * real.row);
          for (int c = 0; c < lanes; ++c) {
            VF const v = hn::LoadU(d, from + c * 2 * real.row);
            hn::StoreU(part ? hn::Neg(v) : v, d, to + c * 2 * imaginary.row);
          }
        }
    }
}
// Columns are channels, as they lie; the filter is flipped.
template <int N>
void filter_backward(TileFilter const& f, std::int64_t first, std::int64_t count, std::int64_t out, std::int64_t out_count) {
  Spectrum<N> spectrum;
  for (std::int64_t l = first; l < first + count; ++l)
    for (std::int64_t c = out; c < out + out_count; c += lanes) {
      Packed const real = packed_at(f, 2 * l, c), imaginary = packed_at(f, 2 * l, f.wide + c);
      forward_filter(f, static_cast<float const*>(f.data) + l * f.r * f.s * f.c + c, c >= f.c ? 0 : f.c - c < lanes ? int(f.c - c) : lanes, spectrum);
      for (int e = 0; e < spectrum.elements; ++e) {
        VF const wr = spectrum.re[e], wi = spectrum.im[e];
        hn::StoreU(wr, d, real.data + e * real.element);
        hn::StoreU(wi, d, real.data + e * real.element + real.row);
        hn::StoreU(hn::Neg(wi), d, imaginary.data + e * imaginary.element);
        hn::StoreU(wr, d, imaginary.data + e * imaginary.element + imaginary.row);
      }
    }
}
void filter(TileFilter const& f, std::int64_t first, std::int64_t count, std::int64_t out, std::int64_t out_count) {
  if (f.data_gradient)
    f.size == 16 ? filter_backward<16>(f, first, count, out, out_count) : filter_backward<32>(f, first, count, out, out_count);
  else
    f.size == 16 ? filter_forward<16>(f, first, count, out, out_count) : filter_forward<32>(f, first, count, out, out_count);
}

template <int N>
void output_as(TileResult const& r, std::int64_t first, int count, float const* sums) {
  Spectrum<N> spectrum;
  VF pixels[N * N];
  std::int64_t const element = 2 * r.wide * count;
  for (int t = 0; t < count; ++t, sums += 2 * r.wide)
    for (int c = 0; c < r.channels; c += lanes) {
      for (int e = 0; e < spectrum.elements; ++e) {
        spectrum.re[e] = hn::LoadU(d, sums + e * element + c);
        spectrum.im[e] = hn::LoadU(d, sums + e * element + r.wide + c);
      }
      spectrum.inverse(r.step_h, pixels);
      store_tile(r, first + t, c, [&](int i, int j) HWY_ATTR { return pixels[i * N + j]; });
    }
}
void output(TileResult const& r, std::int64_t first, int count, float const* sums) {
  r.size == 16 ? output_as<16>(r, first, count, sums) : output_as<32>(r, first, count, sums);
}

template <int N>
void gather_x_as(TileOperands const& o, std::int64_t base, std::int64_t first, std::int64_t count) {
  Spectrum<N> spectrum;
  TileGrid const& s = o.tiles;
  std::int64_t const wide = (s.channels + 15) / 16 * 16;
  for_tiles(s, first, count, [&](Place const* places, std::int64_t t0, int tiles) HWY_ATTR {
    for (int c = 0; c < wide; c += lanes) {
      int const n = s.channels - c < lanes ? s.channels - c : lanes;
      Packed const real = packed_at(o, t0 - base, c, 2 * wide, 2 * o.count), imaginary = packed_at(o, t0 - base, wide + c, 2 * wide, 2 * o.count);
      for (int t = 0; t < tiles; ++t) {
        float* const re = real.data + t * real.row;
        float* const im = imaginary.data + t * imaginary.row;
        if (n > 0) forward_tile(s, places[t], c, n, spectrum);
        for (int e = 0; e < spectrum.elements; ++e) {
          VF const xr = n > 0 ? spectrum.re[e] : hn::Zero(d), xi = n > 0 ? spectrum.im[e] : hn::Zero(d);
          hn::StoreU(xr, d, re + e * real.element);
          hn::StoreU(xi, d, im + e * imaginary.element);
          hn::StoreU(xi, d, re + e * real.element + o.count * real.row);
          hn::StoreU(hn::Neg(xr), d, im + e * imaginary.element + o.count * imaginary.row);
        }
      }
    }
  });
}
void gather_x(TileOperands const& o, std::int64_t base, std::int64_t first, std::int64_t count) {
  o.tiles.size == 16 ? gather_x_as<16>(o, base, first, count) : gather_x_as<32>(o, base, first, count);
}

template <int N>
void gather_dy_as(TileOperands const& o, std::int64_t base, std::int64_t first, std::int64_t count, float* db) {
  Spectrum<N> spectrum;
  for_dy(o, base, first, count, 2, db, [&](Place const& place, int k, int n, float* to) HWY_ATTR {
    if (n > 0) forward_tile(o.tiles, place, k, n, spectrum);
    for (int e = 0; e < spectrum.elements; ++e) {
      hn::StoreU(n > 0 ? spectrum.re[e] : hn::Zero(d), d, to + e * o.domain_stride);
      hn::StoreU(n > 0 ? spectrum.im[e] : hn::Zero(d), d, to + e * o.domain_stride + o.count * 16);
    }
  });
}
void gather_dy(TileOperands const& o, std::int64_t base, std::int64_t first, std::int64_t count, float* db) {
  o.tiles.size == 16 ? gather_dy_as<16>(o, base, first, count, db) : gather_dy_as<32>(o, base, first, count, db);
}

template <int N>
void filter_gradient_as(TileTaps const& t, float const* sums, float* dw) {
  Spectrum<N> spectrum;
  VF pixels[N * N];
  for (int c = 0; c < t.c; c += lanes) {
    int const n = t.c - c < lanes ? t.c - c : lanes;
    for (int e = 0; e < spectrum.elements; ++e) {
      spectrum.re[e] = hn::LoadU(d, sums + e * t.domain_stride + c);
      spectrum.im[e] = hn::LoadU(d, sums + e * t.domain_stride + t.wide + c);
    }
    spectrum.inverse((t.r - 1) * t.dilation_h + 1, pixels);
    for (int r = 0; r < t.r; ++r)
      for (int s = 0; s < t.s; ++s)
        store_channels(pixels[r * t.dilation_h * N + s * t.dilation_w], dw + (std::int64_t(r) * t.s + s) * t.c + c, n);
  }
}
void filter_gradient(TileTaps const& t, float const* sums, float* dw) {
  t.size == 16 ? filter_gradient_as<16>(t, sums, dw) : filter_gradient_as<32>(t, sums, dw);
}

}  // namespace

TileKernels const fft_kernels = {filter, input, output, gather_x, gather_dy, filter_gradient};

}  // namespace falconet::FALCONET_ISA

#endif
