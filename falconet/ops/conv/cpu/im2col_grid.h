// Which pixels of the result one matrix product of im2col_gemm.cpp makes, and from which patches: forward all of y at once, for the data
// gradient one grid of dx for each residue modulo the stride.
#pragma once
#include <algorithm>
#include <numeric>

#include "falconet/ops/conv/cpu/patches.h"
#include "falconet/ops/conv/problem.h"

namespace falconet::im2col {

// Taps that reach the pixels of one residue `phase` modulo the stride, along one axis: filter positions last - t * period read the
// image of dy at pixel first + t * step.
struct Taps {
  int count = 0, last = 0, period = 1, first = 0, step = 1;
};
inline Taps taps_of(int phase, int pad, int stride, int dilation, int filter) {
  Taps taps;
  taps.period = stride / std::gcd(stride, dilation);
  taps.step = dilation / std::gcd(stride, dilation);
  int r = 0;
  while (r < filter && r < taps.period && (phase + pad - r * dilation) % stride != 0) ++r;
  if (r >= filter || r >= taps.period) return taps;
  taps.count = (filter - 1 - r) / taps.period + 1;
  taps.last = r + (taps.count - 1) * taps.period;
  taps.first = (phase + pad - taps.last * dilation) / stride;
  return taps;
}

// One matrix product over the pixels of one grid of the result: all of y, or the dx of one residue modulo the stride.
struct Grid {
  PatchSource patches;                                                // of the first group
  int h0 = 0, w0 = 0, step_h = 1, step_w = 1, rows = 1, columns = 1;  // its pixels within the result
  Taps th, tw;                                                        // data gradient only
  std::int64_t first_depth = 0;                                                // depth of the grids before it
  bool whole(ConvProblem const& p) const {                            // its pixels are all pixels of the result, in order
    return p.direction == Direction::fwd || (p.stride_h == 1 && p.stride_w == 1);
  }
};
inline int grids_of(ConvProblem const& p) { return p.direction == Direction::bwd_data ? p.stride_h * p.stride_w : 1; }

inline Grid grid_of(ConvProblem const& p, ConvArgs const& args, int index) {
  Grid g;
  auto& s = g.patches;
  bool const data = p.direction == Direction::bwd_data;
  View const& image = data ? args.y : args.x;
  s.data = image.data;
  s.is_bf16 = image.type.dtype == DType::bf16;
  s.channels_last = p.layout == Layout::nhwc;
  s.height = data ? p.p() : p.h;
  s.width = data ? p.q() : p.w;
  std::int64_t const channels = data ? p.k : p.c;
  s.channels = int(channels / p.groups);
  s.pixel_stride = s.channels_last ? channels : 1;
  s.image_stride = channels * s.height * s.width;
  if (!data) {
    s.step_h = p.stride_h, s.step_w = p.stride_w, s.first_h = -p.pad_top, s.first_w = -p.pad_left;
    s.tap_rows = p.r, s.tap_columns = p.s, s.tap_step_h = p.dilation_h, s.tap_step_w = p.dilation_w;
    s.rows = g.rows = p.p(), s.columns = g.columns = p.q();
    return g;
  }
  auto at = [&](int i) {
    g.h0 = i / p.stride_w, g.w0 = i % p.stride_w;
    g.th = taps_of(g.h0, p.pad_top, p.stride_h, p.dilation_h, p.r);
    g.tw = taps_of(g.w0, p.pad_left, p.stride_w, p.dilation_w, p.s);
  };
  for (int i = 0; i < index; ++i) {
    at(i);
    g.first_depth += std::int64_t(g.th.count) * g.tw.count * s.channels;
  }
  at(index);
  g.step_h = p.stride_h, g.step_w = p.stride_w;
  s.first_h = g.th.first, s.tap_step_h = g.th.step, s.tap_rows = g.th.count;
  s.first_w = g.tw.first, s.tap_step_w = g.tw.step, s.tap_columns = g.tw.count;
  s.rows = g.rows = std::max(0, (p.h - g.h0 + p.stride_h - 1) / p.stride_h);
  s.columns = g.columns = std::max(0, (p.w - g.w0 + p.stride_w - 1) / p.stride_w);
  return g;
}
inline PatchSource group_of(PatchSource s, std::int64_t group) {
  std::int64_t const offset = group * s.channels * (s.channels_last ? 1 : std::int64_t(s.height) * s.width);
  s.data = static_cast<char const*>(s.data) + offset * (s.is_bf16 ? 2 : 4);
  return s;
}

}  // namespace falconet::im2col
