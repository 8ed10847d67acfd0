// Convolutions of images of one channel with few filters (a first layer on digits): forward and filter gradient with two or four neighbouring pixels
// in a vector, each with all its filters, where other algorithms would leave half of a vector or more empty.
//
//   y(n,p,q,k) = sum_{r,s} x(n, p*stride - pad + r*dilation, q - pad + s) w(k,r,s)
//   dw(k,r,s)  = sum_{n,p,q} dy(n,p,q,k) x(n, p*stride - pad + r*dilation, q - pad + s),  db(k) = sum dy(n,p,q,k)
//
// A vector of 16 lanes is 2 pixels x 8 filters or 4 x 4. Rows of x are staged with each pixel repeated for its filters, so that the factor of a vector of
// pixels is one load, an operand of the multiply-add; and once for each offset within a vector, so that no load meets two cache lines. Padding is staged
// as zeros. Forward, a tile is up to 14 vectors of a row; backward, the sums of all taps stay in registers while a band of rows streams past.
// Bands are dealt to tasks or parts, a function of the problem alone; sums of parts are added in their order.
//   Cost: 2 n p q r s k operations (k rounded up to 4 or 8) at 1.1 loads each; staging writes x so often as a vector has lanes, (band + r)/band times.
// Limits: f32, nhwc, c = 1, k up to half a vector's lanes, a filter row of 3, 5 or 7 taps, stride 1 and dilation 1 along rows; store {bias, relu or relu6};
// the filter gradient also db; AVX2 (k up to 4) or AVX-512 (k up to 8).
#include <cstddef>

#include "falconet/ops/conv/cpu/direct.h"

namespace falconet {

constexpr int pixel_groups_stage = 40 << 10;  // floats on the stack of the thread that runs a task: staged rows of x and of dy
constexpr int pixel_groups_taps = 128;
constexpr int pixel_groups_row = 8 << 10;     // pixels of a staged row

struct PixelGroups {
  int images, h, w, p, q, k, r, s;
  int stride_h, dilation_h, pad_top, pad_left;
  int width, pixels;                     // lanes of a pixel; pixels of a vector
  int columns, vectors;                  // staged pixels of a row of x; vectors of a row of y
  int band, bands, parts;                // rows of y; of an image; the filter gradient's
  float least, most;                     // results below and above become these: relu and relu6, or the infinities
  float const *x, *dy, *packed, *bias;   // packed: [r][s] vectors
  float *y, *partial;                    // partial: [part][r * s taps and db] vectors
  long row_floats() const { return long(columns) * width * pixels; }
  int rows(int of_band) const { return (of_band - 1) * stride_h + (r - 1) * dilation_h + 1; }
};
struct PixelGroupsKernels {
  int vector_lanes;
  void (*forward)(PixelGroups const&, int task);
  void (*filter)(PixelGroups const&, int part);
};
FALCONET_DECLARE_KERNELS(PixelGroupsKernels, pixel_groups_kernels)

}  // namespace falconet

#ifdef FALCONET_ISA

#include "falconet/device/cpu/simd.h"
#include "falconet/ops/conv/cpu/direct_rows.h"
#include "falconet/ops/conv/cpu/direct_tile.h"

