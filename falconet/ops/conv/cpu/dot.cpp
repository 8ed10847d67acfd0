// Convolutions with few result channels (one to four: a map of one class, an image's gradient), forward and data gradient, as dot products: vectors run along
// the channels that are summed, where other algorithms would leave most lanes of the results empty.
//
//   y(n,p,q,k)  = sum_{r,s} <x(n, p*stride - pad + r*dilation, q*stride - pad + s*dilation, :), w(k,r,s,:)>
//   dx(n,h,w,c) = sum_{r,s} <dy(n, (h + pad - r*dilation)/stride, (w + pad - s*dilation)/stride, :), w(:,r,s,c)>, where exact
//
// Both gather as in direct.h, the data gradient by classes of rows and columns modulo the stride. A register tile is up to 8 pixels x the result
// channels; its lanes are added up once, after all taps. Pixels of the border are tiles of one pixel with fewer taps. A task is a band of
// rows of an image, a function of the problem alone. As gemm's algorithm of the same name.
//   Cost: 2 n p q r s c k operations at (1 + 1/channels) loads each; reads x r times, from L2 but for the first.
// Limits: f32, nhwc, groups 1, at most 4 result channels and at least 8 summed ones, stride up to 8; store {bias, relu or relu6}.
#include <cstddef>

#include "falconet/ops/conv/cpu/direct.h"

namespace falconet {

struct DotGather {
  GatherAxis row, col;
  int images, in_c, out_c;
  int band, bands;                       // result rows of a task; tasks of an image
  float least, most;                     // results below and above become these: relu and relu6, or the infinities
  float const *in, *filter, *bias;       // filter: [result channel][r][s][summed channel]
  float* out;
};
struct ConvDotKernels {
  void (*task)(DotGather const&, int task);
};
FALCONET_DECLARE_KERNELS(ConvDotKernels, conv_dot_kernels)

}  // namespace falconet

#ifdef FALCONET_ISA

#include "falconet/device/cpu/simd.h"
#include "falconet/ops/conv/cpu/direct_rows.h"
#include "falconet/ops/conv/cpu/direct_tile.h"

