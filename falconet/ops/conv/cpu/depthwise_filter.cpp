// Depthwise convolution, filter gradient (the algorithm "depthwise" of depthwise.cpp):
//
//   dw(c,r,s) = sum_{n,p,q} dy(n,p,q,c) x(n, p*stride - pad + r*dilation, q*stride - pad + s*dilation, c)
//
// Of a filter of 3x3, the nine sums of a vector of channels stay in registers while a band of rows, which L2 holds, streams past (depthwise_filter_tile.h);
// what the next vector of channels meets, the next cache line of each pixel, is asked for meanwhile. Of other filters a register tile is one filter row's taps, twice (even and odd pixels,
// whose chains of additions overlap), over a row of dy, and pixels at the border add tap by tap. Rows of all images are dealt to the parts, a
// function of the problem alone, whose sums are added in order.
//   Cost: 2 n c p q r s operations at 1.1 loads each for 3x3, else 1.3; x and dy are read once from memory, r times from L1 or L2.
#include "falconet/ops/conv/cpu/depthwise.h"

#ifdef FALCONET_ISA

#include "falconet/device/cpu/simd.h"
#include "falconet/device/cpu/simd_load.h"
#include "falconet/ops/conv/cpu/depthwise_filter_tile.h"
#include "falconet/ops/conv/cpu/direct_rows.h"
#include "falconet/ops/conv/cpu/direct_tile.h"

namespace falconet::FALCONET_ISA {
namespace {

template <class T>
struct Taps {
  T const *x, *dy;                                       // the first pixel's first tap, and the first pixel
  long pixel_step, tap_step;                             // of x, floats
  int pixels, channels;
  float* sums;                                           // [tap][channels]
};

template <class T, class D, int taps>
void add_taps(Taps<T> const& a) {
  D const d;
  constexpr int lanes = int(hn::MaxLanes(D()));
  for (int c = 0; c < a.channels; c += lanes) {
    int done = 0;                                        // lanes of the last vector that the one before has
    if (c + lanes > a.channels) done = c + lanes - a.channels, c -= done;
    hn::Vec<D> even[taps], odd[taps];
#pragma GCC unroll 8
    for (int t = 0; t < taps; ++t) even[t] = hn::LoadU(d, a.sums + long(t) * a.channels + c), odd[t] = hn::Zero(d);
    T const *x = a.x + c, *dy = a.dy + c;
    int pixel = 0;
    for (; pixel + 2 <= a.pixels; pixel += 2, dy += 2 * long(a.channels), x += 2 * a.pixel_step) {
      auto const first = load_f32(d, dy), second = load_f32(d, dy + a.channels);
#pragma GCC unroll 8
      for (int t = 0; t < taps; ++t) even[t] = hn::MulAdd(load_f32(d, x + t * a.tap_step), first, even[t]);
#pragma GCC unroll 8
      for (int t = 0; t < taps; ++t) odd[t] = hn::MulAdd(load_f32(d, x + a.pixel_step + t * a.tap_step), second, odd[t]);
    }
    if (pixel < a.pixels) {
      auto const last = load_f32(d, dy);
#pragma GCC unroll 8
      for (int t = 0; t < taps; ++t) even[t] = hn::MulAdd(load_f32(d, x + t * a.tap_step), last, even[t]);
    }
    auto const fresh = hn::Not(hn::FirstN(d, std::size_t(done)));
#pragma GCC unroll 8
    for (int t = 0; t < taps; ++t) {
      float* const to = a.sums + long(t) * a.channels + c;
      auto const sum = hn::Add(even[t], odd[t]);
      if (done) hn::BlendedStore(sum, fresh, d, to);
      else hn::StoreU(sum, d, to);
    }
  }
}

template <class T>
using TapsKernel = void (*)(Taps<T> const&);
template <class T>
TapsKernel<T> taps_for(int lanes, int taps) {
  if (lanes != kLanes) return add_taps<T, hn::CappedTag<float, 4>, 1>;
  return taps == 5 ? add_taps<T, Wide, 5> : taps == 3 ? add_taps<T, Wide, 3> : add_taps<T, Wide, 1>;
}

template <class T>
void task_in(DepthwiseFilter const& g, int part) {
  auto const *const x = static_cast<T const*>(g.x), *const dy = static_cast<T const*>(g.dy);
  float* const sums = g.partial + long(part) * g.r * g.s * g.c;
  __builtin_memset(sums, 0, sizeof(float) * std::size_t(g.r) * std::size_t(g.s) * std::size_t(g.c));
  long const rows = long(g.images) * g.p, c = g.c;
  // Columns of dy all of whose taps lie inside.
  int const last = g.w - 1 + g.pad_left - (g.s - 1) * g.dilation_w;
  int const inner = (g.pad_left + g.stride_w - 1) / g.stride_w;
  int inner_end = last < 0 ? 0 : last / g.stride_w + 1;
  if (inner_end > g.q) inner_end = g.q;
  long const first_row = rows * part / g.parts, end_row = rows * (part + 1) / g.parts;
  if constexpr (kLanes >= 8)
    if (g.r == 3 && g.s == 3 && g.lanes == kLanes) {
      long const x_row = long(g.w) * c, dy_row = long(g.q) * c;
      for (long row = first_row; row < end_row;) {
        long const image = row / g.p;
        int const p = int(row - image * g.p);
        long count = end_row - row < g.p - p ? end_row - row : g.p - p;
        count = count < g.band ? count : g.band;
        Band3<T> band{x + image * g.h * x_row, dy + row * dy_row, g.h, g.w, g.q, g.c, int(count), p * g.stride_h - g.pad_top, -g.pad_left, g.stride_h, g.stride_w,
                      g.dilation_h, g.dilation_w, inner < g.q ? inner : g.q, inner_end > inner ? inner_end : inner < g.q ? inner : g.q, sums};
        row += count;
        add_band3(band);
      }
      return;
    }
  for (long row = first_row; row < end_row; ++row) {
    long const image = row / g.p;
    int const top = int(row - image * g.p) * g.stride_h - g.pad_top;
    for (int q = 0; q < g.q;) {
      bool const whole = q >= inner && q < inner_end;
      int const pixels = !whole ? 1 : q + 128 < inner_end ? 128 : inner_end - q;
      for (int r = 0; r < g.r; ++r) {
        int const h = top + r * g.dilation_h;
        if (h < 0 || h >= g.h) continue;
        for (int s = 0; s < g.s;) {
          int const left = q * g.stride_w - g.pad_left + s * g.dilation_w, left_over = g.s - s;
          int const taps = !whole || g.lanes != kLanes || left_over < 3 ? 1 : left_over < 5 ? 3 : 5;
          if (whole || (left >= 0 && left < g.w))
            taps_for<T>(g.lanes, taps)({x + ((image * g.h + h) * g.w + left) * c, dy + (row * g.q + q) * c, g.stride_w * c, g.dilation_w * c, pixels, g.c,
                                        sums + long(r * g.s + s) * c});
          s += taps;
        }
      }
      q += pixels;
    }
  }
}

void task(DepthwiseFilter const& g, int part) { g.bf16 ? task_in<std::uint16_t>(g, part) : task_in<float>(g, part); }

// The parts of one vector of channels, in order, into dw.
void sum(DepthwiseFilter const& g, int block) {
  Wide const d;
  int const c = block * kLanes, n = g.c - c < kLanes ? g.c - c : kLanes, taps = g.r * g.s;
  HWY_ALIGN float lane[kLanes];
  HWY_ALIGN std::uint16_t half[kLanes];
  for (int t = 0; t < taps; ++t) {
    auto total = hn::Zero(d);
    for (int part = 0; part < g.parts; ++part) {
      float const* const from = g.partial + (long(part) * taps + t) * g.c + c;
      total = hn::Add(total, n == kLanes ? hn::LoadU(d, from) : load_first(d, from, n));
    }
    hn::Store(total, d, lane);
    store_f32(total, d, half);
    for (int i = 0; i < n; ++i) {
      long const at = long(c + i) * taps + t;
      if (g.rounded) static_cast<std::uint16_t*>(g.dw)[at] = half[i];
      else static_cast<float*>(g.dw)[at] = lane[i];
    }
  }
}

}  // namespace

extern DepthwiseFilterKernels const depthwise_filter_kernels{kLanes, task, sum};
}  // namespace falconet::FALCONET_ISA

