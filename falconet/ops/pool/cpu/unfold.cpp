// Pooling as a reduction over patches, the counterpart of im2col: the windows of an output row are written out side by side, pixel after pixel,
// and then reduced; the gradient writes the patches' gradients out and adds them up where they overlap.
//   forward   patch[q, j, :] = x of window pixel j      y[q, :] = max or sum over j
//   gradient  patch[q, j, :] = dy[q, :] where j won, or dy / divisor      dx += patches, p then q then j ascending, per image
// Limits: f32, NHWC. Cost: r s copies of y's size are written and read once more; in return the reduction runs over whole rows of memory.
// It stands here for comparison: a window's pixels are in the first-level cache already, so the copy buys nothing.
#include <algorithm>
#include <cstring>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/pool/algorithms.h"

namespace falconet {
namespace {

std::string reject(PoolProblem const& p, DeviceFacts const&) {
  if (p.load_x != OnLoad{} || p.result != PoolResult::plain) return "a batch norm in the same launch";
  if (p.layout != Layout::nhwc) return "needs nhwc";
  return p.type == DType::f32 ? "" : "needs f32";
}

constexpr int most_tasks = 16;
int tasks_of(PoolProblem const& p) { return std::min(p.gradient ? p.n : p.n * p.p, most_tasks); }
std::int64_t patches(PoolProblem const& p) { return (std::int64_t(p.q) * p.r * p.s * p.c + 15) / 16 * 16; }
std::size_t scratch(PoolProblem const& p, Config const&) { return sizeof(float) * std::size_t(tasks_of(p) * patches(p)); }

struct Pixels {                                      // rows and columns [begin, end) of the image that a window holds
  int top, left, h0, h1, w0, w1;
};
Pixels window(PoolProblem const& p, int row, int column) {
  int const top = row * p.stride_h - p.pad_top, left = column * p.stride_w - p.pad_left;
  return {top, left, std::max(top, 0), std::min(top + p.r, p.h), std::max(left, 0), std::min(left + p.s, p.w)};
}

// The best of `count` pixels so far and where it was, for a few channels; without branches, so that it is done in vectors.
constexpr int few = 64;
void reduce(float const* __restrict from, float* __restrict best, std::int32_t* __restrict index, int count, int here) {
  for (int i = 0; i < count; ++i) {
    float const v = from[i];
    bool const better = bool(int(v > best[i]) | int(v != v));
    best[i] = better ? v : best[i];
    index[i] = better ? here : index[i];
  }
}

// Row `row` of y, counted over the batch.
void forward(PoolProblem const& p, PoolArgs const& args, int row, float* const patch) {
  std::int64_t const c = p.c;
  float const* const x = args.x.as<float const>() + row / p.p * c * p.h * p.w;
  bool const bytes = PoolProblem::winner_type(p.r, p.s) == DType::u8;
  for (int q = 0; q < p.q; ++q) {
    Pixels const v = window(p, row % p.p, q);
    float* to = patch + std::int64_t(q) * p.r * p.s * c;
    for (int h = v.h0; h < v.h1; ++h, to += (v.w1 - v.w0) * c)
      std::memcpy(to, x + (std::int64_t(h) * p.w + v.w0) * c, sizeof(float) * std::size_t((v.w1 - v.w0) * c));
  }
  for (int q = 0; q < p.q; ++q) {
    Pixels const v = window(p, row % p.p, q);
    std::int64_t const at = (std::int64_t(row) * p.q + q) * c;
    float* const y = args.y.as<float>() + at;
    float const* from = patch + std::int64_t(q) * p.r * p.s * c;
    if (p.kind == PoolKind::average) {
      for (std::int64_t i = 0; i < c; ++i) y[i] = 0;
      for (int pixel = 0; pixel < (v.h1 - v.h0) * (v.w1 - v.w0); ++pixel, from += c)
        for (std::int64_t i = 0; i < c; ++i) y[i] += from[i];
      for (std::int64_t i = 0; i < c; ++i) y[i] /= float(p.divisor(row % p.p, q));
      continue;
    }
    for (std::int64_t i = 0; i < c; i += few) {
      int const count = int(std::min<std::int64_t>(few, c - i)), columns = v.w1 - v.w0;
      std::int32_t index[few];
      std::memcpy(y + i, from + i, sizeof(float) * std::size_t(count));
      std::fill(index, index + count, (v.h0 - v.top) * p.s + v.w0 - v.left);
      for (int pixel = 1; pixel < (v.h1 - v.h0) * columns; ++pixel)
        reduce(from + pixel * c + i, y + i, index, count, (v.h0 - v.top + pixel / columns) * p.s + v.w0 - v.left + pixel % columns);
      if (!args.winner.data) continue;
      if (bytes) std::copy(index, index + count, args.winner.as<std::uint8_t>() + at + i);
      else std::copy(index, index + count, args.winner.as<std::int32_t>() + at + i);
    }
  }
}

void backward(PoolProblem const& p, PoolArgs const& args, int n, float* const patch) {
  std::int64_t const c = p.c;
  float* const dx = args.x.as<float>() + n * c * p.h * p.w;
  std::memset(dx, 0, sizeof(float) * std::size_t(c * p.h * p.w));
  bool const bytes = args.winner.data && args.winner.type.dtype == DType::u8;
  for (int row = 0; row < p.p; ++row) {
    for (int q = 0; q < p.q; ++q) {
      std::int64_t const at = ((std::int64_t(n) * p.p + row) * p.q + q) * c;
      float const* const dy = args.y.as<float const>() + at;
      float const share = p.kind == PoolKind::average ? 1.0f / float(p.divisor(row, q)) : 1.0f;
      for (int j = 0; j < p.r * p.s; ++j) {
        float* const to = patch + (std::int64_t(q) * p.r * p.s + j) * c;
        if (p.kind == PoolKind::average)
          for (std::int64_t i = 0; i < c; ++i) to[i] = dy[i] * share;
        else if (bytes)
          for (std::int64_t i = 0; i < c; ++i) to[i] = args.winner.as<std::uint8_t const>()[at + i] == j ? dy[i] : 0;
        else
          for (std::int64_t i = 0; i < c; ++i) to[i] = args.winner.as<std::int32_t const>()[at + i] == j ? dy[i] : 0;
      }
    }
    for (int q = 0; q < p.q; ++q) {
      Pixels const v = window(p, row, q);
      for (int h = v.h0; h < v.h1; ++h)
        for (int w = v.w0; w < v.w1; ++w) {
          float const* const from = patch + (std::int64_t(q) * p.r * p.s + (h - v.top) * p.s + w - v.left) * c;
          float* const to = dx + (std::int64_t(h) * p.w + w) * c;
          for (std::int64_t i = 0; i < c; ++i) to[i] += from[i];
        }
    }
  }
}

double seconds(PoolProblem const& p, DeviceFacts const&) { return bytes_of(p.operands()) / 10e9 + 2e-9 * p.operations(); }

void run(PoolProblem const& p, Config const&, PoolArgs const& args, View scratch_view, Stream& stream) {
  int const tasks = tasks_of(p), all = p.gradient ? p.n : p.n * p.p;
  stream.threads().run(tasks, [&](int task) {
    float* const patch = scratch_view.as<float>() + task * patches(p);
    for (int i = int(std::int64_t(all) * task / tasks); i < int(std::int64_t(all) * (task + 1) / tasks); ++i)
      p.gradient ? backward(p, args, i, patch) : forward(p, args, i, patch);
  });
}

}  // namespace

Algorithm<PoolProblem> pool_unfold() { return {.name = "unfold", .target = DeviceKind::cpu, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run}; }

}  // namespace falconet
