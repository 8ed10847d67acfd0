// Depthwise convolution (g = c = k), forward and data gradient: every channel has its own filter, so vectors run along the channels of NHWC.
//
//   y(n,p,q,c)  = sum_{r,s} x(n, p*stride - pad + r*dilation, q*stride - pad + s*dilation, c) w(c,r,s)
//   dx(n,h,w,c) = sum_{r,s} dy(n, (h + pad - r*dilation)/stride, (w + pad - s*dilation)/stride, c) w(c,r,s), where exact
//
// Both gather as in direct.h, the data gradient by classes of rows and columns modulo the stride. A register tile is up to 8 result pixels of
// one vector of channels: a weight is loaded once for all of them, and inputs are operands of the multiply-adds. Pixels of the
// border are tiles of one pixel with fewer taps, so nothing is padded or copied. A task is a band of rows of an image; rows that have more slots than
// bias and ReLU, or belong to a result too large for the caches, pass through store_rows.h once they are complete, while they are near.
//   Cost: 2 n c p q r s operations at 1.1 loads per multiply-add; x is read once from memory and r times from L2, y written once.
//   Statistics: f64 sums of each task, added in their order.
// The filter gradient is in depthwise_filter.cpp.
// bf16: loads widen, a row's sums are of f32 until it is complete and rounded.
// Limits: f32 or bf16, nhwc, g = c = k, at least 4 channels, any filter, stride up to 8, padding and dilation; store {bias, residual, relu or relu6,
// mask of either, statistics}.
#include "falconet/ops/conv/cpu/depthwise.h"

#ifdef FALCONET_ISA

#include "falconet/device/cpu/simd.h"
#include "falconet/device/cpu/simd_load.h"
#include "falconet/ops/conv/cpu/direct_tile.h"

