// Kernel half of depthwise_filter.cpp: filters of 3x3. The nine sums of one vector of channels stay in registers while a band of rows of dy streams
// past; a pixel of dy is loaded once, and inputs are operands of the multiply-adds.
#pragma once
#include "falconet/device/cpu/simd_load.h"
#include "falconet/ops/conv/cpu/depthwise.h"

namespace falconet::FALCONET_ISA {
namespace {

template <class T>
struct Band3 {
  T const *x, *dy;                                       // the image of x; the first row of dy
  int h, w, q, channels, rows;                           // rows of dy
  int top, left, stride_h, stride_w, dilation_h, dilation_w;   // of x that the first tap of the first pixel meets
  int inner, inner_end;                                  // pixels of a row all of whose taps lie inside
  float* sums;                                           // [3][3][channels]
};

using Vector = hn::Vec<hn::ScalableTag<float>>;

// Pixel of dy times taps of rows [r0, r1) and columns [s0, s1).
template <class T>
HWY_INLINE void add_taps3(Vector (&sum)[9], T const* x, long row, long tap, Vector dy, int r0, int r1, int s0, int s1) {
  hn::ScalableTag<float> const d;
#pragma GCC unroll 3
  for (int r = 0; r < 3; ++r)
    if (r >= r0 && r < r1)
#pragma GCC unroll 3
      for (int s = 0; s < 3; ++s)
        if (s >= s0 && s < s1) sum[3 * r + s] = hn::MulAdd(load_f32(d, x + r * row + s * tap), dy, sum[3 * r + s]);
}

// Asks for what the next vector of channels meets with the same pixel: dy, and the rows and columns of x that no pixel before it met.
template <int r0, int r1, class T>
HWY_INLINE void ask3(T const* x, long row, long tap, T const* dy, bool apart) {
  constexpr int ahead = HWY_LANES(float);
  __builtin_prefetch(dy + ahead);
  __builtin_prefetch(x + (r1 - 1) * row + tap + ahead);
  if (r0 == 1) __builtin_prefetch(x + row + tap + ahead);
  if (!apart) return;
  __builtin_prefetch(x + (r1 - 1) * row + 2 * tap + ahead);
  __builtin_prefetch(x + (r1 - 2) * row + tap + ahead);
  __builtin_prefetch(x + (r1 - 2) * row + 2 * tap + ahead);
}

// A row of dy that meets rows [r0, r1) of the filter. left, right: one pixel at that border lacks one tap and no other pixel lacks any; apart: a stride.
template <int r0, int r1, class T>
HWY_INLINE void add_row3(Vector (&sum)[9], T const* x, long pixel, long row, long tap, T const* dy, long dy_step, int pixels, bool left, bool right, bool apart) {
  hn::ScalableTag<float> const d;
  if (left) {
    ask3<r0, r1>(x, row, tap, dy, apart);
    add_taps3(sum, x, row, tap, load_f32(d, dy), r0, r1, 1, 3);
    x += pixel, dy += dy_step;
  }
  for (int i = int(left) + int(right); i < pixels; ++i, x += pixel, dy += dy_step) {
    ask3<r0, r1>(x, row, tap, dy, apart);
    add_taps3(sum, x, row, tap, load_f32(d, dy), r0, r1, 0, 3);
  }
  if (!right) return;
  ask3<r0, r1>(x, row, tap, dy, apart);
  add_taps3(sum, x, row, tap, load_f32(d, dy), r0, r1, 0, 2);
}

// First tap inside, and the one after the last, for a pixel whose first tap is at `at`.
struct Some {
  int begin, end;
};
inline Some some_of(int at, int dilation, int extent) {
  return {at >= 0 ? 0 : at + dilation >= 0 ? 1 : at + 2 * dilation >= 0 ? 2 : 3, at + 2 * dilation < extent ? 3 : at + dilation < extent ? 2 : at < extent ? 1 : 0};
}

template <class T>
void add_band3(Band3<T> const& a) {
  hn::ScalableTag<float> const d;
  constexpr int lanes = HWY_LANES(float);
  long const c_all = a.channels, row_step = a.dilation_h * long(a.w) * c_all, tap_step = a.dilation_w * c_all, pixel_step = a.stride_w * c_all;
  auto const columns = [&](int q) { return some_of(a.left + q * a.stride_w, a.dilation_w, a.w); };
  Some const first_pixel = columns(0), last_pixel = columns(a.q - 1);
  bool const left = a.inner == 1 && first_pixel.begin == 1 && first_pixel.end == 3, right = a.inner_end == a.q - 1 && last_pixel.begin == 0 && last_pixel.end == 2;
  bool const apart = a.stride_h > 1 || a.stride_w > 1;
  bool const regular = a.q > 1 && (left || a.inner == 0) && (right || a.inner_end == a.q);
  for (int c = 0; c < a.channels; c += lanes) {
    int done = 0;                                        // lanes of the last vector that the one before has
    if (c + lanes > a.channels) done = c + lanes - a.channels, c -= done;
    Vector sum[9];
#pragma GCC unroll 9
    for (int t = 0; t < 9; ++t) sum[t] = hn::LoadU(d, a.sums + t * c_all + c);
    T const* dy = a.dy + c;
    T const* x = a.x + (long(a.top) * a.w + a.left) * c_all + c;       // of a tap, inside or not
    for (int row = 0; row < a.rows; ++row, dy += a.q * c_all, x += long(a.stride_h) * a.w * c_all) {
      Some const r = some_of(a.top + row * a.stride_h, a.dilation_h, a.h);
      if (regular && r.begin == 0 && r.end == 3) add_row3<0, 3>(sum, x, pixel_step, row_step, tap_step, dy, c_all, a.q, left, right, apart);
      else if (regular && r.begin == 1 && r.end == 3) add_row3<1, 3>(sum, x, pixel_step, row_step, tap_step, dy, c_all, a.q, left, right, apart);
      else if (regular && r.begin == 0 && r.end == 2) add_row3<0, 2>(sum, x, pixel_step, row_step, tap_step, dy, c_all, a.q, left, right, apart);
      else
        for (int q = 0; q < a.q; ++q) {
          Some const s = columns(q);
          add_taps3(sum, x + q * pixel_step, row_step, tap_step, load_f32(d, dy + q * c_all), r.begin, r.end, s.begin, s.end);
        }
    }
    auto const fresh = hn::Not(hn::FirstN(d, std::size_t(done)));
#pragma GCC unroll 9
    for (int t = 0; t < 9; ++t) {
      float* const to = a.sums + t * c_all + c;
      if (done) hn::BlendedStore(sum[t], fresh, d, to);
      else hn::StoreU(sum[t], d, to);
    }
  }
}

}  // namespace
}  // namespace falconet::FALCONET_ISA
