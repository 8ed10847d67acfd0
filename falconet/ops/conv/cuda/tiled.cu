// Direct convolution for many channels, in f32 on the ordinary cores: tiles in shared memory, results in registers, neighbouring pixels together.
//   forward        y(a, b, k)  = sum over i, j, c of x(a * st - pad + i * d, b * st - pad + j, c) * w(k, i, j, c)
//   data gradient  dx(a, b, c) = sum over i, j, k of dy(a - (R-1-pad) + i, b - (S-1-pad) + j, k) * w(k, R-1-i, S-1-j, c); with a stride the pixels of dx
//                  fall into stride x stride classes, each such a convolution with the taps that reach it (README.md), each a launch of its own
// A thread makes 8 neighbouring pixels of a row times 8 channels of the result, 64 sums in registers. For one channel of the source it reads the window
// of 7 * st + S pixels under its 8 from shared memory once, and each of the S taps of a filter row uses it moved by one: with S = 3, 10 pixels and 24
// weights feed 192 multiply-adds, 0.18 words each, where a matrix product of the same tile needs 0.25 and the unfolded matrix of implicit_gemm
// reads every pixel S times. Pixels lie in shared memory as in global memory, so that copies are of 16 bytes, and two channels are read at a time. 16 groups of 8 pixels, taken from any rows and images, are a block's tile, so that small maps fill it; it is 128 or 64 channels
// of the result wide. A stage is one filter row of 4 to 16 source channels; the next is copied while the last is multiplied. Too few tiles: the sum is cut into
// parts, added in order by a second kernel. The filter of the forward direction is brought into the order (r,s,c,k) first, or once (`prepare`).
// The filter gradient is in tiled_filter.cu.
// Limits: f32 nhwc, no groups, filters of 1, 3, 5 or 7 columns without dilation along them, stride 1 or 2 along them. Cost: 2 n k p q c r s operations.
// Source of the idea: the register blocking of Garg, Joshi and Sahu's direct forms and the spatial locality asked for in "Parallelizing
// Convolutional Neural Networks using NVIDIA's CUDA architecture"; related: Georganas et al., SC 2018.
#include "falconet/ops/conv/cuda/tiled.cuh"

#include <algorithm>
#include <cmath>

#include "falconet/base/error.h"
#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/copy_async.cuh"
#include "falconet/device/cuda/divide.cuh"
#include "falconet/ops/conv/cuda/algorithms.h"