namespace falconet::FALCONET_ISA {
namespace {

template <class T>
struct Strip {
  T const* x;                       // the first pixel's first tap
  long row_step, tap_step, pixel_step;  // floats from tap row to tap row, tap to tap, result pixel to result pixel
  float const* w;
  long w_row, w_tap;                    // floats of the packed filter, from tap row to tap row and tap to tap
  int rows, taps, channels;
  float least, most;                    // results below and above become these: relu and relu6, or the infinities
  float const* bias;
  float* out;
  long out_step;
  T const* ahead;                       // asked for meanwhile: so many rows, and cache lines of each for every vector of channels
  long ahead_row;
  int ahead_rows, ahead_lines;
};

// columns: taps of a filter row, or 0: as many as `a` says. left: the first pixel lacks the first tap; right: the last pixel lacks the last.
template <class T, class D, int pixels, int columns = 0, bool left = false, bool right = false>
void strip(Strip<T> const& a) {
  D const d;
  constexpr int lanes = int(hn::MaxLanes(D()));
  auto const add = [&](auto& sum, T const* x, hn::Vec<D> weight, int s) HWY_ATTR {
#pragma GCC unroll 8
    for (int i = 0; i < pixels; ++i)
      if (!(left && i == 0 && s == 0) && !(right && i == pixels - 1 && s == columns - 1)) sum[i] = hn::MulAdd(load_f32(d, x + i * a.pixel_step), weight, sum[i]);
  };
  for (int c = 0; c < a.channels; c += lanes) {
    if (c + lanes > a.channels) c = a.channels - lanes;
    hn::Vec<D> const start = a.bias ? hn::LoadU(d, a.bias + c) : hn::Zero(d);
    hn::Vec<D> sum[pixels];
#pragma GCC unroll 8
    for (int i = 0; i < pixels; ++i) sum[i] = start;
    for (int r = 0; r < a.ahead_rows; ++r)
      for (int i = 0; i < a.ahead_lines; ++i) __builtin_prefetch(a.ahead + r * a.ahead_row + (long(c) / lanes * a.ahead_lines + i) * 16, 0, 2);
    for (int r = 0; r < a.rows; ++r) {
      T const* x = a.x + r * a.row_step + c;
      float const* w = a.w + r * a.w_row + c;
      if constexpr (columns) {
#pragma GCC unroll 3
        for (int s = 0; s < columns; ++s) add(sum, x + s * a.tap_step, hn::LoadU(d, w + s * a.w_tap), s);
      } else {
        for (int s = 0; s < a.taps; ++s, x += a.tap_step, w += a.w_tap) add(sum, x, hn::LoadU(d, w), -1);
      }
    }
    float* const out = a.out + c;
    auto const least = hn::Set(d, a.least), most = hn::Set(d, a.most);
#pragma GCC unroll 8
    for (int i = 0; i < pixels; ++i) {                   // a NaN stays visible
      auto const v = hn::IfThenElse(hn::Lt(sum[i], least), least, sum[i]);
      hn::StoreU(hn::IfThenElse(hn::Gt(v, most), most, v), d, out + i * a.out_step);
    }
  }
}

constexpr int kPixels = 8, kLeastPixels = 4;
template <class T>
constexpr bool has_borders = kLanes >= 8 && sizeof(T) == 4;   // tiles for rows with them: code that only pays where vectors are long
template <class T>
using StripKernel = void (*)(Strip<T> const&);
template <class T, int columns, bool left, bool right, int pixels = kPixels>
inline StripKernel<T> strip_of(int wanted) {
  constexpr int least = columns ? kLeastPixels : 1;
  if constexpr (pixels == least) return strip<T, Wide, least, columns, left, right>;
  else return wanted == pixels ? strip<T, Wide, pixels, columns, left, right> : strip_of<T, columns, left, right, pixels - 1>(wanted);
}
// left, right: only with three taps and kLeastPixels.
template <class T>
StripKernel<T> strip_for(int lanes, int pixels, int taps, bool left, bool right) {
  if (lanes != kLanes) return strip<T, hn::CappedTag<float, 4>, 1>;
  if constexpr (!has_borders<T>) return strip_of<T, 0, false, false>(pixels);
  else if (taps != 3 || pixels < kLeastPixels) return strip_of<T, 0, false, false>(pixels);
  else return left ? right ? strip_of<T, 3, true, true>(pixels) : strip_of<T, 3, true, false>(pixels) : right ? strip_of<T, 3, false, true>(pixels) : strip_of<T, 3, false, false>(pixels);
}

// Result positions of a class all of whose taps lie inside.
struct Inside {
  int begin, end;
};
Inside inside(GatherAxis const& a, GatherTaps const& t, int positions) {
  if (t.count == 0) return {0, positions};
  int const step = step_in(a), last = a.in - 1 - t.first - (t.count - 1) * t.step;
  Inside out{t.first < 0 ? ceil_div(-t.first, step) : 0, last < 0 ? 0 : last / step + 1};
  if (out.end > positions) out.end = positions;
  if (out.begin > positions) out.begin = positions;
  if (out.end < out.begin) out.end = out.begin;
  return out;
}
// Taps [begin, end) of the position whose first tap is at input `at`.
Inside taps_inside(GatherAxis const& a, GatherTaps const& t, int at) {
  Inside out{at < 0 && t.count > 1 ? ceil_div(-at, t.step) : 0, t.count};
  if (t.count > 1) {
    int const end = at < a.in ? (a.in - 1 - at) / t.step + 1 : 0;
    if (end < out.end) out.end = end;
  } else if (at < 0 || at >= a.in) out.end = 0;
  if (out.begin > out.end) out.begin = out.end;
  return out;
}

template <class T>
void task_in(DepthwiseGather const& g, int number) {
  int const image = number / g.bands, begin = number % g.bands * g.band, end = begin + g.band < g.row.out ? begin + g.band : g.row.out;
  int const row_classes = classes_of(g.row), col_classes = classes_of(g.col);
  long const c = g.channels;
  HWY_ALIGN float buffer[direct_row_floats];
  for (int h = begin; h < end; ++h) {
    GatherTaps const rows = taps_of(g.row, h % row_classes);
    int const row = h / row_classes * step_in(g.row) + rows.first;
    Inside const r = taps_inside(g.row, rows, row);
    T const* const in = static_cast<T const*>(g.in) + (long(image) * g.row.in + row + long(r.begin) * rows.step) * g.col.in * c;
    long const row_at = (long(image) * g.row.out + h) * g.col.out * c;
    bool const buffered = g.stream || sizeof(T) == 2;    // sums of bf16 results are of f32 until their row is complete
    float* const out = buffered ? buffer : static_cast<float*>(g.out) + row_at;
    for (int j = 0; j < col_classes; ++j) {
      GatherTaps const cols = taps_of(g.col, j);
      int const positions = positions_of(g.col, j);
      Inside const whole = inside(g.col, cols, positions);
      Strip<T> a{};
      a.row_step = long(rows.step) * g.col.in * c, a.tap_step = cols.step * c, a.pixel_step = step_in(g.col) * c;
      a.w_row = long(rows.tap_step) * g.col.taps * c, a.w_tap = cols.tap_step * c;
      a.rows = r.end - r.begin, a.channels = g.channels, a.bias = g.bias, a.out_step = col_classes * c;
      a.least = g.relu ? 0.0f : -__builtin_inff(), a.most = g.relu == 6 ? 6.0f : __builtin_inff();
      float const* const w = g.packed + long(rows.tap + r.begin * rows.tap_step) * g.col.taps * c;
      // A pixel at either border that lacks one tap of three belongs to the strip beside it.
      Inside const first = taps_inside(g.col, cols, cols.first), last = taps_inside(g.col, cols, (positions - 1) * step_in(g.col) + cols.first);
      bool const three = has_borders<T> && g.lanes == kLanes && cols.count == 3 && positions >= kLeastPixels && whole.end - whole.begin >= kLeastPixels - 2;
      bool left = three && whole.begin == 1 && first.begin == 1 && first.end == 3, right = three && whole.end == positions - 1 && last.begin == 0 && last.end == 2;
      if (whole.end - whole.begin + left + right < kLeastPixels) left = right = false;
      int const begins = left ? 0 : whole.begin, ends = right ? positions : whole.end;
      for (int i = 0; i < positions;) {
        int pixels = 1;
        int const at = i * step_in(g.col) + cols.first;
        Inside taps{0, cols.count};
        if (i >= begins && i < ends) {
          int const most = g.lanes == kLanes ? kPixels : 1, left_over = ends - i, strips = (left_over + most - 1) / most;
          pixels = (left_over + strips - 1) / strips;
        } else taps = taps_inside(g.col, cols, at);
        a.taps = taps.end - taps.begin;
        a.x = in + (at + long(taps.begin) * cols.step) * c;
        a.w = w + (cols.tap + taps.begin * cols.tap_step) * c;
        a.out = out + (long(i) * col_classes + j) * c;
        if (g.finishes && j == 0) {                      // what the slots will read of these pixels
          long const next = a.out - out + row_at, count = long(pixels) * a.out_step;
          long const size = g.slots.bf16 ? 2 : 4;
          void const* const operands[] = {g.slots.residual, g.slots.mask, g.slots.other};
          for (void const* from : operands)
            for (long k = 0; from && k < count * size; k += 64) __builtin_prefetch(static_cast<char const*>(from) + next * size + k, 0, 2);
        }
        if (g.far && at >= 0) {                          // what the next row will read for the first time
          int const next = row + (rows.count - 1) * rows.step + 1, fresh = step_in(g.row), left_over = g.row.in - next;
          a.ahead_rows = next < 0 || left_over < 0 ? 0 : left_over < fresh ? left_over : fresh;
          a.ahead_lines = pixels * step_in(g.col);
          a.ahead = static_cast<T const*>(g.in) + ((long(image) * g.row.in + next) * g.col.in + at) * c;
          a.ahead_row = g.col.in * c;
        } else a.ahead_rows = 0;
        strip_for<T>(g.lanes, pixels, a.taps, left && i == 0, right && i + pixels == positions)(a);
        i += pixels;
      }
    }
    if (g.finishes || buffered) {
      StoredRows s = g.slots;
      s.from = out;
      s.stream = g.stream;
      advance(s, row_at);
      s.totals = s.totals && image < g.valid_images ? s.totals + 2 * s.second * number : nullptr;
      store_kernels.rows(s);
    }
  }
#if HWY_ARCH_X86
  if (g.stream) __builtin_ia32_sfence();                 // before other threads are told that the results are there
#endif
}

void task(DepthwiseGather const& g, int number) { g.bf16 ? task_in<std::uint16_t>(g, number) : task_in<float>(g, number); }

}  // namespace

extern DepthwiseKernels const depthwise_kernels{kLanes, task};
}  // namespace falconet::FALCONET_ISA