namespace falconet::FALCONET_ISA {
namespace {

struct Dots {
  float const* x;                        // the first pixel's first tap
  long row_step, tap_step, pixel_step;
  float const* w;
  long w_row, w_tap, w_channel;          // from tap row to tap row, tap to tap, result channel to result channel
  int rows, taps, channels;              // channels that are summed
  float const* bias;
  float least, most;
  float* out;
  long out_step;
};

template <int pixels, int results>
void dots(Dots const& a) {
  Wide const d;
  hn::Vec<Wide> sum[pixels][results];
#pragma GCC unroll 8
  for (int i = 0; i < pixels; ++i)
#pragma GCC unroll 4
    for (int k = 0; k < results; ++k) sum[i][k] = hn::Zero(d);
  for (int r = 0; r < a.rows; ++r)
    for (int s = 0; s < a.taps; ++s) {
      float const *x = a.x + r * a.row_step + s * a.tap_step, *w = a.w + r * a.w_row + s * a.w_tap;
      int c = 0;
      for (; c + kLanes <= a.channels; c += kLanes) {
        hn::Vec<Wide> weight[results];
#pragma GCC unroll 4
        for (int k = 0; k < results; ++k) weight[k] = hn::LoadU(d, w + k * a.w_channel + c);
#pragma GCC unroll 8
        for (int i = 0; i < pixels; ++i) {
          auto const value = hn::LoadU(d, x + i * a.pixel_step + c);
#pragma GCC unroll 4
          for (int k = 0; k < results; ++k) sum[i][k] = hn::MulAdd(value, weight[k], sum[i][k]);
        }
      }
      if (int const n = a.channels - c; n > 0)
#pragma GCC unroll 4
        for (int k = 0; k < results; ++k) {
          auto const weight = load_first(d, w + k * a.w_channel + c, n);
#pragma GCC unroll 8
          for (int i = 0; i < pixels; ++i) sum[i][k] = hn::MulAdd(load_first(d, x + i * a.pixel_step + c, n), weight, sum[i][k]);
        }
    }
#pragma GCC unroll 8
  for (int i = 0; i < pixels; ++i)
#pragma GCC unroll 4
    for (int k = 0; k < results; ++k) {
      float v = hn::GetLane(hn::SumOfLanes(d, sum[i][k])) + (a.bias ? a.bias[k] : 0.0f);
      if (v < a.least) v = a.least;      // a NaN stays visible
      if (v > a.most) v = a.most;
      a.out[i * a.out_step + k] = v;
    }
}

constexpr int kPixels = kRegisters == 32 ? 8 : 4;
using DotsKernel = void (*)(Dots const&);
template <int results>
inline DotsKernel dots_of(int pixels) {
  constexpr int most = results * kPixels > kSums ? kSums / results / 2 * 2 : kPixels;
  return pixels == kPixels ? dots<most, results> : dots<1, results>;
}
// Pixels of a tile that is not at the border.
int pixels_for(int results) { return results * kPixels > kSums ? kSums / results / 2 * 2 : kPixels; }
DotsKernel dots_for(int results, bool whole) {
  int const pixels = whole ? kPixels : 1;
  return results == 1 ? dots_of<1>(pixels) : results == 2 ? dots_of<2>(pixels) : results == 3 ? dots_of<3>(pixels) : dots_of<4>(pixels);
}

struct Range {
  int begin, end;
};
// Taps of the position whose first tap is at input `at` that lie inside.
Range taps_inside(GatherAxis const& a, GatherTaps const& t, int at) {
  Range out{at < 0 && t.count > 1 ? ceil_div(-at, t.step) : 0, t.count};
  if (t.count > 1) {
    int const end = at < a.in ? (a.in - 1 - at) / t.step + 1 : 0;
    if (end < out.end) out.end = end;
  } else if (at < 0 || at >= a.in) out.end = 0;
  if (out.begin > out.end) out.begin = out.end;
  return out;
}

void task(DotGather const& g, int number) {
  int const image = number / g.bands, begin = number % g.bands * g.band, end = begin + g.band < g.row.out ? begin + g.band : g.row.out;
  int const row_classes = classes_of(g.row), col_classes = classes_of(g.col), most = pixels_for(g.out_c);
  DotsKernel const one = dots_for(g.out_c, false), whole = dots_for(g.out_c, true);
  for (int h = begin; h < end; ++h) {
    GatherTaps const rows = taps_of(g.row, h % row_classes);
    int const row = h / row_classes * step_in(g.row) + rows.first;
    Range const r = taps_inside(g.row, rows, row);
    float const* const in = g.in + (long(image) * g.row.in + row + long(r.begin) * rows.step) * g.col.in * g.in_c;
    float* const out = g.out + (long(image) * g.row.out + h) * g.col.out * g.out_c;
    for (int j = 0; j < col_classes; ++j) {
      GatherTaps const cols = taps_of(g.col, j);
      int const positions = positions_of(g.col, j);
      Dots a{};
      a.row_step = long(rows.step) * g.col.in * g.in_c, a.tap_step = long(cols.step) * g.in_c, a.pixel_step = long(step_in(g.col)) * g.in_c;
      a.w_row = long(rows.tap_step) * g.col.taps * g.in_c, a.w_tap = long(cols.tap_step) * g.in_c, a.w_channel = long(g.row.taps) * g.col.taps * g.in_c;
      a.rows = r.end - r.begin, a.channels = g.in_c, a.bias = g.bias, a.least = g.least, a.most = g.most, a.out_step = long(col_classes) * g.out_c;
      float const* const w = g.filter + long(rows.tap + r.begin * rows.tap_step) * g.col.taps * g.in_c;
      for (int i = 0; i < positions;) {
        int const at = i * step_in(g.col) + cols.first, last = at + (most - 1) * step_in(g.col);
        bool const tile = i + most <= positions && at >= 0 && last + (cols.count > 0 ? cols.count - 1 : 0) * cols.step < g.col.in;
        Range const taps = tile ? Range{0, cols.count} : taps_inside(g.col, cols, at);
        a.taps = taps.end - taps.begin;
        a.x = in + (at + long(taps.begin) * cols.step) * g.in_c;
        a.w = w + long(cols.tap + taps.begin * cols.tap_step) * g.in_c;
        a.out = out + (long(i) * col_classes + j) * g.out_c;
        (tile ? whole : one)(a);
        i += tile ? most : 1;
      }
    }
  }
}

}  // namespace

extern ConvDotKernels const conv_dot_kernels{task};
}  // namespace falconet::FALCONET_ISA

#else

#include <algorithm>
#include <cmath>
#include <limits>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/conv/algorithms.h"

