// The convolution that all others are compared with: plain nested loops in double precision, every direction, layout, element
// type and slot. Three steps: read the operands through their load slots into scratch, convolve there, write the result
// through its store slots. In scratch everything is double and lies as x(n,h,w,c), w(k,r,s,c/groups), y(n,p,q,k).
#include <cmath>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/conv/algorithms.h"
#include "falconet/tensor/element.h"

namespace falconet {
namespace {

double get(View const& v, std::int64_t i) { return load_element(v, i); }
// Where the element (n,c,h,w) of a rank-4 view lies.
std::int64_t at(View const& v, std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) { return position(v.type, n, c, h, w); }

// The three arrays in scratch.
struct Work {
  ConvProblem const& p;
  double *x_, *w_, *y_;
  int P, Q, CG, KG;   // output rows and columns, channels and filters of one group
  Work(ConvProblem const& problem, double* memory) : p(problem), P(p.p()), Q(p.q()), CG(p.c / p.groups), KG(p.k / p.groups) {
    x_ = memory;
    w_ = x_ + std::int64_t(p.n) * p.h * p.w * p.c;
    y_ = w_ + std::int64_t(p.k) * p.r * p.s * CG;
  }
  static std::size_t bytes(ConvProblem const& p) {
    return sizeof(double) * (std::size_t(p.n) * p.h * p.w * p.c + std::size_t(p.k) * p.r * p.s * (p.c / p.groups) + std::size_t(p.n) * p.p() * p.q() * p.k);
  }
  double& x(std::int64_t n, int h, int w, int c) const { return x_[((n * p.h + h) * p.w + w) * p.c + c]; }
  double& w(std::int64_t k, int r, int s, int c) const { return w_[((k * p.r + r) * p.s + s) * CG + c]; }
  double& y(std::int64_t n, int i, int j, int k) const { return y_[((n * P + i) * Q + j) * p.k + k]; }
};

void read_x(Work const& m, ConvArgs const& args, int n) {
  auto const& p = m.p;
  bool const affine = p.load_x.affine == Affine::scale_shift;
  for (int h = 0; h < p.h; ++h)
    for (int w = 0; w < p.w; ++w)
      for (int c = 0; c < p.c; ++c) {
        double v = get(args.x, at(args.x, n, c, h, w));
        if (affine) v = get(args.load_x, c) * v + get(args.load_x, p.c + c);
        m.x(n, h, w, c) = activate(p.load_x.act, v);
      }
}
// An f32 filter beside a bf16 image is a master copy: it counts as rounded to bf16.
void read_w(Work const& m, ConvArgs const& args, int k) {
  bool const rounds = m.p.x_type == DType::bf16 && m.p.w_type == DType::f32;
  for (int r = 0; r < m.p.r; ++r)
    for (int s = 0; s < m.p.s; ++s)
      for (int c = 0; c < m.CG; ++c) m.w(k, r, s, c) = rounds ? double(to_float(to_bf16(float(get(args.w, at(args.w, k, c, r, s)))))) : get(args.w, at(args.w, k, c, r, s));
}
void read_dy(Work const& m, ConvArgs const& args, int n) {
  auto const& p = m.p;
  bool const affine = p.load_dy.affine == Affine::two_operand, unpool = p.load_dy.unpool.kind != PoolSlot::none;
  int const size = unpool ? p.load_dy.unpool.size : 1;
  for (int i = 0; i < m.P; ++i)
    for (int j = 0; j < m.Q; ++j)
      for (int k = 0; k < p.k; ++k) {
        double v = 0;                                       // rows and columns that no window covers have no gradient
        if (i / size < p.stored_p() && j / size < p.stored_q()) {
          auto const here = at(args.y, n, k, i / size, j / size);
          v = get(args.y, here);
          if (affine) v = get(args.load_dy, k) * v + get(args.load_dy, p.k + k) * get(args.load_dy_other, here) + get(args.load_dy, 2 * p.k + k);
          if (p.direction == Direction::bwd && args.step && n >= args.step->valid_count) v = 0;
          v = activate(p.load_dy.act, v);
          if (unpool) v = share_of_place(p.load_dy.unpool.kind, size, int(get(args.winner, here)), (i % size) * size + j % size, v);
        }
        m.y(n, i, j, k) = v;
      }
}

void convolve_fwd(Work const& m, int n, int k) {
  auto const& p = m.p;
  int const first = k / m.KG * m.CG;                        // first input channel of this filter's group
  for (int i = 0; i < m.P; ++i)
    for (int j = 0; j < m.Q; ++j) {
      double sum = 0;
      for (int r = 0; r < p.r; ++r)
        for (int s = 0; s < p.s; ++s) {
          int const h = i * p.stride_h - p.pad_top + r * p.dilation_h, w = j * p.stride_w - p.pad_left + s * p.dilation_w;
          if (h < 0 || h >= p.h || w < 0 || w >= p.w) continue;
          for (int c = 0; c < m.CG; ++c) sum += m.x(n, h, w, first + c) * m.w(k, r, s, c);
        }
      m.y(n, i, j, k) = sum;
    }
}
// dx: the adjoint of the forward loops, gathered: every (output, tap) pair that read this pixel.
void convolve_bwd_data(Work const& m, int n, int h) {
  auto const& p = m.p;
  for (int w = 0; w < p.w; ++w)
    for (int c = 0; c < p.c; ++c) {
      int const first = c / m.CG * m.KG;                    // first filter of this channel's group
      double sum = 0;
      for (int r = 0; r < p.r; ++r)
        for (int s = 0; s < p.s; ++s) {
          int const up = h + p.pad_top - r * p.dilation_h, left = w + p.pad_left - s * p.dilation_w;
          if (up < 0 || left < 0 || up % p.stride_h || left % p.stride_w) continue;
          int const i = up / p.stride_h, j = left / p.stride_w;
          if (i >= m.P || j >= m.Q) continue;
          for (int k = 0; k < m.KG; ++k) sum += m.y(n, i, j, first + k) * m.w(first + k, r, s, c % m.CG);
        }
      m.x(n, h, w, c) = sum;
    }
}
void convolve_bwd_filter(Work const& m, int k) {
  auto const& p = m.p;
  int const first = k / m.KG * m.CG;
  for (int r = 0; r < p.r; ++r)
    for (int s = 0; s < p.s; ++s) {
      for (int c = 0; c < m.CG; ++c) m.w(k, r, s, c) = 0;
      for (int n = 0; n < p.n; ++n)
        for (int i = 0; i < m.P; ++i)
          for (int j = 0; j < m.Q; ++j) {
            int const h = i * p.stride_h - p.pad_top + r * p.dilation_h, w = j * p.stride_w - p.pad_left + s * p.dilation_w;
            if (h < 0 || h >= p.h || w < 0 || w >= p.w) continue;
            for (int c = 0; c < m.CG; ++c) m.w(k, r, s, c) += m.x(n, h, w, first + c) * m.y(n, i, j, k);
          }
    }
}

// Mask::of_x.
bool passes_x(ConvProblem const& p, ConvArgs const& args, std::int64_t here, int c) {
  double v = get(p.direction == Direction::bwd_data ? args.other : args.x, here);
  if (p.load_x.affine == Affine::scale_shift) {
    double const scale = get(args.load_x, c), shift = get(args.load_x, p.c + c);
    v = p.x_type == DType::f64 ? scale * v + shift : double(std::fmaf(float(scale), float(v), float(shift)));
  }
  return activation_derivative(p.load_x.act, v) != 0;
}

// The store slot's mask, for element `here` of channel c, pixel (i, j) of image n.
bool masked_out(ConvProblem const& p, ConvArgs const& args, std::int64_t here, int n, int c, int i, int j) {
  if (p.store.mask == Mask::of_x) return !passes_x(p, args, here, c);
  if (p.store.mask == Mask::bits) return (int(get(args.mask, at(args.mask, n, c / 8, i, j))) >> c % 8 & 1) == 0;
  return p.store.mask != Mask::none && !passes(p.store.mask, get(args.mask, here));
}

// Writes one channel of the result through the store slots and sums its statistics.
// value(n,i,j): the convolution at row i and column j; rows, columns: the result before pooling.
template <class Value>
void store_channel(ConvProblem const& p, ConvArgs const& args, View const& result, int channel, Value value) {
  OnStore const& slot = p.store;
  auto const& shape = result.type.shape;
  bool const average = slot.pool.kind == PoolSlot::average;
  int const size = slot.pool.kind != PoolSlot::none ? slot.pool.size : 1;
  double sum = 0, second = 0;
  for (int n = 0; n < p.n; ++n)
    for (int i = 0; i < shape[2]; ++i)
      for (int j = 0; j < shape[3]; ++j) {
        auto const here = at(result, n, channel, i, j);
        double best = 0;                           // or the sum of the window
        int winner = average ? 0 : no_winner;
        for (int r = 0; r < size; ++r)
          for (int s = 0; s < size; ++s) {
            double z = value(n, i * size + r, j * size + s);
            if (slot.affine == Affine::scale_shift) z = get(args.store_affine, channel) * z + get(args.store_affine, shape[1] + channel);
            if (slot.bias) z += get(args.bias, channel);
            if (slot.residual) z += get(args.residual, here);
            double v = activate(slot.act, z);
            if (masked_out(p, args, here, n, channel, i, j)) v = 0;
            if (average) {
              best += v;
              winner |= int(activation_derivative(slot.act, z) != 0) << (r * size + s);
            } else if (r + s == 0 || v > best || std::isnan(v)) {   // the first of equals wins; a NaN stays visible
              best = v;
              winner = activation_derivative(slot.act, z) != 0 ? r * size + s : no_winner;
            }
          }
        store_element(result, here, average ? best / (size * size) : best);
        double const stored = get(result, here);   // rounded to its type
        if (slot.pool.kind != PoolSlot::none) store_element(args.winner, here, winner);
        if (slot.stats == Stats::none || n >= args.step->valid_count) continue;
        sum += slot.stats == Stats::squares ? stored : stored * get(slot.stats == Stats::dot ? args.mask : slot.stats == Stats::dot_x && p.direction == Direction::bwd ? args.x : args.other, here);
        second += slot.stats == Stats::squares ? stored * stored : stored;
      }
  if (slot.stats == Stats::none) return;
  store_element(args.stats, channel, sum);
  store_element(args.stats, shape[1] + channel, second);
}

std::string reject(ConvProblem const&, DeviceFacts const&) { return {}; }
std::size_t scratch(ConvProblem const& p, Config const&) { return Work::bytes(p); }
double seconds(ConvProblem const& p, DeviceFacts const&) { return 1e-9 * p.operations(); }

void run(ConvProblem const& p, Config const&, ConvArgs const& args, View memory, Stream& stream) {
  Work const m(p, memory.as<double>());
  ThreadPool& threads = stream.threads();
  if (p.direction != Direction::bwd_data) threads.run(p.n, [&](int n) { read_x(m, args, n); });
  if (p.direction != Direction::bwd_filter) threads.run(p.k, [&](int k) { read_w(m, args, k); });
  if (p.direction != Direction::fwd) threads.run(p.n, [&](int n) { read_dy(m, args, n); });
  switch (p.direction) {
    case Direction::fwd:
      threads.run(p.n * p.k, [&](int task) { convolve_fwd(m, task / p.k, task % p.k); });
      threads.run(p.k, [&](int k) { store_channel(p, args, args.y, k, [&](int n, int i, int j) { return m.y(n, i, j, k); }); });
      break;
    case Direction::bwd_data:
      threads.run(p.n * p.h, [&](int task) { convolve_bwd_data(m, task / p.h, task % p.h); });
      threads.run(p.c, [&](int c) { store_channel(p, args, args.x, c, [&](int n, int h, int w) { return m.x(n, h, w, c); }); });
      break;
    case Direction::bwd_filter:
    case Direction::bwd:
      threads.run(p.k, [&](int k) {
        convolve_bwd_filter(m, k);
        View const& dw = p.direction == Direction::bwd ? args.dw : args.w;
        for (int r = 0; r < p.r; ++r)
          for (int s = 0; s < p.s; ++s)
            for (int c = 0; c < m.CG; ++c) store_element(dw, at(dw, k, c, r, s), m.w(k, r, s, c));
        if (!p.store.bias) return;
        double sum = 0;
        for (int n = 0; n < p.n; ++n)
          for (int i = 0; i < m.P; ++i)
            for (int j = 0; j < m.Q; ++j) sum += m.y(n, i, j, k);
        store_element(args.bias, k, sum);
      });
      if (p.direction == Direction::bwd_filter) break;
      threads.run(p.k, [&](int k) { read_w(m, args, k); });   // dw took its place in scratch
      threads.run(p.n * p.h, [&](int task) { convolve_bwd_data(m, task / p.h, task % p.h); });
      threads.run(p.c, [&](int c) { store_channel(p, args, args.dx, c, [&](int n, int h, int w) { return m.x(n, h, w, c); }); });
      break;
  }
}

}  // namespace

Algorithm<ConvProblem> const conv_reference{
    .name = "reference", .target = DeviceKind::cpu, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run, .baseline = true};

}  // namespace falconet
