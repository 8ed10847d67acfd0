// The gradient by scattering, as the definition of backpropagation has it: dx is cleared, and every window adds its dy to the pixel that won
// (or its share to each of its pixels). Images are the tasks, so no two add to the same element and every sum has its order: p then q ascending.
// Limits: NHWC; f32, and bf16 where windows do not overlap (a sum would be rounded at each step). Cost: n p q c additions (average: times r s)
// at addresses that depend on the data, so no vectors; dx is written once and read and written again where a window gives.
#include <algorithm>
#include <cstring>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/pool/algorithms.h"
#include "falconet/tensor/bf16.h"

namespace falconet {
namespace {

std::string reject(PoolProblem const& p, DeviceFacts const&) {
  if (p.load_x != OnLoad{} || p.result != PoolResult::plain) return "a batch norm in the same launch";
  if (!p.gradient) return "is the gradient alone";
  if (p.layout != Layout::nhwc) return "needs nhwc";
  if (p.type == DType::bf16 && (p.stride_h < p.r || p.stride_w < p.s)) return "of windows that overlap, bf16 would round each part of a sum";
  return p.type == DType::f32 || p.type == DType::bf16 ? "" : "needs f32 or bf16";
}

float get(float v) { return v; }
float get(bf16 v) { return to_float(v); }
void put(float& to, float v) { to = v; }
void put(bf16& to, float v) { to = to_bf16(v); }

template <class T, class W>
void image(PoolProblem const& p, T const* dy, W const* winner, T* dx) {
  std::memset(static_cast<void*>(dx), 0, sizeof(T) * std::size_t(p.c) * std::size_t(p.h) * std::size_t(p.w));
  for (int row = 0; row < p.p; ++row)
    for (int column = 0; column < p.q; ++column, dy += p.c) {
      int const top = row * p.stride_h - p.pad_top, left = column * p.stride_w - p.pad_left;
      if (p.kind == PoolKind::max) {
        for (int c = 0; c < p.c; ++c) {
          int const won = int(winner[c]);
          if (won < 0 || won >= p.r * p.s) continue;
          int const h = top + won / p.s, w = left + won % p.s;
          if (h < 0 || h >= p.h || w < 0 || w >= p.w) continue;
          T& pixel = dx[(std::int64_t(h) * p.w + w) * p.c + c];
          put(pixel, get(pixel) + get(dy[c]));
        }
        winner += p.c;
        continue;
      }
      float const share = 1.0f / float(p.divisor(row, column));
      for (int h = std::max(top, 0); h < std::min(top + p.r, p.h); ++h)
        for (int w = std::max(left, 0); w < std::min(left + p.s, p.w); ++w) {
          T* const pixel = dx + (std::int64_t(h) * p.w + w) * p.c;
          for (int c = 0; c < p.c; ++c) put(pixel[c], get(pixel[c]) + get(dy[c]) * share);
        }
    }
}

template <class T, class W>
void run_as(PoolProblem const& p, PoolArgs const& args, Stream& stream) {
  std::int64_t const map = std::int64_t(p.p) * p.q * p.c, whole = std::int64_t(p.h) * p.w * p.c;
  W const* const winner = args.winner.as<W const>();
  stream.threads().run(p.n, [&](int n) { image(p, args.y.as<T const>() + n * map, winner ? winner + n * map : nullptr, args.x.as<T>() + n * whole); });
}

double seconds(PoolProblem const& p, DeviceFacts const&) {
  double const results = double(p.n) * p.p * p.q * p.c;
  return bytes_of(p.operands()) / 10e9 + (p.kind == PoolKind::max ? 2.5e-9 * results : 0.7e-9 * p.operations());
}

void run(PoolProblem const& p, Config const&, PoolArgs const& args, View, Stream& stream) {
  bool const wide = PoolProblem::winner_type(p.r, p.s) == DType::i32;
  if (p.type == DType::bf16) wide ? run_as<bf16, std::int32_t>(p, args, stream) : run_as<bf16, std::uint8_t>(p, args, stream);
  else wide ? run_as<float, std::int32_t>(p, args, stream) : run_as<float, std::uint8_t>(p, args, stream);
}

}  // namespace

Algorithm<PoolProblem> pool_scatter() { return {.name = "scatter", .target = DeviceKind::cpu, .reject = reject, .seconds = seconds, .run = run}; }

}  // namespace falconet
