// Copies of patches. In nhwc the taps of one filter row lie next to each other in the image (dilation 1, no groups), so a patch is
// a few long runs; a run that leaves the image is first completed with zeros in a small buffer.
#include "falconet/ops/conv/cpu/patches.h"

#ifdef FALCONET_ISA
#include "falconet/device/cpu/simd.h"
#include "falconet/ops/gemm/cpu/packed.h"
#include "falconet/ops/gemm/cpu/packing_simd.h"

namespace falconet::FALCONET_ISA {
namespace {

constexpr int chunk = 256;  // elements of a run that are handled at a time
alignas(64) constexpr float zeros[chunk] = {};

template <class T>
HWY_INLINE void copy_run(T const* from, std::int64_t count, float* to) {
  std::int64_t e = 0;
  for (; e + lanes <= count; e += lanes) hn::StoreU(load_vector(from + e), d, to + e);
  for (; e < count; ++e) to[e] = widen_element(from + e);
}
HWY_INLINE void clear(float* to, std::int64_t count) {
  for (std::int64_t e = 0; e < count; ++e) to[e] = 0;
}

// Where a pixel of the grid lies among the images, and the image position (h, w) of its first tap.
struct Pixel {
  int i, j, h, w;
  std::int64_t image, first;  // offsets in elements: of the image, of the first tap (which may lie outside)
};
HWY_INLINE void place(PatchSource const& s, Pixel& p) {
  p.h = p.i * s.step_h + s.first_h;
  p.w = p.j * s.step_w + s.first_w;
  p.first = p.image + (std::int64_t(p.h) * s.width + p.w) * s.pixel_stride;
}
HWY_INLINE Pixel pixel_at(PatchSource const& s, std::int64_t index) {
  std::int64_t const n = index / s.grid();
  int const in_grid = int(index - n * s.grid());
  Pixel p;
  p.i = in_grid / s.columns;
  p.j = in_grid - p.i * s.columns;
  p.image = n * s.image_stride;
  place(s, p);
  return p;
}
HWY_INLINE void advance(PatchSource const& s, Pixel& p) {
  if (++p.j < s.columns) {
    p.w += s.step_w;
    p.first += s.step_w * s.pixel_stride;
    return;
  }
  p.j = 0;
  if (++p.i == s.rows) p.i = 0, p.image += s.image_stride;
  place(s, p);
}

// The columns of a patch as runs of contiguous elements: one tap's channels, or a whole row of taps where they touch.
struct Runs {
  bool merged;
  int length;
  explicit Runs(PatchSource const& s)
      : merged(s.tap_step_w == 1 && s.pixel_stride == s.channels), length(merged ? s.tap_columns * s.channels : s.channels) {}
};

// A piece of a run: elements [e, e + count) of run q, at most `chunk` of them, and where they lie relative to a pixel's first tap.
struct Piece {
  PatchSource const& s;
  Runs const runs;
  int q, e, count, h, w;
  std::int64_t offset, left;
  Piece(PatchSource const& source, std::int64_t l, std::int64_t total)
      : s(source), runs(source), q(int(l / runs.length)), e(int(l - std::int64_t(q) * runs.length)), left(total) {
    find();
  }
  void next() {
    left -= count;
    e += count;
    if (e == runs.length) e = 0, ++q;
    find();
  }
  void find() {
    count = runs.length - e;
    if (count > chunk) count = chunk;
    if (count > left) count = int(left);
    int const t = runs.merged ? q : q / s.tap_columns, u = runs.merged ? 0 : q - t * s.tap_columns;
    h = t * s.tap_step_h;
    w = u * s.tap_step_w;
    offset = (std::int64_t(h) * s.width + w) * s.pixel_stride + e;
  }
};

// The elements of a piece for one pixel: a pointer to them, or null if all are outside the image; where some are, they are
// completed with zeros in `buffer`.
template <class T>
HWY_INLINE T const* elements_of(Piece const& piece, Pixel const& p, T* buffer) {
  PatchSource const& s = piece.s;
  T const* const from = static_cast<T const*>(s.data) + p.first + piece.offset;
  if (unsigned(p.h + piece.h) >= unsigned(s.height)) return nullptr;
  int const w = p.w + piece.w;
  if (!piece.runs.merged) return unsigned(w) >= unsigned(s.width) ? nullptr : from;
  if (w >= 0 && w + s.tap_columns <= s.width) return from;
  int const inside_from = -w * s.channels - piece.e, inside_to = (s.width - w) * s.channels - piece.e;
  if (inside_from <= 0 && inside_to >= piece.count) return from;
  if (inside_from >= piece.count || inside_to <= 0) return nullptr;
  int const begin = inside_from > 0 ? inside_from : 0, end = inside_to < piece.count ? inside_to : piece.count;
  for (int x = 0; x < begin; ++x) buffer[x] = T(0);
  for (int x = begin; x < end; ++x) buffer[x] = from[x];
  for (int x = end; x < piece.count; ++x) buffer[x] = T(0);
  return buffer;
}

template <class T>
void pack_pixels_as(PatchSource const& s, std::int64_t pixel, int rows, std::int64_t l, std::int64_t count, float* packed) {
  Pixel at[gemm_max_rows];
  at[0] = pixel_at(s, pixel);
  for (int i = 1; i < rows; ++i) {
    at[i] = at[i - 1];
    advance(s, at[i]);
  }
  T buffer[gemm_max_rows][chunk];
  T const* row[gemm_max_rows];
  for (Piece piece(s, l, count); piece.left > 0; piece.next()) {
    for (int i = 0; i < rows; ++i) {
      T const* const r = elements_of<T>(piece, at[i], buffer[i]);
      row[i] = r ? r : reinterpret_cast<T const*>(zeros);
    }
    transpose_rows(row, rows, piece.count, packed, rows);
    packed += std::int64_t(piece.count) * rows;
  }
}
void pack_pixels(PatchSource const& s, std::int64_t pixel, int rows, std::int64_t l, std::int64_t count, float* packed) {
  s.is_bf16 ? pack_pixels_as<std::uint16_t>(s, pixel, rows, l, count, packed) : pack_pixels_as<float>(s, pixel, rows, l, count, packed);
}

template <class T>
void copy_pixels_as(PatchSource const& s, std::int64_t pixel, std::int64_t rows, std::int64_t l, std::int64_t count, float* out,
                    std::int64_t stride) {
  T buffer[chunk];
  Pixel at = pixel_at(s, pixel);
  Piece const first(s, l, count);
  for (std::int64_t i = 0; i < rows; ++i, advance(s, at)) {
    float* to = out + i * stride;
    for (Piece piece = first; piece.left > 0; to += piece.count, piece.next()) {
      T const* const from = elements_of<T>(piece, at, buffer);
      from ? copy_run(from, piece.count, to) : clear(to, piece.count);
    }
  }
}
void copy_pixels(PatchSource const& s, std::int64_t pixel, std::int64_t rows, std::int64_t l, std::int64_t count, float* out,
                 std::int64_t stride) {
  s.is_bf16 ? copy_pixels_as<std::uint16_t>(s, pixel, rows, l, count, out, stride)
            : copy_pixels_as<float>(s, pixel, rows, l, count, out, stride);
}

template <class T>
void copy_taps_as(PatchSource const& s, std::int64_t image, std::int64_t pixel, std::int64_t pixels, std::int64_t l, std::int64_t count,
                  float* out, std::int64_t stride) {
  int const taps = s.tap_rows * s.tap_columns;
  int const i0 = int(pixel / s.columns), j0 = int(pixel - std::int64_t(i0) * s.columns);
  for (std::int64_t k = l; k < l + count; ++k, out += stride) {
    int const c = int(k / taps), tap = int(k - std::int64_t(c) * taps), t = tap / s.tap_columns, u = tap - t * s.tap_columns;
    T const* const plane = static_cast<T const*>(s.data) + image * s.image_stride + std::int64_t(c) * s.height * s.width;
    float* to = out;
    int i = i0, j = j0;
    for (std::int64_t left = pixels; left > 0; ++i, j = 0) {
      int const n = left < s.columns - j ? int(left) : s.columns - j;
      int const h = i * s.step_h + s.first_h + t * s.tap_step_h, w = j * s.step_w + s.first_w + u * s.tap_step_w;
      if (h < 0 || h >= s.height) {
        clear(to, n);
      } else {
        T const* const from = plane + std::int64_t(h) * s.width;
        // Pixels [a, b) of the run are inside the image.
        int a = w >= 0 ? 0 : (-w + s.step_w - 1) / s.step_w, b = w >= s.width ? 0 : (s.width - 1 - w) / s.step_w + 1;
        if (a > n) a = n;
        if (b > n) b = n;
        if (b < a) b = a;
        clear(to, a);
        if (s.step_w == 1)
          copy_run(from + w + a, b - a, to + a);
        else
          for (int x = a; x < b; ++x) to[x] = widen_element(from + w + x * s.step_w);
        clear(to + b, n - b);
      }
      to += n;
      left -= n;
    }
  }
}
void copy_taps(PatchSource const& s, std::int64_t image, std::int64_t pixel, std::int64_t pixels, std::int64_t l, std::int64_t count,
               float* out, std::int64_t stride) {
  s.is_bf16 ? copy_taps_as<std::uint16_t>(s, image, pixel, pixels, l, count, out, stride)
            : copy_taps_as<float>(s, image, pixel, pixels, l, count, out, stride);
}

}  // namespace

PatchKernels const patch_kernels = {pack_pixels, copy_pixels, copy_taps};

}  // namespace falconet::FALCONET_ISA

#else

namespace falconet {
PatchKernels const& patch_kernels_of(Isa isa) { return FALCONET_KERNELS(isa, patch_kernels); }
}  // namespace falconet

#endif
