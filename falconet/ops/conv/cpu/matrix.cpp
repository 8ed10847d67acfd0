// Convolution as matrix operations, one contraction over the channels for each tap of the filter (the "matrix operations" of Garg, Joshi and
// Sahu, "High Performance Convolutional Neural Networks"):
//
//   y(n,p,q,:) += x(n, p*stride - pad + r*dilation, q*stride - pad + s*dilation, :) w(:,r,s,:)^T         for every tap (r,s)
//
// Neither patches nor a padded image are made. Turned round, a pixel of x adds to one result of each tap: so a panel of pixels is packed
// once, multiplied with all taps, and added to neighbouring results. The data gradient is the same with the roles of x and dy exchanged; the
// filter gradient is in matrix_filter.cpp.
//
//   for each task = (image, band of result rows)                                     in parallel; nobody else adds to these rows
//     results = 0
//     for each piece of the filter (channels x results x all taps) that fits the second-level cache
//       for each panel of neighbouring pixels of the rows that reach the band: pack
//         for each tap: results of the panel, moved by the tap, += panel * w(tap)     ops/gemm/cpu/packed.h
//     store slots
//
// Cost: 2 n k p q (c/groups) r s operations; the results are read and written r s times per piece, from the second-level cache.
// Limits: f32, nhwc; slots bias, residual, activation and mask, and db. Any stride, padding, dilation and grouping.
#include "falconet/ops/conv/cpu/matrix_plan.h"

#include <algorithm>
#include <cstring>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/conv/algorithms.h"
#include "falconet/ops/gemm/cpu/packed.h"

namespace falconet {
namespace {

using namespace matrix;
using i64 = std::int64_t;
constexpr i64 max_width = 96;             // results of a piece of the filter
constexpr i64 piece_floats = 96 << 10;    // of a piece: 384 KiB
constexpr i64 max_piece = 512;            // channels
constexpr i64 band_floats = 96 << 10;     // of results
constexpr i64 least_tasks = 16;

// One axis: input positions i = phase + t * step, t whole, meet with tap f result (t * step_out + first(phase, f)).
struct Axis {
  int in, out, taps, stride, dilation, pad;
  bool transposed;
  int step() const { return transposed ? 1 : stride; }
  int step_out() const { return transposed ? stride : 1; }
  // False where the tap joins none of these positions with a result.
  bool first(int phase, int tap, int& result) const {
    if (transposed) return result = -pad + tap * dilation, true;
    int const at = phase + pad - tap * dilation;
    result = floor_divide(at, stride);
    return result * stride == at;
  }
  // Input positions that results [begin, end) may meet.
  int begin_in(int begin) const {
    return std::max(0, transposed ? floor_divide(begin + pad - (taps - 1) * dilation + stride - 1, stride) : begin * stride - pad);
  }
  int end_in(int end) const {
    return std::min(in, transposed ? floor_divide(end - 1 + pad, stride) + 1 : (end - 1) * stride - pad + (taps - 1) * dilation + 1);
  }
};

struct Split {
  Axis row, col;
  i64 groups, depth, outputs, taps;     // of one group
  i64 width, piece, wide;               // of a piece of the filter; outputs in whole blocks of 16
  int band, bands;
  i64 filter_floats() const { return groups * taps * depth * wide; }
};
Split split_of(ConvProblem const& p) {
  bool const data = p.direction == Direction::bwd_data;
  Split s;
  s.row = {data ? p.p() : p.h, data ? p.h : p.p(), p.r, p.stride_h, p.dilation_h, p.pad_top, data};
  s.col = {data ? p.q() : p.w, data ? p.w : p.q(), p.s, p.stride_w, p.dilation_w, p.pad_left, data};
  s.groups = p.groups;
  s.depth = (data ? p.k : p.c) / p.groups, s.outputs = (data ? p.c : p.k) / p.groups;
  s.taps = i64(p.r) * p.s;
  i64 const sixteens = divide_up(s.outputs, 16);
  s.width = divide_up(sixteens, divide_up(sixteens, max_width / 16)) * 16;
  s.wide = sixteens * 16;
  i64 const most = std::clamp<i64>(piece_floats / (s.taps * s.width), 16, max_piece);
  s.piece = divide_up(s.depth, divide_up(s.depth, most));
  i64 const by_size = std::max<i64>(1, band_floats / (i64(s.col.out) * s.outputs * s.groups));
  i64 const by_tasks = divide_up(s.row.out, divide_up(least_tasks, p.n));
  s.band = int(std::min<i64>(s.row.out, std::max<i64>(std::min(by_size, by_tasks), std::min(4, s.row.out))));
  s.bands = int(divide_up(s.row.out, s.band));
  return s;
}

void pack_filter(ConvProblem const& p, Split const& s, float const* w, GemmKernels const& gemm, float* packed, Stream& stream) {
  bool const data = p.direction == Direction::bwd_data;
  i64 const blocks = divide_up(s.wide, s.width), pieces = divide_up(s.depth, s.piece);
  stream.threads().run(int(s.groups * blocks * pieces), [&](int task) {
    i64 const group = task / (blocks * pieces), j = task / pieces % blocks * s.width, l = task % pieces * s.piece;
    i64 const width = std::min(s.width, s.outputs - j), whole = round_up(width, 16), count = std::min(s.piece, s.depth - l);
    float* to = packed + (group * s.wide + j) * s.taps * s.depth + l * s.taps * whole;
    for (i64 tap = 0; tap < s.taps; ++tap, to += count * whole) {
      if (data) gemm.pack_b({w + ((group * s.depth + l) * s.taps + tap) * s.outputs + j, false, s.taps * s.outputs, 1}, width, count, to, count, 0);
      else gemm.pack_b({w + ((group * s.outputs + j) * s.taps + tap) * s.depth + l, false, 1, s.taps * s.depth}, width, count, to, count, 0);
    }
  });
}

// Adds what the input pixels of one row, columns phase + t * step, have to add to the results of a band.
struct RowSum {
  Split const& s;
  GemmKernels const& gemm;
  float const* row;      // of input, first channel of the group and piece
  i64 pixel;             // floats between pixels of the input, and of the results
  i64 out_pixel;
  float* band;           // results: first channel of the group and block
  int first_row, rows;   // of the band
  float const* filter;   // packed: of the piece's first tap
  i64 count, width, whole;
  float* panel;