namespace falconet {
namespace {

constexpr int per = 8, groups = 16;            // pixels of a thread, and groups of them in a block's tile

// One convolution as the kernel sees it: results in a grid of rows and columns that may be spread (a class of a strided data gradient).
struct Work {
  int source_h, source_w, in;                  // the source image
  int rows, columns, out;                      // results of an image that this launch makes
  int row_step, row_first, column_step, column_first, result_h, result_w;   // where they lie in the result
  int source_step_h, source_step_w, dilation, off_h, off_w;                 // result (a,b), tap (i,j): source row a*step + i*dilation + off, column b*step + j + off
  int taps_h;
  int w_first, w_row, w_tap, w_in;             // elements from a tap to the next, and of one source channel to the next; `out` lies together
  int all_groups;                              // images * rows * groups of a row
  int stages, part;                            // stages of the whole sum, and of one block
  bool wide, wide_in;                          // `out`, `in` are multiples of 4
  FastDivide by_groups, by_rows, by_taps_h;
};
struct Store {
  float const *scale_shift, *bias, *residual, *mask;
  Activation act;
  bool relu6_mask, any;
};

__device__ __forceinline__ float finished(Store const& s, float v, int channel, int channels, std::int64_t at) {
  if (s.scale_shift) v = s.scale_shift[channel] * v + s.scale_shift[channels + channel];
  if (s.bias) v += s.bias[channel];
  if (s.residual) v += s.residual[at];
  if (s.act != Activation::none) v = activate(s.act, v);
  return !s.mask || passes(s.relu6_mask ? Mask::relu6 : Mask::relu, s.mask[at]) ? v : 0;
}

// S: taps of a filter row; step: columns of the source from a pixel to the next (of S = 1 any, and the window holds only what is read).
template <int S, int step, int tile, int channels>
struct Shape {
  static constexpr int threads = tile * 2, window = S == 1 ? per : (per - 1) * step + S, places = groups * window;
  static constexpr int together = S == 1 ? 4 : 2;                          // channels of the source that a thread holds at a time
  static constexpr int pitch = channels + 4;                               // words of a place: windows of different groups then lie in different banks
  static constexpr int source = places * pitch, filter = S * channels * (tile + 4), stage = source + filter;   // words
  static constexpr int words = std::max(2 * stage + 2 * places, groups * per * tile);   // with the table of places; or a tile of results
};

template <int S, int step, int tile, int channels>
__global__ void __launch_bounds__(tile * 2, tile == 128 ? 2 : S == 1 ? 3 : 4) tiled(Work const g, float const* source, float const* filter, Store const store, float* result, float* partial) {
  using Is = Shape<S, step, tile, channels>;
  extern __shared__ __align__(16) float memory[];                         // [2][stage]: source [places][pitch], filter [S][channels][tile + 4]; then the places
  int2* const places = reinterpret_cast<int2*>(memory + 2 * Is::stage);   // of the windows: first word in the source of row 0, and the row of tap 0
  int const t = threadIdx.x, out0 = blockIdx.y * tile, begin = blockIdx.z * g.part, end = min(g.stages, begin + g.part);

  for (int place = t; place < Is::places; place += Is::threads) {
    int chunk, row;
    int const j = place % Is::window, index = min(int(blockIdx.x) * groups + place / Is::window, g.all_groups - 1), n = g.by_rows(g.by_groups(index, chunk), row);
    int const column = S == 1 ? (chunk * per + j) * g.source_step_w + g.off_w : chunk * per * step + j + g.off_w;
    places[place] = make_int2((n * g.source_h * g.source_w + column) * g.in, unsigned(column) < unsigned(g.source_w) ? row * g.source_step_h + g.off_h : -(1 << 28));
  }
  __syncthreads();

  auto const copy = [&](int stage) {
    float* const to = memory + (stage & 1) * Is::stage;
    int i;
    int const c0 = g.by_taps_h(stage, i) * channels, down = i * g.dilation, line = g.source_w * g.in;
    if (g.wide_in) {
      int const c = t % (channels / 4) * 4;
      bool const in = c0 + c < g.in;
#pragma unroll
      for (int place = t / (channels / 4); place < Is::places; place += Is::threads / (channels / 4)) {
        int2 const at = places[place];
        int const row = at.y + down;
        bool const good = in && unsigned(row) < unsigned(g.source_h);
        copy_async<16>(to + place * Is::pitch + c, source + (good ? at.x + row * line + c0 + c : 0), good);
      }
    } else {
      int const c = t % channels;
      bool const in = c0 + c < g.in;
      for (int place = t / channels; place < Is::places; place += Is::threads / channels) {
        int2 const at = places[place];
        int const row = at.y + down;
        bool const good = in && unsigned(row) < unsigned(g.source_h);
        copy_async<4>(to + place * Is::pitch + c, source + (good ? at.x + row * line + c0 + c : 0), good);
      }
    }
    float const* const from = filter + g.w_first + i * g.w_row + c0 * g.w_in + out0;
    float* const w = to + Is::source;
    if (g.wide) {
      int const k = t % (tile / 4) * 4;
      bool const in = out0 + k < g.out;
#pragma unroll
      for (int e = t / (tile / 4); e < S * channels; e += 8) {             // 8 rows of the tile at a time
        int const c = e % channels, j = e / channels;
        bool const good = in && c0 + c < g.in;
        copy_async<16>(w + e * (tile + 4) + k, good ? from + j * g.w_tap + c * g.w_in + k : filter, good);
      }
    } else {
      for (int e = t; e < S * channels * tile; e += Is::threads) {
        int const k = e % tile, c = e / tile % channels, j = e / tile / channels;
        bool const good = c0 + c < g.in && out0 + k < g.out;
        copy_async<4>(w + (j * channels + c) * (tile + 4) + k, good ? from + j * g.w_tap + c * g.w_in + k : filter, good);
      }
    }
  };

  // A warp is 8 quads of channels times 4 groups: 128 bytes of filter and 4 windows for each of its loads.
  int const warp = t / 32, quads = tile / 8, lane = t % 32;
  int const quad = (warp % (quads / 8)) * 8 + lane % 8, group = warp / (quads / 8) * 4 + lane / 8;
  float sum[per][8] = {};
  if (begin < end) copy(begin);
  for (int stage = begin; stage < end; ++stage) {
    copy_async_wait();
    __syncthreads();
    if (stage + 1 < end) copy(stage + 1);
    float const* const x = memory + (stage & 1) * Is::stage + group * Is::window * Is::pitch;
    float const* const w = memory + (stage & 1) * Is::stage + Is::source + quad * 4;
#pragma unroll 1
    for (int c0 = 0; c0 < channels; c0 += Is::together) {
      float u[Is::together][Is::window];
#pragma unroll
      for (int j = 0; j < Is::window; ++j) {
        if constexpr (Is::together == 4) {
          float4 const v = *reinterpret_cast<float4 const*>(x + j * Is::pitch + c0);
          u[0][j] = v.x, u[1][j] = v.y, u[2][j] = v.z, u[3][j] = v.w;
        } else {
          float2 const v = *reinterpret_cast<float2 const*>(x + j * Is::pitch + c0);
          u[0][j] = v.x, u[1][j] = v.y;
        }
      }
#pragma unroll
      for (int c = 0; c < Is::together; ++c)
#pragma unroll
        for (int j = 0; j < S; ++j) {
          float const* const row = w + (j * channels + c0 + c) * (tile + 4);
          float4 const low = *reinterpret_cast<float4 const*>(row), high = *reinterpret_cast<float4 const*>(row + tile / 2);
          float const v[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
          for (int i = 0; i < per; ++i)
#pragma unroll
            for (int k = 0; k < 8; ++k) sum[i][k] = fmaf(u[c][S == 1 ? i : i * step + j], v[k], sum[i][k]);
        }
    }
  }

  std::int64_t const elements = std::int64_t(g.all_groups / (g.by_groups.divisor * g.by_rows.divisor)) * g.result_h * g.result_w * g.out;
  float* const to = partial ? partial + blockIdx.z * elements : result;
  auto const first_of = [&](int index) {   // element of the result at which a group's pixels begin, without their channels
    int chunk, row;
    int const n = g.by_rows(g.by_groups(index, chunk), row);
    return ((std::int64_t(n) * g.result_h + row * g.row_step + g.row_first) * g.result_w + chunk * per * g.column_step + g.column_first) * g.out;
  };
  auto const in_row = [&](int index) {     // of its 8 pixels, how many exist
    int chunk;
    g.by_groups(index, chunk);
    return min(per, g.columns - chunk * per);
  };
  if (g.wide && (partial || !store.any)) {
    int const index = blockIdx.x * groups + group, k = out0 + quad * 4;
    if (index >= g.all_groups) return;
    float* const at = to + first_of(index) + k;
    int const count = in_row(index);
#pragma unroll
    for (int i = 0; i < per; ++i) {
      if (i < count && k < g.out) *reinterpret_cast<float4*>(at + i * g.column_step * g.out) = make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
      if (i < count && k + tile / 2 < g.out) *reinterpret_cast<float4*>(at + i * g.column_step * g.out + tile / 2) = make_float4(sum[i][4], sum[i][5], sum[i][6], sum[i][7]);
    }
    return;
  }
  // Through shared memory, so that the slots are written once in a loop: 64 copies of them do not fit the instruction cache.
  __syncthreads();
#pragma unroll
  for (int i = 0; i < per; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      *reinterpret_cast<float4*>(memory + (group * per + i) * tile + half * (tile / 2) + quad * 4) =
          make_float4(sum[i][half * 4], sum[i][half * 4 + 1], sum[i][half * 4 + 2], sum[i][half * 4 + 3]);
  __syncthreads();
#pragma unroll 1
  for (int e = t; e < groups * per * tile; e += Is::threads) {
    int const k = out0 + e % tile, i = e / tile % per, index = blockIdx.x * groups + e / tile / per;
    if (index >= g.all_groups || k >= g.out || i >= in_row(index)) continue;
    std::int64_t const at = first_of(index) + std::int64_t(i) * g.column_step * g.out + k;
    to[at] = partial ? memory[e] : finished(store, memory[e], k, g.out, at);
  }
}

__global__ void __launch_bounds__(256) add_parts(float const* partial, int parts, std::int64_t elements, int channels, Store const store, float* result) {
  for (std::int64_t i = blockIdx.x * std::int64_t(256) + threadIdx.x; i < elements; i += gridDim.x * std::int64_t(256)) {
    float sum = 0;
#pragma unroll 4
    for (int part = 0; part < parts; ++part) sum += partial[part * elements + i];
    result[i] = finished(store, sum, int(i % channels), channels, i);
  }
}

// w[k][taps, c] -> [taps, c][k]: 32 x 32 at a time.
__global__ void __launch_bounds__(256) turn_filter(float const* w, int rows, int columns, float* turned) {
  __shared__ float part[32][33];
  int const r0 = blockIdx.x * 32, c0 = blockIdx.y * 32, x = threadIdx.x % 32, y = threadIdx.x / 32;
  for (int i = y; i < 32; i += 8)
    if (r0 + i < rows && c0 + x < columns) part[i][x] = w[std::int64_t(r0 + i) * columns + c0 + x];
  __syncthreads();
  for (int i = y; i < 32; i += 8)
    if (c0 + i < columns && r0 + x < rows) turned[std::int64_t(c0 + i) * rows + r0 + x] = part[x][i];
}

int up(int v, int of) { return (v + of - 1) / of; }
bool filter_gradient(ConvProblem const& p) { return p.direction == Direction::bwd_filter; }

// Taps of a filter row or column of which class `c` of a strided data gradient's pixels is reached, and the first of them.
struct Taps {
  int first, count;
};
Taps taps_of(int cls, int pad, int stride, int extent) {
  int const first = (cls + pad) % stride;      // tap r reaches pixel h where h + pad - r is a multiple of the stride
  return {first, first < extent ? up(extent - first, stride) : 0};
}

int columns_of_taps(ConvProblem const& p, int cls) { return p.direction == Direction::fwd ? p.s : taps_of(cls, p.pad_left, p.stride_w, p.s).count; }
int channels_of(int s) { return s == 1 ? 16 : s <= 4 ? 8 : 4; }

// The work of one launch: the forward convolution, or class (row, column) of the data gradient.
Work work_of(ConvProblem const& p, int row_class, int column_class) {
  Work g{};
  if (p.direction == Direction::fwd) {
    g.source_h = p.h, g.source_w = p.w, g.in = p.c, g.rows = p.p(), g.columns = p.q(), g.out = p.k;
    g.row_step = g.column_step = 1, g.result_h = p.p(), g.result_w = p.q();
    g.source_step_h = p.stride_h, g.source_step_w = p.stride_w, g.dilation = p.dilation_h, g.off_h = -p.pad_top, g.off_w = -p.pad_left;
    g.taps_h = p.r, g.w_row = p.s * p.c * p.k, g.w_tap = p.c * p.k, g.w_in = p.k;
  } else {
    Taps const r = taps_of(row_class, p.pad_top, p.stride_h, p.r), s = taps_of(column_class, p.pad_left, p.stride_w, p.s);
    g.source_h = p.p(), g.source_w = p.q(), g.in = p.k, g.out = p.c;
    g.rows = row_class < p.h ? up(p.h - row_class, p.stride_h) : 0, g.columns = column_class < p.w ? up(p.w - column_class, p.stride_w) : 0;
    g.row_step = p.stride_h, g.row_first = row_class, g.column_step = p.stride_w, g.column_first = column_class, g.result_h = p.h, g.result_w = p.w;
    g.source_step_h = g.source_step_w = 1, g.dilation = p.dilation_h;
    // Tap i of this launch is row first + (count - 1 - i) * stride of the filter, so that the source's rows go up with i.
    int const last_r = r.first + (r.count - 1) * p.stride_h, last_s = s.first + (s.count - 1) * p.stride_w;
    g.off_h = (row_class + p.pad_top - last_r * p.dilation_h) / p.stride_h, g.off_w = (column_class + p.pad_left - last_s) / p.stride_w;
    g.taps_h = s.count > 0 ? r.count : 0;
    g.w_first = (last_r * p.s + last_s) * p.c, g.w_row = -p.stride_h * p.s * p.c, g.w_tap = -p.stride_w * p.c, g.w_in = p.r * p.s * p.c;
  }
  int const in_row = up(g.columns, per), s = columns_of_taps(p, column_class);
  g.all_groups = p.n * g.rows * in_row;
  g.stages = g.taps_h * up(g.in, channels_of(std::max(s, 1)));
  g.wide = g.out % 4 == 0, g.wide_in = g.in % 4 == 0;
  g.by_groups = FastDivide(std::max(in_row, 1)), g.by_rows = FastDivide(std::max(g.rows, 1)), g.by_taps_h = FastDivide(std::max(g.taps_h, 1));
  return g;
}

// Parts of the sum of one launch, so that the card is filled; a part is at least 8 stages.
int parts_of(ConvProblem const& p, Work const& g, int tile) {
  int const tiles = std::max(1, up(g.all_groups, groups) * up(g.out, tile)), room = 132 * (tile == 128 ? 2 : 4);
  bool const classes = p.direction == Direction::bwd_data && (p.stride_h > 1 || p.stride_w > 1);   // their results lie apart: whole sums only
  return classes || tiles * 2 > room ? 1 : std::clamp(room / tiles, 1, std::max(1, g.stages / 8));
}
std::size_t turned_bytes(ConvProblem const& p) { return p.direction == Direction::fwd ? (std::size_t(p.k) * p.c * p.r * p.s * sizeof(float) + 255) / 256 * 256 : 0; }
std::size_t result_elements(ConvProblem const& p) { return p.direction == Direction::fwd ? std::size_t(p.n) * p.k * p.p() * p.q() : std::size_t(p.n) * p.c * p.h * p.w; }

std::string reject(ConvProblem const& p, DeviceFacts const&) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (!p.one_type(DType::f32)) return "f32 only";
  if (p.layout != Layout::nhwc) return "nhwc only";
  if (p.groups != 1) return "groups";
  if (p.load_x != OnLoad{} || p.load_dy != OnLoad{}) return "slots of x or dy";
  auto const& s = p.store;
  if (s.pool.kind != PoolSlot::none || s.stats != Stats::none || s.affine == Affine::two_operand) return "pooling or statistics of the result";
  constexpr std::int64_t most = std::int64_t(1) << 31;
  if (std::int64_t(p.n) * p.c * p.h * p.w >= most || std::int64_t(p.n) * p.k * p.p() * p.q() >= most || std::int64_t(p.k) * p.c * p.r * p.s >= most) return "2^31 elements or more";
  if (filter_gradient(p)) return tiled::reject_filter(p);
  if (p.s != 1 && p.s != 3 && p.s != 5 && p.s != 7) return "filters of 1, 3, 5 or 7 columns only";
  if (p.dilation_w != 1 && p.s != 1) return "dilation along rows";
  if (p.stride_w > 2 && p.s != 1) return "a stride of more than 2";
  if (p.direction == Direction::bwd_data && s.bias) return "the data gradient has no bias";
  if (p.direction == Direction::bwd_data && p.dilation_h != 1 && p.stride_h != 1) return "a dilated data gradient with stride";
  if (std::max(p.k, p.c) > 65535 * 64) return "more channels than a grid has rows";
  return {};
}

template <class F>
void for_each_class(ConvProblem const& p, F const& f) {
  bool const data = p.direction == Direction::bwd_data;
  for (int i = 0; i < (data ? p.stride_h : 1); ++i)
    for (int j = 0; j < (data ? p.stride_w : 1); ++j)
      if (Work const g = work_of(p, i, j); g.all_groups > 0) f(g, std::max(columns_of_taps(p, j), 1));
}

double seconds_with(ConvProblem const& p, int tile) {
  double total = p.direction == Direction::fwd ? 3e-6 + double(turned_bytes(p)) / 1e12 : 0;
  for_each_class(p, [&](Work const& g, int s) {
    int const parts = parts_of(p, g, tile), room = 132 * (tile == 128 ? 2 : 4);
    double const blocks = double(up(g.all_groups, groups)) * up(g.out, tile) * parts;
    // A multiprocessor holds `resident` blocks; together they do 128 multiply-adds a clock, three quarters of the time.
    double const stages = up(g.stages, parts), work = stages * channels_of(s) * s * double(tile) * groups * per, resident = room / 132;
    total += 3e-6 + std::ceil(blocks / room) * (work * std::min(resident, std::ceil(blocks / 132)) / (128 * 1.7e9 * (s == 1 ? 0.6 : 0.72)) + 1e-6) +
             (parts > 1 ? 3e-6 + parts * 4.0 * double(result_elements(p)) / 2e12 : 0);
  });
  return total;
}
std::vector<Config> configs(ConvProblem const& p, DeviceFacts const&) {
  if (filter_gradient(p)) return {Config{}};
  if (p.s > 3) return {Config{{"channels", 64}}};
  std::vector<Config> out{Config{{"channels", 128}}, Config{{"channels", 64}}};
  if (seconds_with(p, 64) < seconds_with(p, 128)) std::swap(out[0], out[1]);
  return out;
}
double seconds(ConvProblem const& p, DeviceFacts const& facts) { return filter_gradient(p) ? tiled::seconds_filter(p) : seconds_with(p, configs(p, facts).front().get("channels", 64)); }

std::size_t partial_bytes(ConvProblem const& p, int tile) {
  int most = 1;
  for_each_class(p, [&](Work const& g, int) { most = std::max(most, parts_of(p, g, tile)); });
  return most > 1 ? std::size_t(most) * result_elements(p) * sizeof(float) : 0;
}
std::size_t scratch(ConvProblem const& p, Config const& c) { return filter_gradient(p) ? tiled::scratch_filter(p) : turned_bytes(p) + partial_bytes(p, c.get("channels", 64)); }
std::size_t prepared(ConvProblem const& p, Config const&) { return filter_gradient(p) ? 0 : turned_bytes(p); }
void prepare(ConvProblem const& p, Config const&, ConvArgs const& args, View to, Stream& on) {
  int const taps = p.r * p.s * p.c;
  turn_filter<<<dim3(unsigned(up(p.k, 32)), unsigned(up(taps, 32))), 256, 0, static_cast<cudaStream_t>(on.cuda())>>>(args.w.as<float>(), p.k, taps, to.as<float>());
  check_launch("conv tiled, its filter", p, static_cast<cudaStream_t>(on.cuda()));
}

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View memory, Stream& on) {
  if (filter_gradient(p)) return tiled::run_filter(p, args, memory, on);
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  bool const data = p.direction == Direction::bwd_data;
  int const tile = config.get("channels", 64);
  float* partial = memory.as<float>();
  float const* filter = args.w.as<float>();
  if (!data) {
    if (args.prepared.data) filter = args.prepared.as<float>();
    else {
      prepare(p, config, args, memory, on);
      filter = memory.as<float>();
      partial = reinterpret_cast<float*>(memory.as<char>() + turned_bytes(p));
    }
  }
  auto const& s = p.store;
  Store const store{s.affine != Affine::none ? args.store_affine.as<float>() : nullptr, s.bias ? args.bias.as<float>() : nullptr, s.residual ? args.residual.as<float>() : nullptr,
                    s.mask != Mask::none ? args.mask.as<float>() : nullptr, s.act, s.mask == Mask::relu6, !(s == OnStore{})};
  float const* const source = (data ? args.y : args.x).as<float>();
  float* const result = (data ? args.x : args.y).as<float>();
  for_each_class(p, [&](Work g, int taps) {
    int const wanted = parts_of(p, g, tile);
    g.part = std::max(1, up(g.stages, wanted));
    int const parts = std::max(1, up(g.stages, g.part));
    dim3 const grid(unsigned(up(g.all_groups, groups)), unsigned(up(g.out, tile)), unsigned(parts));
    auto const with = [&](auto kernel, int words, int threads) {
      allow_shared_memory(kernel, words * int(sizeof(float)));
      kernel<<<grid, threads, words * sizeof(float), stream>>>(g, source, filter, store, result, parts > 1 ? partial : nullptr);
    };
    bool launched = false;
    auto const choose = [&]<int S, int step, int channels>() {
      if (taps != S || (S > 1 && g.source_step_w != step)) return;
      if constexpr (S <= 3) {
        if (tile == 128) with(tiled<S, step, 128, channels>, Shape<S, step, 128, channels>::words, 256);
      }
      if (tile == 64) with(tiled<S, step, 64, channels>, Shape<S, step, 64, channels>::words, 128);
      launched = true;
    };
    choose.template operator()<1, 1, 16>();
    choose.template operator()<2, 1, 8>();
    choose.template operator()<3, 1, 8>();
    choose.template operator()<3, 2, 8>();
    choose.template operator()<4, 1, 8>();
    choose.template operator()<5, 1, 4>();
    choose.template operator()<5, 2, 4>();
    choose.template operator()<7, 1, 4>();
    choose.template operator()<7, 2, 4>();
    if (!launched) fail(ErrorKind::internal, "tiled has no kernel for '" + p.text() + "'");
    if (parts > 1) {
      auto const elements = std::int64_t(result_elements(p));
      add_parts<<<unsigned(std::min<std::int64_t>((elements + 255) / 256, 1 << 16)), 256, 0, stream>>>(partial, parts, elements, g.out, store, result);
    }
  });
  check_launch("conv tiled", p, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_tiled{.name = "tiled", .target = DeviceKind::cuda, .reject = reject, .configs = configs, .scratch = scratch, .seconds = seconds, .run = run,
                                             .prepares = "w", .prepared = prepared, .prepare = prepare};

}  // namespace falconet
