// The sequential baseline: one window after the other on one core, in the type's own arithmetic (f32 for bf16), any layout.
//   max, average: for each element of y, a loop over its window; gradients: dx is cleared, then each window gives its dy away.
// Cost: n p q c r s steps of one element each; forwards x is read r s / (stride_h stride_w) times, all but once from the caches.
#include <cmath>

#include "falconet/ops/pool/algorithms.h"
#include "falconet/tensor/bf16.h"
#include "falconet/tensor/element.h"

namespace falconet {
namespace {

std::string reject(PoolProblem const& p, DeviceFacts const&) {
  if (p.load_x != OnLoad{} || p.result != PoolResult::plain) return "a batch norm in the same launch";
  if (p.type == DType::bf16 && p.gradient && (p.stride_h < p.r || p.stride_w < p.s)) return "of windows that overlap, bf16 would round each part of a sum";
  return p.type == DType::f32 || p.type == DType::bf16 ? "" : "needs f32 or bf16";
}

float get(float v) { return v; }
float get(bf16 v) { return to_float(v); }
void put(float& to, float v) { to = v; }
void put(bf16& to, float v) { to = to_bf16(v); }

template <class T>
void run_as(PoolProblem const& p, PoolArgs const& args) {
  T* const x = args.x.as<T>();
  T* const y = args.y.as<T>();
  auto const& xt = args.x.type;
  auto const& yt = args.y.type;
  bool const max = p.kind == PoolKind::max;
  if (p.gradient)
    for (std::int64_t i = 0, all = xt.shape.elements(); i < all; ++i) put(x[i], 0);
  for (int n = 0; n < p.n; ++n)
    for (int row = 0; row < p.p; ++row)
      for (int column = 0; column < p.q; ++column)
        for (int c = 0; c < p.c; ++c) {
          int const top = row * p.stride_h - p.pad_top, left = column * p.stride_w - p.pad_left, divisor = p.divisor(row, column);
          auto const at = position(yt, n, c, row, column);
          int winner = max && p.gradient ? int(load_element(args.winner, at)) : -1;
          float value = 0;
          for (int r = 0; r < p.r; ++r)
            for (int s = 0; s < p.s; ++s) {
              int const h = top + r, w = left + s;
              if (h < 0 || h >= p.h || w < 0 || w >= p.w) continue;
              T& pixel = x[position(xt, n, c, h, w)];
              if (p.gradient) {
                if (!max) put(pixel, get(pixel) + get(y[at]) / float(divisor));
                else if (winner == r * p.s + s) put(pixel, get(pixel) + get(y[at]));
              } else if (!max) {
                value += get(pixel);
              } else if (float const v = get(pixel); winner < 0 || v > value || std::isnan(v)) {
                value = v, winner = r * p.s + s;
              }
            }
          if (p.gradient) continue;
          put(y[at], max ? value : value / float(divisor));
          if (max && args.winner.data) store_element(args.winner, at, winner);
        }
}

double seconds(PoolProblem const& p, DeviceFacts const&) { return 4e-9 * p.operations() + 1e-9 * double(p.n) * p.c * p.h * p.w; }

void run(PoolProblem const& p, Config const&, PoolArgs const& args, View, Stream&) {
  p.type == DType::bf16 ? run_as<bf16>(p, args) : run_as<float>(p, args);
}

}  // namespace

Algorithm<PoolProblem> pool_naive() {
  return {.name = "naive", .target = DeviceKind::cpu, .reject = reject, .seconds = seconds, .run = run, .baseline = true};
}

}  // namespace falconet