#else

#include <algorithm>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/conv/algorithms.h"
#include "falconet/ops/conv/cpu/depthwise_plan.h"
#include "falconet/ops/conv/cpu/stored_statistics.h"
#include "falconet/tensor/bf16.h"

namespace falconet {
namespace {

DepthwiseGather plan_of(ConvProblem const& p, Isa isa) {
  bool const back = p.direction == Direction::bwd_data;
  DepthwiseGather g{};
  g.row = {back ? p.p() : p.h, back ? p.h : p.p(), p.r, p.stride_h, p.dilation_h, p.pad_top, back};
  g.col = {back ? p.q() : p.w, back ? p.w : p.q(), p.s, p.stride_w, p.dilation_w, p.pad_left, back};
  g.images = p.n, g.channels = p.c;
  g.lanes = depthwise_lanes(p.c, FALCONET_KERNELS(isa, depthwise_kernels).vector_lanes);
  double const tasks = std::clamp(p.operations() / 2e5, 1.0, 16.0);   // 2 us each at least
  int const bands = std::clamp(int((tasks + p.n - 1) / p.n), 1, g.row.out);
  g.band = (g.row.out + bands - 1) / bands;
  g.bands = (g.row.out + g.band - 1) / g.band;
  g.relu = p.store.act == Activation::relu ? 1 : p.store.act == Activation::relu6 ? 6 : 0;
  std::int64_t const row = std::int64_t(g.col.out) * p.c;
  g.bf16 = p.x_type == DType::bf16;
  g.stream = !g.bf16 && row * g.row.out * p.n >= std::int64_t(direct_stream_floats) && p.c % 16 == 0 && row <= std::int64_t(direct_row_floats);
  g.far = !g.bf16 && std::int64_t(g.row.in) * g.col.in * p.c * p.n >= std::int64_t(p.stride_h > 1 ? direct_stream_floats : direct_far_floats / 4) && g.row.dilation == 1 &&
          !(back && p.stride_h * p.stride_w > 1);
  g.finishes = p.store.residual || p.store.mask != Mask::none || p.store.stats != Stats::none;
  return g;
}

std::string reject(ConvProblem const& p, DeviceFacts const&) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (p.groups != p.c || p.groups != p.k) return "needs as many groups as channels and filters";
  bool const filter_of_bf16 = p.direction == Direction::bwd_filter && p.x_type == DType::bf16 && p.y_type == DType::bf16 && p.w_type == DType::f32;
  if (!p.one_type(DType::f32) && !p.one_type(DType::bf16) && !filter_of_bf16) return "needs f32 or bf16";
  if (p.layout != Layout::nhwc) return "needs nhwc";
  if (p.c < 4) return "needs at least 4 channels";
  if (p.stride_h > direct_max_classes || p.stride_w > direct_max_classes) return "strides up to 8";
  if (p.load_x != OnLoad{} || p.load_dy != OnLoad{}) return "slots on load";
  if (p.direction == Direction::bwd_filter) return p.store.bias ? "db" : "";
  if (p.x_type == DType::bf16 && double(p.direction == Direction::fwd ? p.q() : p.w) * p.c > double(direct_row_floats)) return "result rows exceed its buffer of 128 KiB";
  return stored_rows_refusal(p);
}

std::size_t packed_bytes(ConvProblem const& p) { return sizeof(float) * std::size_t((std::int64_t(p.r) * p.s * p.c + 15) / 16 * 16); }
std::size_t prepared(ConvProblem const& p, Config const&) { return p.direction == Direction::bwd_filter ? 0 : packed_bytes(p); }
std::size_t scratch(ConvProblem const& p, Config const&) {
  if (p.direction == Direction::bwd_filter) return depthwise_filter_scratch(p);
  DepthwiseGather const g = plan_of(p, Isa::plain);
  return packed_bytes(p) + statistics_bytes(p, g.images * g.bands);
}

void prepare(ConvProblem const& p, Config const&, ConvArgs const& args, View to, Stream&) {
  bool const bf16_filter = p.w_type == DType::bf16;
  auto const* const w = args.w.as<float const>();
  auto const* const w_bf16 = args.w.as<bf16 const>();
  float* const packed = to.as<float>();
  int const taps = p.r * p.s;
  for (int c = 0; c < p.c; ++c)
    for (int t = 0; t < taps; ++t) packed[std::int64_t(t) * p.c + c] = bf16_filter ? to_float(w_bf16[std::int64_t(c) * taps + t]) : w[std::int64_t(c) * taps + t];
}

// One core of 3.5 GHz with a vector loaded for each multiply-add, at half its rate; memory, or the caches.
double seconds(ConvProblem const& p, DeviceFacts const& facts) {
  double const lanes = facts.isa == Isa::avx512 ? 16 : facts.isa == Isa::avx2 ? 8 : 4;
  double const bytes = bytes_of(p.operands());
  return std::max(p.operations() / (3.5e9 * 2 * lanes), bytes / (bytes > 1.6e7 ? 16e9 : 60e9)) + 2e-6;
}

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View scratch, Stream& stream) {
  if (p.direction == Direction::bwd_filter) return depthwise_filter_run(p, args, scratch, stream);
  auto const& kernels = FALCONET_KERNELS(stream.isa(), depthwise_kernels);
  DepthwiseGather g = plan_of(p, stream.isa());
  bool const back = p.direction == Direction::bwd_data;
  if (!args.prepared) prepare(p, config, args, scratch, stream);
  g.packed = (args.prepared ? args.prepared : scratch).as<float const>();
  g.in = (back ? args.y : args.x).data;
  g.out = (back ? args.x : args.y).data;
  g.bias = p.store.bias ? args.bias.as<float const>() : nullptr;
  int const tasks = g.images * g.bands;
  if (reinterpret_cast<std::uintptr_t>(g.out) % 64) g.stream = 0;
  if (g.finishes || g.stream || g.bf16) {
    double* const totals = reinterpret_cast<double*>(scratch.as<char>() + (args.prepared ? 0 : packed_bytes(p)));
    g.slots = stored_rows_of(p, args, totals);
    g.slots.pixels = g.col.out, g.slots.channels = g.channels, g.slots.from_step = g.slots.step = g.channels;
    g.slots.out = g.out;
    g.slots.bias = nullptr;                              // the sums begin with it
    g.relu = 0;
    g.valid_images = args.step ? std::clamp<int>(args.step->valid_count, 0, p.n) : p.n;
    if (g.slots.totals) clear_statistics(p, tasks, totals, stream);
  }
  stream.threads().run(tasks, [&](int task) { kernels.task(g, task); });
  if (g.slots.totals) add_statistics(p, tasks, g.slots.totals, args, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_depthwise{
    .name = "depthwise", .target = DeviceKind::cpu, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run,
    .prepares = "w", .prepared = prepared, .prepare = prepare};

}  // namespace falconet

#endif