namespace falconet {
namespace {

std::string reject(ConvProblem const& p, DeviceFacts const&) {
  bool const back = p.direction == Direction::bwd_data;
  if (p.direction == Direction::bwd || p.direction == Direction::bwd_filter) return "needs fwd or bwd_data";
  if (!p.one_type(DType::f32)) return "needs f32";
  if (p.layout != Layout::nhwc) return "needs nhwc";
  if (p.groups != 1) return "needs groups 1";
  if ((back ? p.c : p.k) > 4) return "needs at most 4 result channels";
  if ((back ? p.k : p.c) < 8) return "needs at least 8 summed channels";
  if (back && std::max(p.stride_h, p.stride_w) > direct_max_classes) return "strides of a data gradient are at most 8";
  if (p.load_x != OnLoad{} || p.load_dy != OnLoad{}) return "slots on load";
  OnStore const& s = p.store;
  bool const known = s.act == Activation::none || s.act == Activation::relu || s.act == Activation::relu6;
  if (s.affine != Affine::none || s.residual || s.mask != Mask::none || s.stats != Stats::none || s.pool.kind != PoolSlot::none || !known) return "store slots are bias, relu and relu6";
  return {};
}

// The filter by result channels, as it lies forward.
std::size_t prepared(ConvProblem const& p, Config const&) {
  return p.direction == Direction::fwd ? 0 : sizeof(float) * std::size_t(p.k) * std::size_t(p.r) * std::size_t(p.s) * std::size_t(p.c);
}
void prepare(ConvProblem const& p, Config const&, ConvArgs const& args, View to, Stream&) {
  if (p.direction == Direction::fwd) return;
  float const* const w = args.w.as<float const>();
  int const taps = p.r * p.s;
  for (int k = 0; k < p.k; ++k)
    for (int t = 0; t < taps; ++t)
      for (int c = 0; c < p.c; ++c) to.as<float>()[(std::int64_t(c) * taps + t) * p.k + k] = w[(std::int64_t(k) * taps + t) * p.c + c];
}

// One core of 3.5 GHz with two multiply-adds a cycle at 45 % of its peak, additions of lanes beside them; memory.
double seconds(ConvProblem const& p, DeviceFacts const& facts) {
  double const lanes = facts.isa == Isa::avx512 ? 16 : facts.isa == Isa::avx2 ? 8 : 2;
  int const summed = p.direction == Direction::bwd_data ? p.k : p.c;
  double const used = summed / (std::ceil(summed / lanes) * lanes);
  double const results = p.operations() / 2 / p.r / p.s / summed * (p.direction == Direction::bwd_data ? p.stride_h * p.stride_w : 1);
  return std::max(p.operations() / (0.45 * 3.5e9 * 4 * lanes * used) + results * 2e-9, bytes_of(p.operands()) / 12e9) + 2e-6;
}

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View scratch, Stream& stream) {
  bool const back = p.direction == Direction::bwd_data;
  if (!args.prepared) prepare(p, config, args, scratch, stream);
  DotGather g{};
  g.row = {back ? p.p() : p.h, back ? p.h : p.p(), p.r, p.stride_h, p.dilation_h, p.pad_top, back};
  g.col = {back ? p.q() : p.w, back ? p.w : p.q(), p.s, p.stride_w, p.dilation_w, p.pad_left, back};
  g.images = p.n, g.in_c = back ? p.k : p.c, g.out_c = back ? p.c : p.k;
  double const tasks = std::clamp(p.operations() / 2e5, 1.0, 32.0);
  int const bands = std::clamp(int((tasks + p.n - 1) / p.n), 1, g.row.out);
  g.band = (g.row.out + bands - 1) / bands;
  g.bands = (g.row.out + g.band - 1) / g.band;
  g.least = p.store.act == Activation::none ? -std::numeric_limits<float>::infinity() : 0.0f;
  g.most = p.store.act == Activation::relu6 ? 6.0f : std::numeric_limits<float>::infinity();
  g.in = (back ? args.y : args.x).as<float const>();
  g.out = (back ? args.x : args.y).as<float>();
  g.filter = !back ? args.w.as<float const>() : (args.prepared ? args.prepared : scratch).as<float const>();
  g.bias = p.store.bias ? args.bias.as<float const>() : nullptr;
  auto const& kernels = FALCONET_KERNELS(stream.isa(), conv_dot_kernels);
  stream.threads().run(g.images * g.bands, [&](int task) { kernels.task(g, task); });
}

}  // namespace

Algorithm<ConvProblem> const conv_dot{
    .name = "dot", .target = DeviceKind::cpu, .reject = reject, .scratch = prepared, .seconds = seconds, .run = run,
    .prepares = "w", .prepared = prepared, .prepare = prepare};

}  // namespace falconet

#endif
