// The filter gradient of `tiled` for 1x1 filters:  dw(k, c) = sum over n, p, q of dy(n, p, q, k) * x(n, p * st - pad, q * st - pad, c)
// No tap shares a pixel with another, so what is left is a product of two tall matrices over all pixels. A thread makes 4 or 8 filters by 4 or 8 channels, a
// block of 256 threads 64 or 128 by 64 or 128 of them; slabs of 16 pixels lie in shared memory as in global memory, the next while one is multiplied: 16 words
// for 64 multiply-adds. The sum over all pixels is cut into equal parts for different blocks; a second kernel adds them in order.
// Limits: f32 nhwc. Cost: 2 n k p q c operations; x is read k/128 times, dy c/128 times, from L2.
#include <algorithm>
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/copy_async.cuh"
#include "falconet/device/cuda/divide.cuh"
#include "falconet/ops/conv/cuda/tiled.cuh"

namespace falconet::tiled {
namespace {

constexpr int threads = 256, slab = 16;   // pixels of a slab

struct Work {
  int h, w, c, k, st_h, st_w, pad_h, pad_w;
  int pixels, slabs, part;                // of dy; slabs of 16 of them; slabs of one block
  bool as_it_lies;                        // pixel i of dy reads pixel i of x
  bool wide_x, wide_dy;
  FastDivide by_q, by_p;
};

int up(int v, int of) { return (v + of - 1) / of; }

// A tile of 64 * fk filters by 64 * fc channels; a thread 4 * fk by 4 * fc.
template <int fk, int fc>
__global__ void __launch_bounds__(threads, fk * fc == 4 ? 2 : fk * fc == 2 ? 3 : 4) tiled_pointwise_filter(Work const g, float const* x, float const* dy, float* partial) {
  constexpr int filters = 64 * fk, channels = 64 * fc;
  __shared__ __align__(16) float a[2][slab][filters], b[2][slab][channels];
  int const t = threadIdx.x, c0 = blockIdx.x * channels, k0 = blockIdx.y * filters, begin = blockIdx.z * g.part, end = min(g.slabs, begin + g.part);
  // Where pixel i of dy lies in x, or -1.
  auto const source = [&](int i) {
    if (i >= g.pixels) return -1;
    if (g.as_it_lies) return i;
    int q, p;
    int const n = g.by_p(g.by_q(i, q), p), h = p * g.st_h - g.pad_h, w = q * g.st_w - g.pad_w;
    return unsigned(h) < unsigned(g.h) && unsigned(w) < unsigned(g.w) ? (n * g.h + h) * g.w + w : -1;
  };
  auto const copy = [&](int stage) {
    int const first = stage * slab, to = stage & 1;
    if (g.wide_dy) {
      for (int i = t; i < slab * filters / 4; i += threads) {
        int const k = i % (filters / 4) * 4, row = i / (filters / 4);
        bool const good = first + row < g.pixels && k0 + k < g.k;
        copy_async<16>(&a[to][row][k], good ? dy + std::int64_t(first + row) * g.k + k0 + k : dy, good);
      }
    } else {
      for (int i = t; i < slab * filters; i += threads) {
        int const k = i % filters, row = i / filters;
        bool const good = first + row < g.pixels && k0 + k < g.k;
        copy_async<4>(&a[to][row][k], good ? dy + std::int64_t(first + row) * g.k + k0 + k : dy, good);
      }
    }
    if (g.wide_x) {
      for (int i = t; i < slab * channels / 4; i += threads) {
        int const c = i % (channels / 4) * 4, row = i / (channels / 4), from = source(first + row);
        bool const good = from >= 0 && c0 + c < g.c;
        copy_async<16>(&b[to][row][c], good ? x + std::int64_t(from) * g.c + c0 + c : x, good);
      }
    } else {
      for (int i = t; i < slab * channels; i += threads) {
        int const c = i % channels, row = i / channels, from = source(first + row);
        bool const good = from >= 0 && c0 + c < g.c;
        copy_async<4>(&b[to][row][c], good ? x + std::int64_t(from) * g.c + c0 + c : x, good);
      }
    }
  };

  int const k4 = t / 16 * 4, c4 = t % 16 * 4;   // and 64 further on
  float sum[4 * fk][4 * fc] = {};
  if (begin < end) copy(begin);
  for (int stage = begin; stage < end; ++stage) {
    copy_async_wait();
    __syncthreads();
    if (stage + 1 < end) copy(stage + 1);
    auto const& d = a[stage & 1];
    auto const& u = b[stage & 1];
#pragma unroll
    for (int row = 0; row < slab; ++row) {
      float v[4 * fk], w[4 * fc];
#pragma unroll
      for (int f = 0; f < fk; ++f) {
        float4 const four = *reinterpret_cast<float4 const*>(&d[row][f * 64 + k4]);
        v[f * 4] = four.x, v[f * 4 + 1] = four.y, v[f * 4 + 2] = four.z, v[f * 4 + 3] = four.w;
      }
#pragma unroll
      for (int f = 0; f < fc; ++f) {
        float4 const four = *reinterpret_cast<float4 const*>(&u[row][f * 64 + c4]);
        w[f * 4] = four.x, w[f * 4 + 1] = four.y, w[f * 4 + 2] = four.z, w[f * 4 + 3] = four.w;
      }
#pragma unroll
      for (int k = 0; k < 4 * fk; ++k)
#pragma unroll
        for (int c = 0; c < 4 * fc; ++c) sum[k][c] = fmaf(v[k], w[c], sum[k][c]);
    }
  }
#pragma unroll
  for (int k = 0; k < 4 * fk; ++k) {
    int const filter = k0 + k / 4 * 64 + k4 + k % 4;
#pragma unroll
    for (int c = 0; c < 4 * fc; ++c)
      if (int const channel = c0 + c / 4 * 64 + c4 + c % 4; filter < g.k && channel < g.c) partial[(std::int64_t(blockIdx.z) * g.k + filter) * g.c + channel] = sum[k][c];
  }
}

struct Tile {
  int filters, channels;
};
Tile tile_of(ConvProblem const& p) { return {p.k > 64 ? 128 : 64, p.c > 64 ? 128 : 64}; }
int places(Tile t) { return t.filters * t.channels == 128 * 128 ? 264 : t.filters * t.channels == 64 * 64 ? 528 : 396; }   // blocks that an H200 holds at a time
Work work_of(ConvProblem const& p) {
  Work g{};
  g.h = p.h, g.w = p.w, g.c = p.c, g.k = p.k, g.st_h = p.stride_h, g.st_w = p.stride_w, g.pad_h = p.pad_top, g.pad_w = p.pad_left;
  g.pixels = p.n * p.p() * p.q();
  g.slabs = up(g.pixels, slab);
  Tile const t = tile_of(p);
  int const tiles = up(p.k, t.filters) * up(p.c, t.channels), wanted = std::clamp(places(t) / tiles, 1, up(g.slabs, 4));
  g.part = up(g.slabs, wanted);
  g.as_it_lies = p.stride_h == 1 && p.stride_w == 1 && p.p() == p.h && p.q() == p.w && p.pad_top == 0 && p.pad_left == 0;
  g.wide_x = p.c % 4 == 0, g.wide_dy = p.k % 4 == 0;
  g.by_q = FastDivide(p.q()), g.by_p = FastDivide(p.p());
  return g;
}

}  // namespace

std::string reject_pointwise_filter(ConvProblem const& p) {
  if (up(p.k, 64) > 65535) return "more filters than a grid has rows";
  return {};
}
std::size_t scratch_pointwise_filter(ConvProblem const& p) {
  Work const g = work_of(p);
  int const parts = up(g.slabs, g.part);
  return parts > 1 ? std::size_t(parts) * p.k * p.c * sizeof(float) : 0;
}
double seconds_pointwise_filter(ConvProblem const& p) {
  Work const g = work_of(p);
  Tile const t = tile_of(p);
  double const blocks = double(up(p.k, t.filters)) * up(p.c, t.channels) * up(g.slabs, g.part), each = double(std::min(g.part, g.slabs)) * slab * t.filters * t.channels;
  double const resident = std::min(double(places(t)) / 132, std::ceil(blocks / 132));
  return 6e-6 + std::ceil(blocks / places(t)) * (each * resident / (128 * 1.7e9 * 0.55) + 1e-6) + 2 * double(scratch_pointwise_filter(p)) / 2e12;
}
void run_pointwise_filter(ConvProblem const& p, ConvArgs const& args, View memory, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  Work const g = work_of(p);
  Tile const t = tile_of(p);
  int const parts = up(g.slabs, g.part);
  float* const sums = parts > 1 ? memory.as<float>() : args.w.as<float>();
  auto const launch = [&](auto kernel) {
    kernel<<<dim3(unsigned(up(p.c, t.channels)), unsigned(up(p.k, t.filters)), unsigned(parts)), threads, 0, stream>>>(g, args.x.as<float>(), args.y.as<float>(), sums);
  };
  if (t.filters == 128) t.channels == 128 ? launch(tiled_pointwise_filter<2, 2>) : launch(tiled_pointwise_filter<2, 1>);
  else t.channels == 128 ? launch(tiled_pointwise_filter<1, 2>) : launch(tiled_pointwise_filter<1, 1>);
  if (parts > 1) add_parts_of_filter(sums, parts, p.k * p.c, args.w.as<float>(), on);
  check_launch("conv tiled, filter gradient of 1x1", p, stream);
}

}  // namespace falconet::tiled
