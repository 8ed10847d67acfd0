// The definition of pooling and its gradients in plain loops, any layout; f64, f32 and bf16 storage. Sums are accumulated in f64, in
// the order of the loops, and rounded once.
#include <algorithm>
#include <cmath>

#include "falconet/ops/pool/algorithms.h"
#include "falconet/tensor/element.h"

namespace falconet {
namespace {

std::string reject(PoolProblem const& p, DeviceFacts const&) {
  if (p.type == DType::u8 || p.type == DType::i32) return "needs f64, f32 or bf16";
  return {};
}

// x, or what load_x makes of it.
double read_x(PoolProblem const& p, PoolArgs const& args, std::int64_t at, int c) {
  double const x = load_element(args.x, at);
  if (p.load_x == OnLoad{}) return x;
  double const scale = load_element(args.load_x, c), shift = load_element(args.load_x, p.c + c);
  double const z = activate(p.load_x.act, p.type == DType::f64 ? scale * x + shift : double(std::fmaf(float(scale), float(x), float(shift))));
  return p.type == DType::bf16 ? double(to_float(to_bf16(float(z)))) : z;
}

void forward(PoolProblem const& p, PoolArgs const& args, int n, int c, int row, int column) {
  double sum = 0, best = 0;
  int winner = -1;
  for (int r = 0; r < p.r; ++r)
    for (int s = 0; s < p.s; ++s) {
      int const h = row * p.stride_h - p.pad_top + r, w = column * p.stride_w - p.pad_left + s;
      if (h < 0 || h >= p.h || w < 0 || w >= p.w) continue;
      double const x = read_x(p, args, position(args.x.type, n, c, h, w), c);
      sum += x;
      if (winner < 0 || x > best || std::isnan(x)) best = x, winner = r * p.s + s;
    }
  auto const at = position(args.y.type, n, c, row, column);
  store_element(args.y, at, p.kind == PoolKind::max ? best : sum / p.divisor(row, column));
  if (args.winner) store_element(args.winner, at, winner);
}

double backward(PoolProblem const& p, PoolArgs const& args, int n, int c, int h, int w) {
  double sum = 0;
  // The last window that may hold the pixel, and how far back others may reach: only to save time, the test is inside.
  int const row_end = std::min(p.p, (h + p.pad_top) / p.stride_h + 1), column_end = std::min(p.q, (w + p.pad_left) / p.stride_w + 1);
  int const row_begin = std::max(0, (h + p.pad_top) / p.stride_h - (p.r - 1) / p.stride_h);
  int const column_begin = std::max(0, (w + p.pad_left) / p.stride_w - (p.s - 1) / p.stride_w);
  for (int row = row_begin; row < row_end; ++row)
    for (int column = column_begin; column < column_end; ++column) {
      int const r = h - (row * p.stride_h - p.pad_top), s = w - (column * p.stride_w - p.pad_left);
      if (r < 0 || r >= p.r || s < 0 || s >= p.s) continue;
      auto const at = position(args.y.type, n, c, row, column);
      double const dy = load_element(args.y, at);
      if (p.kind == PoolKind::average) sum += dy / p.divisor(row, column);
      else if (load_element(args.winner, at) == r * p.s + s) sum += dy;
    }
  return sum;
}
// The gradient of one channel, and what becomes of it.
void backward_channel(PoolProblem const& p, PoolArgs const& args, int c) {
  double dot = 0, total = 0;
  for (int n = 0; n < p.n; ++n)
    for (int h = 0; h < p.h; ++h)
      for (int w = 0; w < p.w; ++w) {
        double const d = backward(p, args, n, c, h, w);
        if (p.result == PoolResult::plain) {
          store_element(args.x, position(args.x.type, n, c, h, w), d);
          continue;
        }
        double const x = load_element(args.other, position(args.other.type, n, c, h, w));
        dot += d * x, total += d;
        if (p.result == PoolResult::sums) continue;
        auto const vector = [&](int row) { return load_element(args.vectors, std::int64_t(row) * p.c + c); };
        store_element(args.x, position(args.x.type, n, c, h, w), n < args.step->valid_count ? vector(0) * d + vector(1) * x + vector(2) : 0);
      }
  if (p.result == PoolResult::sums) store_element(args.sums, c, dot), store_element(args.sums, p.c + c, total);
}

void run(PoolProblem const& p, Config const&, PoolArgs const& args, View, Stream&) {
  for (int c = 0; c < p.c; ++c) {
    if (p.gradient) {
      backward_channel(p, args, c);
      continue;
    }
    for (int n = 0; n < p.n; ++n)
      for (int row = 0; row < p.p; ++row)
        for (int column = 0; column < p.q; ++column) forward(p, args, n, c, row, column);
  }
}

}  // namespace

Algorithm<PoolProblem> pool_reference() {
  return {.name = "reference", .target = DeviceKind::cpu, .reject = reject, .run = run, .baseline = true};
}

}  // namespace falconet
