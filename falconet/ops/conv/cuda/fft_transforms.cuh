// The Fourier transforms of fft.cu: N x N real tiles, N = 16 or 32, to and from the N (N/2 + 1) complex elements that are not conjugates of others.
// A block takes a tile of some channels. A thread transforms two rows as one complex row in registers (radix 2, twiddles known when compiled), the rows
// go through shared memory, and a thread transforms a column. Neighbouring threads take neighbouring channels. Cost for a tile and channel: (N/2 + N/2 + 1)
// complex transforms of N points, 5 N log2 N operations each.
#pragma once
#include "falconet/ops/conv/cuda/tile_maps.cuh"

namespace falconet::fft {

using namespace tile_maps;

template <int N>
constexpr int channels_each = N == 32 ? 8 : 16;            // of a block
template <int N>
constexpr int threads_of = (channels_each<N> * (N / 2 + 1) + 31) / 32 * 32;
template <int N>
constexpr int pitch = channels_each<N> * (N / 2 + 1) + 4;  // complex numbers of a row in shared memory: rows 2i and 2i + 2 on other banks

constexpr int log2_of(int n) { return n == 32 ? 5 : 4; }
constexpr int reversed(int i, int bits) { return bits == 0 ? 0 : (i & 1) << (bits - 1) | reversed(i >> 1, bits - 1); }
constexpr float cosine(int k) {        // of 2 pi k / 32
  constexpr float quarter[] = {1.0f,
                               0.980785280403230449f,
                               0.923879532511286756f,
                               0.831469612302545237f,
                               0.707106781186547524f,
                               0.555570233019602225f,
                               0.382683432365089772f,
                               0.195090322016128268f,
                               0.0f};
  k &= 31;
  if (k > 16) k = 32 - k;
  return k <= 8 ? quarter[k] : -quarter[16 - k];
}

// In place, not scaled; element i of the transform ends at reversed(i).
template <int N, bool inverse>
FALCONET_DEVICE void transform(float2 (&z)[N]) {
#pragma unroll
  for (int stage = 0; stage < log2_of(N); ++stage) {
    int const length = N >> stage, half = length / 2;
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      int const j = i % half, at = i / half * length + j, k = j * (32 / length);
      float const c = cosine(k), s = (inverse ? 1 : -1) * cosine(k - 8);
      float2 const a = z[at], b = z[at + half], d = make_float2(a.x - b.x, a.y - b.y);
      z[at] = make_float2(a.x + b.x, a.y + b.y);
      z[at + half] = make_float2(d.x * c - d.y * s, d.x * s + d.y * c);
    }
  }
}

// What is read: tiles of a map, of which the first `size` rows and columns count; or filters, as they lie or turned by 180 degrees.
template <bool plain>
struct TileReader {
  Source s;
  Tiles tiles;
  int first, size;
  FALCONET_DEVICE int channels() const { return s.map.channels; }
  struct At {
    Place p;
    Vectors v;
  };
  FALCONET_DEVICE At at(int unit, int c) const {
    Place p = place_in(tiles, first + unit);
    p.row -= tiles.pad_top, p.column -= tiles.pad_left;
    return {p, plain || c >= s.map.channels ? Vectors{} : vectors_of(s, c)};
  }
  FALCONET_DEVICE float read(At const& a, int i, int j, int c) const {
    if (i >= size || j >= size) return 0;
    int const row = a.p.row + i, column = a.p.column + j;
    if constexpr (plain) {
      bool const in = unsigned(row) < unsigned(s.map.height) && unsigned(column) < unsigned(s.map.width);
      return in ? __ldg(s.data + ((std::int64_t(a.p.n) * s.map.height + row) * s.map.width + column) * s.map.channels + c) : 0;
    } else {
      return read_place(s, a.p.n, row, column, c, a.v.a, a.v.b, a.v.shift);
    }
  }
};
struct FilterReader {
  float const* w;
  int r, s, c;
  FastDivide by_dilation_h, by_dilation_w;
  bool turned;
  FALCONET_DEVICE int channels() const { return c; }
  struct At {
    float const* from;
  };
  FALCONET_DEVICE At at(int unit, int) const { return {w + std::int64_t(unit) * r * s * c}; }
  FALCONET_DEVICE float read(At const& a, int i, int j, int channel) const {
    int between_rows, between_columns;
    int const row = by_dilation_h(i, between_rows), column = by_dilation_w(j, between_columns);
    if (between_rows || between_columns || row >= r || column >= s) return 0;
    return __ldg(a.from + ((turned ? r - 1 - row : row) * s + (turned ? s - 1 - column : column)) * c + channel);
  }
};