namespace falconet::FALCONET_ISA {
namespace {

using V = hn::Vec<Wide>;

// Lane i of a table: number(i), for TableLookupLanes.
template <class Number>
auto table_of(Number const& number) {
  HWY_ALIGN int lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = number(i);
  return hn::SetTableIndices(Wide(), lanes);
}

// Rows [first, first + rows) of an image, each once for every pixel of a vector: copy e begins with pixel e of the padded row; every pixel `width` times.
void stage_x(PixelGroups const& g, int image, int first, int rows, float* to) {
  Wide const d;
  HWY_ALIGN float padded[pixel_groups_row + 2 * kLanes];
  zero(padded, g.columns + 2 * kLanes);
  int const begin = g.pad_left, room = g.columns + kLanes - begin, count = g.w < room ? g.w : room;
  auto const spread = table_of([&](int lane) { return lane / g.width; });
  for (int i = 0; i < rows; ++i) {
    bool const inside = first + i >= 0 && first + i < g.h;
    if (inside) copy(g.x + (long(image) * g.h + first + i) * g.w, padded + begin, count);
    int const columns = g.columns, pixels = g.pixels;
    if (!inside) zero(to, long(columns) * pixels * g.width), to += long(columns) * pixels * g.width;
    else
      for (int e = 0; e < pixels; ++e)
        for (int j = 0; j < columns; j += pixels, to += kLanes) hn::Store(hn::TableLookupLanes(hn::LoadU(d, padded + j + e), spread), d, to);
  }
}

// Lanes that have a filter.
auto kept_of(PixelGroups const& g) {
  Wide const d;
  HWY_ALIGN float lanes[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = lane % g.width < g.k ? 1.0f : 0.0f;
  return hn::Gt(hn::Load(d, lanes), hn::Zero(d));
}

// sum[i] = sum over taps of w[tap] * x[tap][i]: vectors of a row.
// taps, where[tap]: floats from the tile's first pixel to the tap's.
template <int count>
void row_tile(float const* w, int taps, int const* where, float const* x, float* out) {
  Wide const d;
  V sum[count];
#pragma GCC unroll 16
  for (int i = 0; i < count; ++i) sum[i] = hn::Zero(d);
  for (int tap = 0; tap < taps; ++tap, w += kLanes) {
    float const* const at = x + where[tap];
    V const weight = hn::LoadU(d, w);
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) sum[i] = hn::MulAdd(hn::LoadU(d, at + i * kLanes), weight, sum[i]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < count; ++i) hn::StoreU(sum[i], d, out + i * kLanes);
}
using RowTile = void (*)(float const*, int, int const*, float const*, float*);
constexpr int kVectors = kRegisters == 32 ? 14 : 12;
template <int count = kVectors>
inline RowTile row_tile_for(int wanted) {
  if constexpr (count == 1) return row_tile<1>;
  else return wanted == count ? row_tile<count> : row_tile_for<count - 1>(wanted);
}

void forward(PixelGroups const& g, int task) {
  HWY_ALIGN float stage[pixel_groups_stage];
  HWY_ALIGN float sums[kVectors * kLanes];
  Wide const d;
  int const image = task / g.bands, begin = task % g.bands * g.band, end = begin + g.band < g.p ? begin + g.band : g.p;
  stage_x(g, image, begin * g.stride_h - g.pad_top, g.rows(end - begin), stage);
  HWY_ALIGN float bias_lanes[kLanes] = {};
  for (int lane = 0; g.bias && lane < kLanes; ++lane) bias_lanes[lane] = lane % g.width < g.k ? g.bias[lane % g.width] : 0.0f;
  V const bias = hn::Load(d, bias_lanes), least = hn::Set(d, g.least), most = hn::Set(d, g.most);
  auto const kept = kept_of(g);
  int where[pixel_groups_taps];
  int const k = g.k, q = g.q, width = g.width, pixels = g.pixels;
  for (int r = 0; r < g.r; ++r)
    for (int s = 0; s < g.s; ++s) where[r * g.s + s] = int(r * g.dilation_h * g.row_floats()) + (s % pixels * g.columns + s - s % pixels) * width;
  for (int p = begin; p < end; ++p) {
    float* out = g.y + (long(image) * g.p + p) * g.q * g.k;
    int const tiles = (g.vectors + kVectors - 1) / kVectors;
    for (int tile = 0, first = 0; tile < tiles; ++tile) {
      int const count = g.vectors / tiles + (tile < g.vectors % tiles);
      row_tile_for(count)(g.packed, g.r * g.s, where, stage + (p - begin) * g.stride_h * g.row_floats() + long(first) * kLanes, sums);
      int const full = pixels * k;
      for (int i = 0; i < count; ++i, out += full) {
        V v = hn::Add(hn::Load(d, sums + i * kLanes), bias);
        v = hn::IfThenElse(hn::Lt(v, least), least, v);  // a NaN stays visible
        v = hn::IfThenElse(hn::Gt(v, most), most, v);
        if (k < width) v = hn::Compress(v, kept);
        int const left = (q - (first + i) * pixels) * k;
        if (left >= kLanes && k == width) hn::StoreU(v, d, out);
        else store_first(v, d, out, left < full ? left : full);
      }
      first += count;
    }
  }
}

// sums[tap] += sum over rows and vectors of dy * x[tap], for `filter_rows` rows of the filter.
template <int taps, int filter_rows>
void add_taps(PixelGroups const& g, float const* x, float const* dy, int rows, float* sums) {
  Wide const d;
  V sum[filter_rows][taps];
#pragma GCC unroll 8
  for (int r = 0; r < filter_rows; ++r)
#pragma GCC unroll 8
    for (int s = 0; s < taps; ++s) sum[r][s] = hn::LoadU(d, sums + (r * taps + s) * kLanes);
  long const row = g.dilation_h * g.row_floats();
  long const copy = long(g.columns) * g.width;
  for (int p = 0; p < rows; ++p, x += g.stride_h * g.row_floats())
    for (int i = 0; i < g.vectors; ++i, dy += kLanes) {
      V const value = hn::LoadU(d, dy);
      float const* const at = x + long(i) * kLanes;
#pragma GCC unroll 8
      for (int s = 0; s < taps; ++s) {
        float const* const column = g.pixels == 2 ? at + s % 2 * copy + (s - s % 2) * g.width : at + s % 4 * copy + (s - s % 4) * g.width;
#pragma GCC unroll 8
        for (int r = 0; r < filter_rows; ++r) sum[r][s] = hn::MulAdd(hn::LoadU(d, column + r * row), value, sum[r][s]);
      }
    }
#pragma GCC unroll 8
  for (int r = 0; r < filter_rows; ++r)
#pragma GCC unroll 8
    for (int s = 0; s < taps; ++s) hn::StoreU(sum[r][s], d, sums + (r * taps + s) * kLanes);
}
using AddTaps = void (*)(PixelGroups const&, float const*, float const*, int, float*);
template <int taps, int filter_rows>
inline AddTaps add_taps_of(int wanted) {
  if constexpr (filter_rows == 1) return add_taps<taps, 1>;
  else return wanted == filter_rows ? add_taps<taps, filter_rows> : add_taps_of<taps, filter_rows - 1>(wanted);
}
constexpr int most_rows(int taps) { return kRegisters == 32 ? (taps == 3 ? 3 : taps == 5 ? 5 : 4) : taps == 3 ? 3 : taps == 5 ? 2 : 1; }
AddTaps add_taps_for(int taps, int rows) { return taps == 3 ? add_taps_of<3, most_rows(3)>(rows) : taps == 5 ? add_taps_of<5, most_rows(5)>(rows) : add_taps_of<7, most_rows(7)>(rows); }

void filter(PixelGroups const& g, int part) {
  HWY_ALIGN float stage[pixel_groups_stage];
  Wide const d;
  float* const sums = g.partial + long(part) * (g.r * g.s + 1) * kLanes;
  zero(sums, long(g.r * g.s + 1) * kLanes);
  float* const dy = stage + g.rows(g.band) * g.row_floats();
  long const all = long(g.images) * g.bands;
  auto const spread = table_of([&](int lane) { return lane % g.width < g.k ? lane / g.width * g.k + lane % g.width : 0; });
  auto const kept = kept_of(g);
  V db = hn::Zero(d);
  for (long task = all * part / g.parts; task < all * (part + 1) / g.parts; ++task) {
    int const image = int(task / g.bands), begin = int(task % g.bands) * g.band, end = begin + g.band < g.p ? begin + g.band : g.p;
    stage_x(g, image, begin * g.stride_h - g.pad_top, g.rows(end - begin), stage);
    float* to = dy;
    float const* from = g.dy + (long(image) * g.p + begin) * g.q * g.k;
    for (int p = begin; p < end; ++p)
      for (int i = 0; i < g.vectors; ++i, to += kLanes) {
        int const left = g.q - i * g.pixels, count = left < g.pixels ? left : g.pixels;
        hn::Store(hn::IfThenElseZero(kept, hn::TableLookupLanes(load_first(d, from, count * g.k), spread)), d, to);
        from += count * g.k;
      }
    for (float const* at = dy; at < to; at += kLanes) db = hn::Add(db, hn::LoadU(d, at));
    int const most = most_rows(g.s), pieces = (g.r + most - 1) / most;
    for (int piece = 0, r = 0; piece < pieces; ++piece) {
      int const count = g.r / pieces + (piece < g.r % pieces);
      add_taps_for(g.s, count)(g, stage + r * g.dilation_h * g.row_floats(), dy, end - begin, sums + long(r) * g.s * kLanes);
      r += count;
    }
  }
  hn::StoreU(db, d, sums + long(g.r * g.s) * kLanes);
}

}  // namespace

extern PixelGroupsKernels const pixel_groups_kernels{kLanes, forward, filter};
}  // namespace falconet::FALCONET_ISA

#else

#include <algorithm>
#include <limits>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/conv/algorithms.h"

namespace falconet {
namespace {

PixelGroups plan_of(ConvProblem const& p, Isa isa) {
  int const lanes = FALCONET_KERNELS(isa, pixel_groups_kernels).vector_lanes;
  PixelGroups g{};
  g.images = p.n, g.h = p.h, g.w = p.w, g.p = p.p(), g.q = p.q(), g.k = p.k, g.r = p.r, g.s = p.s;
  g.stride_h = p.stride_h, g.dilation_h = p.dilation_h, g.pad_top = p.pad_top, g.pad_left = p.pad_left;
  g.width = p.k <= 4 ? 4 : 8;
  g.pixels = std::max(1, lanes / g.width);
  g.vectors = (g.q + g.pixels - 1) / g.pixels;
  g.columns = (g.vectors + (g.s + g.pixels - 1) / g.pixels) * g.pixels;
  g.band = std::min(g.p, 12);
  auto const floats = [&] { return g.rows(g.band) * g.row_floats() + long(g.band) * g.vectors * lanes; };
  while (g.band > 1 && floats() > pixel_groups_stage) --g.band;
  g.bands = (g.p + g.band - 1) / g.band;
  g.band = (g.p + g.bands - 1) / g.bands;
  if (floats() > pixel_groups_stage || g.columns > pixel_groups_row) g.band = 0;
  g.parts = std::min(g.images * g.bands, 16);
  return g;
}

std::string reject(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.direction != Direction::fwd && p.direction != Direction::bwd_filter) return "needs fwd or bwd_filter";
  if (!p.one_type(DType::f32)) return "needs f32";
  if (p.layout != Layout::nhwc) return "needs nhwc";
  if (p.c != 1) return "needs one channel";
  if (p.s != 3 && p.s != 5 && p.s != 7) return "needs 3, 5 or 7 taps in a filter row";
  if (p.stride_w != 1 || p.dilation_w != 1) return "needs stride 1 and dilation 1 along rows";
  int const most = facts.isa == Isa::avx512 ? 8 : facts.isa == Isa::avx2 ? 4 : 0;
  if (p.k > most) return most ? "needs at most " + std::to_string(most) + " filters" : "needs AVX2";
  if (p.r * p.s > pixel_groups_taps) return "more than 128 taps";
  if (plan_of(p, facts.isa).band == 0) return "a row exceeds its buffer of 160 KiB";
  if (p.load_x != OnLoad{} || p.load_dy != OnLoad{}) return "slots on load";
  OnStore const& s = p.store;
  bool const known = s.act == Activation::none || s.act == Activation::relu || s.act == Activation::relu6;
  if (s.affine != Affine::none || s.residual || s.mask != Mask::none || s.stats != Stats::none || s.pool.kind != PoolSlot::none || !known) return "store slots are bias, relu and relu6";
  return {};
}

std::size_t scratch(ConvProblem const& p, Config const&) {
  return sizeof(float) * 16 * std::size_t(p.r * p.s + 1) * (p.direction == Direction::fwd ? 1 : 16);
}

// One core of 3.5 GHz at a third of its multiply-adds, half of them for lanes that are there.
double seconds(ConvProblem const& p, DeviceFacts const& facts) {
  double const lanes = facts.isa == Isa::avx512 ? 16 : 8, used = p.k / (p.k <= 4 ? 4.0 : 8.0);
  return std::max(p.operations() / (0.5 * 3.5e9 * 4 * lanes * used), bytes_of(p.operands()) / 12e9) + 2e-6;
}

void run(ConvProblem const& p, Config const&, ConvArgs const& args, View scratch, Stream& stream) {
  auto const& kernels = FALCONET_KERNELS(stream.isa(), pixel_groups_kernels);
  PixelGroups g = plan_of(p, stream.isa());
  int const lanes = kernels.vector_lanes, taps = p.r * p.s;
  g.x = args.x.as<float const>();
  if (p.direction == Direction::fwd) {
    float const* const w = args.w.as<float const>();
    float* const packed = scratch.as<float>();
    for (int t = 0; t < taps; ++t)
      for (int lane = 0; lane < lanes; ++lane) packed[t * lanes + lane] = lane % g.width < p.k ? w[lane % g.width * taps + t] : 0.0f;
    g.packed = packed;
    g.bias = p.store.bias ? args.bias.as<float const>() : nullptr;
    g.y = args.y.as<float>();
    g.least = p.store.act == Activation::none ? -std::numeric_limits<float>::infinity() : 0.0f;
    g.most = p.store.act == Activation::relu6 ? 6.0f : std::numeric_limits<float>::infinity();
    stream.threads().run(g.images * g.bands, [&](int task) { kernels.forward(g, task); });
    return;
  }
  g.dy = args.y.as<float const>();
  g.partial = scratch.as<float>();
  stream.threads().run(g.parts, [&](int part) { kernels.filter(g, part); });
  for (int k = 0; k < p.k; ++k)
    for (int t = 0; t <= taps; ++t) {
      float sum = 0;
      for (int part = 0; part < g.parts; ++part)
        for (int pixel = 0; pixel < g.pixels; ++pixel) sum += g.partial[(std::int64_t(part) * (taps + 1) + t) * lanes + pixel * g.width + k];
      if (t < taps) args.w.as<float>()[k * taps + t] = sum;
      else if (p.store.bias) args.bias.as<float>()[k] = sum;
    }
}

}  // namespace

Algorithm<ConvProblem> const conv_pixel_groups{.name = "pixel_groups", .target = DeviceKind::cpu, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run};

}  // namespace falconet

#endif