#else

#include <algorithm>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/conv/cpu/depthwise_plan.h"
#include "falconet/tensor/bf16.h"

namespace falconet {
namespace {

// So many that several cores have an even share, and so few that their sums are little beside it.
int parts_of(ConvProblem const& p) {
  double const operations = p.operations(), wanted = std::max(operations / 2e6, std::min(operations / 2e5, 4.0));
  int parts = 1;
  while (parts < 32 && parts < wanted) parts *= 2;
  return int(std::min<double>(double(p.n) * p.p(), parts));
}

}  // namespace

std::size_t depthwise_filter_scratch(ConvProblem const& p) {
  return sizeof(float) * std::size_t(parts_of(p)) * std::size_t(p.r) * std::size_t(p.s) * std::size_t(p.c);
}

void depthwise_filter_run(ConvProblem const& p, ConvArgs const& args, View scratch, Stream& stream) {
  auto const& kernels = FALCONET_KERNELS(stream.isa(), depthwise_filter_kernels);
  DepthwiseFilter g{};
  g.images = p.n, g.h = p.h, g.w = p.w, g.c = p.c, g.p = p.p(), g.q = p.q(), g.r = p.r, g.s = p.s;
  g.stride_h = p.stride_h, g.stride_w = p.stride_w, g.dilation_h = p.dilation_h, g.dilation_w = p.dilation_w, g.pad_top = p.pad_top, g.pad_left = p.pad_left;
  g.lanes = depthwise_lanes(p.c, kernels.vector_lanes);
  g.parts = parts_of(p);
  g.bf16 = p.x_type == DType::bf16;
  g.x = args.x.data, g.dy = args.y.data;
  g.partial = scratch.as<float>();
  g.dw = args.w.data, g.rounded = p.w_type == DType::bf16;
  long const row_bytes = 4L * g.c * (long(g.stride_h) * g.w + g.q);      // of a row of dy with its rows of x
  g.band = int(std::clamp<long>((512L << 10) / row_bytes, 1, g.p));
  stream.threads().run(g.parts, [&](int part) { kernels.task(g, part); });
  stream.threads().run((g.c + kernels.vector_lanes - 1) / kernels.vector_lanes, [&](int block) { kernels.sum(g, block); });
}

}  // namespace falconet

#endif
