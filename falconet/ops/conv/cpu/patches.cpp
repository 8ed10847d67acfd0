// Copies of patches. In nhwc the taps of one filter row lie next to each other in the image (dilation 1, no groups), so a patch is
// a few long runs; a run that leaves the image is first completed with zeros in a small buffer.
#include "falconet/ops/conv/cpu/patches.h"

#ifdef FALCONET_ISA
#include "falconet/device/cpu/simd.h"
#include "falconet/ops/gemm/cpu/packed.h"
#include "falconet/ops/gemm/cpu/transpose_simd.h"

namespace falconet::FALCONET_ISA {
namespace {

using D = hn::ScalableTag<float>;
constexpr D d{};
constexpr int lanes = int(hn::MaxLanes(D()));
constexpr int chunk = 256;                     // elements of a run that are handled at a time
alignas(64) constexpr float zeros[chunk] = {};

HWY_INLINE hn::Vec<D> load_vector(float const* p) { return hn::LoadU(d, p); }
HWY_INLINE hn::Vec<D> load_vector(std::uint16_t const* p) {
  hn::RebindToUnsigned<D> const d32;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(hn::Rebind<std::uint16_t, D>(), p))));
}
template <class T>
HWY_INLINE void copy_run(T const* from, std::int64_t count, float* to) {
  std::int64_t e = 0;
  for (; e + lanes <= count; e += lanes) hn::StoreU(load_vector(from + e), d, to + e);
  for (; e < count; ++e) to[e] = widen_element(from + e);
}
HWY_INLINE void clear(float* to, std::int64_t count) {
  for (std::int64_t e = 0; e < count; ++e) to[e] = 0;
}

// A pixel of the grid: where it lies and the image position of its first tap.
struct Pixel {
  std::int64_t image;   // offset of the image in elements
  int i, j;
};
HWY_INLINE Pixel pixel_at(PatchSource const& s, std::int64_t index) {
  std::int64_t const n = index / s.grid();
  int const in_grid = int(index - n * s.grid()), i = in_grid / s.columns;
  return {n * s.image_stride, i, in_grid - i * s.columns};
}
HWY_INLINE void advance(PatchSource const& s, Pixel& p) {
  if (++p.j < s.columns) return;
  p.j = 0;
  if (++p.i < s.rows) return;
  p.i = 0;
  p.image += s.image_stride;
}

// The columns of a patch as runs: (tap row t, element e of a run) where the run is one tap, or all taps of a row if they touch.
struct Runs {
  bool merged;
  int length;
  explicit Runs(PatchSource const& s)
      : merged(s.tap_step_w == 1 && s.pixel_stride == s.channels), length(merged ? s.tap_columns * s.channels : s.channels) {}
};

// Where elements [e, e + count) of run q of a pixel lie: a pointer, or null if they are all zero; a run that is partly outside
// is completed in `buffer` (count elements).
template <class T>
HWY_INLINE T const* run_of(PatchSource const& s, Runs const& runs, Pixel const& p, int q, int e, int count, T* buffer) {
  int const t = runs.merged ? q : q / s.tap_columns, u = runs.merged ? 0 : q - t * s.tap_columns;
  int const h = p.i * s.step_h + s.first_h + t * s.tap_step_h, w = p.j * s.step_w + s.first_w + u * s.tap_step_w;
  if (h < 0 || h >= s.height) return nullptr;
  T const* const base = static_cast<T const*>(s.data) + p.image + (std::int64_t(h) * s.width + w) * s.pixel_stride + e;
  if (!runs.merged) return w < 0 || w >= s.width ? nullptr : base;
  int const inside_from = -w * s.channels - e, inside_to = (s.width - w) * s.channels - e;   // elements of `base` in the image
  if (inside_from <= 0 && inside_to >= count) return base;
  if (inside_from >= count || inside_to <= 0) return nullptr;
  for (int x = 0; x < count; ++x) buffer[x] = x >= inside_from && x < inside_to ? base[x] : T(0);
  return buffer;
}

template <class T>
void pack_pixels_as(PatchSource const& s, std::int64_t pixel, int rows, std::int64_t l, std::int64_t count, float* packed) {
  Runs const runs(s);
  Pixel at[gemm_max_rows];
  at[0] = pixel_at(s, pixel);
  for (int i = 1; i < rows; ++i) {
    at[i] = at[i - 1];
    advance(s, at[i]);
  }
  T buffer[gemm_max_rows][chunk];
  T const* row[gemm_max_rows];
  int q = int(l / runs.length), e = int(l - std::int64_t(q) * runs.length);
  for (std::int64_t done = 0; done < count;) {
    int n = runs.length - e;
    if (n > chunk) n = chunk;
    if (n > count - done) n = int(count - done);
    for (int i = 0; i < rows; ++i) {
      T const* const r = run_of<T>(s, runs, at[i], q, e, n, buffer[i]);
      row[i] = r ? r : reinterpret_cast<T const*>(zeros);
    }
    transpose_rows(row, rows, n, packed + done * rows, rows);
    done += n;
    e += n;
    if (e == runs.length) e = 0, ++q;
  }
}
void pack_pixels(PatchSource const& s, std::int64_t pixel, int rows, std::int64_t l, std::int64_t count, float* packed) {
  s.is_bf16 ? pack_pixels_as<std::uint16_t>(s, pixel, rows, l, count, packed) : pack_pixels_as<float>(s, pixel, rows, l, count, packed);
}

template <class T>
void copy_pixels_as(PatchSource const& s, std::int64_t pixel, std::int64_t rows, std::int64_t l, std::int64_t count, float* out, std::int64_t stride) {
  Runs const runs(s);
  Pixel at = pixel_at(s, pixel);
  int const q0 = int(l / runs.length), e0 = int(l - std::int64_t(q0) * runs.length);
  T buffer[chunk];
  for (std::int64_t i = 0; i < rows; ++i, advance(s, at)) {
    float* const to = out + i * stride;
    int q = q0, e = e0;
    for (std::int64_t done = 0; done < count;) {
      int n = runs.length - e;
      if (n > chunk) n = chunk;
      if (n > count - done) n = int(count - done);
      T const* const from = run_of<T>(s, runs, at, q, e, n, buffer);
      from ? copy_run(from, n, to + done) : clear(to + done, n);
      done += n;
      e += n;
      if (e == runs.length) e = 0, ++q;
    }
  }
}
void copy_pixels(PatchSource const& s, std::int64_t pixel, std::int64_t rows, std::int64_t l, std::int64_t count, float* out, std::int64_t stride) {
  s.is_bf16 ? copy_pixels_as<std::uint16_t>(s, pixel, rows, l, count, out, stride) : copy_pixels_as<float>(s, pixel, rows, l, count, out, stride);
}

template <class T>
void copy_taps_as(PatchSource const& s, std::int64_t image, std::int64_t pixel, std::int64_t pixels, std::int64_t l, std::int64_t count, float* out,
                  std::int64_t stride) {
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
        if (s.step_w == 1) copy_run(from + w + a, b - a, to + a);
        else
          for (int x = a; x < b; ++x) to[x] = widen_element(from + w + x * s.step_w);
        clear(to + b, n - b);
      }
      to += n;
      left -= n;
    }
  }
}
void copy_taps(PatchSource const& s, std::int64_t image, std::int64_t pixel, std::int64_t pixels, std::int64_t l, std::int64_t count, float* out,
               std::int64_t stride) {
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