  void run(int h) const {
    int const most = gemm.rows[GemmPanels::of(int(divide_up(width, gemm.lanes)), gemm.max_vectors).widest()];
    int const step = s.col.step(), row_phase = h % s.row.step(), row_index = h / s.row.step();
    for (int phase = 0; phase < std::min(step, s.col.in); ++phase) {
      int const pixels = (s.col.in - phase + step - 1) / step;
      for (int t = 0; t < pixels; t += most) {
        int const n = std::min(most, pixels - t);
        bool packed = false;
        for (int r = 0; r < s.row.taps; ++r) {
          int result_row = 0;
          if (!s.row.first(row_phase, r, result_row)) continue;
          result_row += row_index * s.row.step_out() - first_row;
          if (result_row < 0 || result_row >= rows) continue;
          for (int f = 0; f < s.col.taps; ++f) {
            int first = 0;
            if (!s.col.first(phase, f, first)) continue;
            int const step_out = s.col.step_out();
            // Pixels [begin, end) of the panel have results within the row.
            int const begin = std::max(0, floor_divide(-first + step_out - 1, step_out) - t);
            int const end = std::min(n, floor_divide(s.col.out - 1 - first, step_out) + 1 - t);
            if (begin >= end) continue;
            if (!packed) gemm.pack_a({row + (phase + i64(t) * step) * pixel, false, 1, step * pixel}, n, n, count, panel), packed = true;
            GemmPanel g;
            g.rows = end - begin;
            g.k = count;
            g.columns = width;
            g.a = panel + begin;
            g.a_stride = n;
            g.b = filter + (i64(r) * s.col.taps + f) * count * whole;
            g.sums = band + (i64(result_row) * s.col.out + first + i64(t + begin) * step_out) * out_pixel;
            g.sums_stride = step_out * out_pixel;
            g.first = false;
            gemm.multiply(g);
          }
        }
      }
    }
  }
};

void run_gather(ConvProblem const& p, ConvArgs const& args, View scratch, Stream& stream) {
  Split const s = split_of(p);
  bool const data = p.direction == Direction::bwd_data;
  GemmKernels const& gemm = gemm_kernels_of(stream.isa());
  float* const filter = scratch.as<float>();
  pack_filter(p, s, args.w.as<float const>(), gemm, filter, stream);
  float const* const in = (data ? args.y : args.x).as<float const>();
  float* const out = (data ? args.x : args.y).as<float>();
  i64 const in_channels = s.groups * s.depth, out_channels = s.groups * s.outputs, out_row = i64(s.col.out) * out_channels;
  GemmStore store;
  store.y = out;
  store.stride = out_channels;
  store.bias = args.bias.as<float const>();
  store.residual = args.residual.data;
  store.mask = args.mask.data;
  store.act = int(p.store.act);

  stream.threads().run(p.n * s.bands, [&](int task) {
    int const image = task / s.bands, first = task % s.bands * s.band, rows = std::min(s.band, s.row.out - first);
    float panel[gemm_max_rows * max_piece];
    float* const band = out + (i64(image) * s.row.out + first) * out_row;
    std::memset(band, 0, std::size_t(rows * out_row) * sizeof(float));
    for (i64 group = 0; group < s.groups; ++group)
      for (i64 j = 0; j < s.outputs; j += s.width)
        for (i64 l = 0; l < s.depth; l += s.piece) {
          i64 const width = std::min(s.width, s.outputs - j), whole = round_up(width, 16), count = std::min(s.piece, s.depth - l);
          for (int h = s.row.begin_in(first); h < s.row.end_in(first + rows); ++h) {
            float const* const row = in + (i64(image) * s.row.in + h) * s.col.in * in_channels + group * s.depth + l;
            float const* const packed = filter + (group * s.wide + j) * s.taps * s.depth + l * s.taps * whole;
            RowSum{s, gemm, row, in_channels, out_channels, band + group * s.outputs + j, first, rows, packed, count, width, whole, panel}.run(h);
          }
        }
    if (p.store == OnStore{}) return;
    GemmFinish f;
    f.values = band;
    f.stride = out_channels;
    f.rows = i64(rows) * s.col.out;
    f.columns = out_channels;
    f.store = &store;
    f.row = (i64(image) * s.row.out + first) * s.col.out;
    gemm.finish(f);
  });
}

std::string reject(ConvProblem const& p, DeviceFacts const&) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (!p.one_type(DType::f32)) return "needs f32";
  if (p.layout != Layout::nhwc) return "needs nhwc";
  ConvProblem plain = p;
  plain.store.bias = false;
  if (p.direction == Direction::bwd_filter) return plain.plain() ? "" : "of the slots it has only db";
  plain.store.residual = false;
  if (plain.store.mask == Mask::relu) plain.store.mask = Mask::none;
  plain.store.act = Activation::none;
  return plain.plain() ? "" : "of the slots it has bias, residual, activation and mask";
}

std::size_t scratch(ConvProblem const& p, Config const&) {
  return p.direction == Direction::bwd_filter ? filter_scratch(p) : std::size_t(split_of(p).filter_floats()) * sizeof(float);
}

double seconds(ConvProblem const& p, DeviceFacts const& facts) {
  double const lanes = facts.isa == Isa::avx512 ? 16 : facts.isa == Isa::avx2 ? 8 : 1, per_cycle = facts.isa == Isa::plain ? 2 : 27;
  bool const data = p.direction == Direction::bwd_data, filter = p.direction == Direction::bwd_filter;
  double const depth = double(data ? p.k : p.c) / p.groups, columns = double(data || filter ? p.c : p.k) / p.groups;
  double const waste = double(divide_up(i64(columns), i64(lanes))) * lanes / columns;
  double const results = p.operations() / (2 * depth);   // sums that are read and written, once per tap and piece
  double const sums = filter ? 0 : results * waste / lanes * (columns < lanes ? 60 : 3) * std::max(1.0, depth / 100);
  return std::max((p.operations() * waste / per_cycle + sums + 4000) / 3.7e9, bytes_of(p.operands()) / 11e9);
}

void run(ConvProblem const& p, Config const&, ConvArgs const& args, View scratch, Stream& stream) {
  if (p.direction == Direction::bwd_filter) return filter_run(p, args, scratch, stream);
  run_gather(p, args, scratch, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_matrix{
    .name = "matrix", .target = DeviceKind::cpu, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run};

}  // namespace falconet