// How an element (re, im) of unit u (a tile or a filter) and channel c is laid down for the products, rows of `row` floats:
//   tile          [u][2c]                    re, im
//   filter        [2u][2c], [2u+1][2c]       re, im; -im, re       results (k, im) take x.im w.re - x.re w.im
//   turned        the same rows              re, -im; im, re       the sum runs along rows
//   other_factor  the same rows              re, im; im, -re       of a filter gradient: x
//   planes        [2u][c], [2u+1][c]         re; im                of a filter gradient: dy
enum class Laid { tile, filter, turned, other_factor, planes };

template <int N, Laid laid, class Reader>
__global__ void __launch_bounds__(threads_of<N>) forward(Reader const reader, int groups, int row, std::int64_t element, float* to) {
  constexpr int each = channels_each<N>, half = N / 2, bits = log2_of(N);
  extern __shared__ float2 memory[];                       // [N][pitch]
  int const t = threadIdx.x, unit = blockIdx.x / groups, channel = t % each, c = (blockIdx.x - unit * groups) * each + channel, line = t / each;
  if (line < half) {                                       // rows 2 line and 2 line + 1
    float2 z[N];
    auto const at = reader.at(unit, c);
#pragma unroll
    for (int j = 0; j < N; ++j)
      z[j] = c < reader.channels() ? make_float2(reader.read(at, 2 * line, j, c), reader.read(at, 2 * line + 1, j, c)) : make_float2(0, 0);
    transform<N, false>(z);
    float2 *const upper = memory + 2 * line * pitch<N> + channel, *const lower = upper + pitch<N>;
#pragma unroll
    for (int k = 0; k <= half; ++k) {
      float2 const a = z[reversed(k, bits)], b = z[reversed((N - k) % N, bits)];
      upper[k * each] = make_float2(0.5f * (a.x + b.x), 0.5f * (a.y - b.y));
      lower[k * each] = make_float2(0.5f * (a.y + b.y), 0.5f * (b.x - a.x));
    }
  }
  __syncthreads();
  constexpr bool planes = laid == Laid::planes;
  if (line > half || (planes ? c : 2 * c) >= row) return;
  float2 z[N];
#pragma unroll
  for (int i = 0; i < N; ++i) z[i] = memory[i * pitch<N> + line * each + channel];
  transform<N, false>(z);
  float* const begin = to + line * element + (laid == Laid::tile ? unit : 2 * unit) * std::int64_t(row) + (planes ? c : 2 * c);
#pragma unroll
  for (int u = 0; u < N; ++u) {
    float2 const v = z[reversed(u, bits)];
    float* const at = begin + u * (half + 1) * element;
    if constexpr (planes) {
      at[0] = v.x, at[row] = v.y;
      continue;
    }
    *reinterpret_cast<float2*>(at) = laid == Laid::turned ? make_float2(v.x, -v.y) : v;
    if constexpr (laid != Laid::tile)
      *reinterpret_cast<float2*>(at + row) = laid == Laid::filter   ? make_float2(-v.y, v.x)
                                             : laid == Laid::turned ? make_float2(v.y, v.x)
                                                                    : make_float2(v.y, -v.x);
  }
}

// Where results go: the first step x step places of a tile, or the taps of a filter.
struct TileWriter {
  Result r;
  Tiles tiles;
  int first;
  FALCONET_DEVICE int channels() const { return r.channels; }
  FALCONET_DEVICE void write(int unit, int i, float const (&v)[2][32], int n, int k) const {   // rows i and i + 1, n columns
    Place const p = place_in(tiles, first + unit);
    float const scale = r.affine ? r.affine[k] : 1, shift = r.affine ? r.affine[r.channels + k] : 0, bias = r.bias ? r.bias[k] : 0;
    if (r.pool != PoolSlot::none) {      // tiles of even sides: both rows, and neighbouring columns, are a window's
      if (i >= tiles.step || (p.row + i) / 2 >= r.pooled_height) return;
#pragma unroll
      for (int j = 0; j < 32; j += 2)
        if (j < n && j < tiles.step && (p.column + j) / 2 < r.pooled_width)
          store_window(r, p.n, (p.row + i) / 2, (p.column + j) / 2, k, scale, shift, bias, {v[0][j], v[0][j + 1], v[1][j], v[1][j + 1]});
      return;
    }
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      if (i + b >= tiles.step || p.row + i + b >= r.height) continue;
      std::int64_t const at = ((std::int64_t(p.n) * r.height + p.row + i + b) * r.width + p.column) * r.channels + k;
#pragma unroll
      for (int j = 0; j < 32; ++j)
        if (j < n && j < tiles.step && p.column + j < r.width) store_place(r, at + std::int64_t(j) * r.channels, scale, shift, bias, v[b][j]);
    }
  }
};
struct FilterWriter {
  float* dw;
  int r, s, c;
  FastDivide by_dilation_h, by_dilation_w;
  FALCONET_DEVICE int channels() const { return c; }
  FALCONET_DEVICE void write(int unit, int i, float const (&v)[2][32], int n, int channel) const {
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      int between;
      int const row = by_dilation_h(i + b, between);
      if (between || row >= r) continue;
#pragma unroll
      for (int j = 0; j < 32; ++j) {
        if (j >= n) continue;
        int const column = by_dilation_w(j, between);
        if (!between && column < s) dw[((std::int64_t(unit) * r + row) * s + column) * c + channel] = v[b][j];
      }
    }
  }
};

// sums: [part][element][unit][2c], rows of `row` floats; the parts' are added in order.
template <int N, class Writer>
__global__ void __launch_bounds__(threads_of<N>)
    backward(Writer const writer, int groups, int row, std::int64_t element, int parts, float const* sums) {
  constexpr int each = channels_each<N>, half = N / 2, bits = log2_of(N);
  extern __shared__ float2 memory[];
  int const t = threadIdx.x, unit = blockIdx.x / groups, channel = t % each, c = (blockIdx.x - unit * groups) * each + channel, line = t / each;
  bool const exists = c < writer.channels();
  if (line <= half && exists) {
    float2 z[N];
    float const* from = sums + line * element + std::int64_t(unit) * row + 2 * c;
#pragma unroll
    for (int u = 0; u < N; ++u) z[u] = *reinterpret_cast<float2 const*>(from + u * (half + 1) * element);
    for (int part = 1; part < parts; ++part) {
      from += N * (half + 1) * element;
#pragma unroll
      for (int u = 0; u < N; ++u) {
        float2 const v = *reinterpret_cast<float2 const*>(from + u * (half + 1) * element);
        z[u].x += v.x, z[u].y += v.y;
      }
    }
    transform<N, true>(z);
#pragma unroll
    for (int i = 0; i < N; ++i) memory[i * pitch<N> + line * each + channel] = z[reversed(i, bits)];
  }
  __syncthreads();
  if (line >= half || !exists) return;
  float2 z[N];
  float2 const *const upper = memory + 2 * line * pitch<N> + channel, *const lower = upper + pitch<N>;
#pragma unroll
  for (int k = 0; k <= half; ++k) {
    float2 const a = upper[k * each], b = lower[k * each];
    z[k] = make_float2(a.x - b.y, a.y + b.x);
    if (k > 0 && k < half) z[N - k] = make_float2(a.x + b.y, b.x - a.y);
  }
  transform<N, true>(z);
  float v[2][32] = {};
#pragma unroll
  for (int j = 0; j < N; ++j) v[0][j] = z[reversed(j, bits)].x * (1.0f / (N * N)), v[1][j] = z[reversed(j, bits)].y * (1.0f / (N * N));
  writer.write(unit, 2 * line, v, N, c);
}

}  // namespace falconet::fft
