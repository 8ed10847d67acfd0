// The filter gradient of `tiled`, 3x3:  dw(k, r, s, c) = sum over n, p, q of dy(n, p, q, k) * x(n, p * st - pad + r, q * st - pad + s, c)
// A thread keeps all 9 taps of 8 filters and one channel, 72 sums, while it runs along the pixels of a row of dy: a pixel brings 8 numbers of dy (the same
// for a warp) and, with stride 1, three of x (32 neighbouring channels for a warp); the other six of the 3x3 window are in registers from the pixels
// before. 11 words feed 72 multiply-adds. A block of 8 warps makes 64 filters by 32 channels; rows of dy and the three rows of x under each
// lie in shared memory as they lie in global memory, the next while the last are multiplied. The sum over all pixels is cut into equal parts for
// different blocks; a second kernel adds them in order.
// Limits: f32 nhwc, 3x3, stride 1 or 2, no dilation. Cost: 2 n k p q c 9 operations; x is read 3 k/64 times, dy c/32 times, from L2.
#include <algorithm>
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/copy_async.cuh"
#include "falconet/device/cuda/divide.cuh"
#include "falconet/ops/conv/cuda/tiled.cuh"

namespace falconet::tiled {
namespace {

constexpr int filters = 64, channels = 32, threads = 256, longest = 57;   // longest: pixels of one line, a multiple of 3

struct Work {
  int h, w, c, p, q, k, pad_h, pad_w, st_h;
  int pixels, per_row, lines, all_lines;   // pixels of a line; lines of a row of dy; lines of one stage; of all images
  int stages, part;
  bool wide_x, wide_dy;
  FastDivide by_per_row, by_p;
};

int up(int v, int of) { return (v + of - 1) / of; }
// Columns of x under the pixels of a line.
constexpr int under(int pixels, int step) { return (pixels - 1) * step + 3; }
int words_of_line(int pixels, int step) { return pixels * filters + 3 * under(pixels, step) * channels; }

template <int step>
__global__ void __launch_bounds__(threads, 2) tiled_filter(Work const g, float const* x, float const* dy, float* partial) {
  extern __shared__ __align__(16) float memory[];   // [2][lines]: dy [pixels][filters], x [3][under][channels]
  int const t = threadIdx.x, c0 = blockIdx.x * channels, k0 = blockIdx.y * filters, begin = blockIdx.z * g.part, end = min(g.stages, begin + g.part);
  int const wide = under(g.pixels, step), line_words = g.pixels * filters + 3 * wide * channels, buffer = g.lines * line_words;
  auto const copy = [&](int stage) {
    for (int l = 0; l < g.lines; ++l) {
      float* const to = memory + (stage & 1) * buffer + l * line_words;
      int const line = stage * g.lines + l;
      bool const exists = line < g.all_lines;
      int piece, row;
      int const n = g.by_p(g.by_per_row(exists ? line : 0, piece), row), q0 = piece * g.pixels;
      float const* const from = dy + (n * g.p + row) * g.q * g.k + k0;
      if (g.wide_dy) {
        for (int i = t; i < g.pixels * (filters / 4); i += threads) {
          int const k = i % (filters / 4) * 4, q = q0 + i / (filters / 4);
          bool const good = exists && q < g.q && k0 + k < g.k;
          copy_async<16>(to + i * 4, good ? from + q * g.k + k : dy, good);
        }
      } else {
        for (int i = t; i < g.pixels * filters; i += threads) {
          int const k = i % filters, q = q0 + i / filters;
          bool const good = exists && q < g.q && k0 + k < g.k;
          copy_async<4>(to + i, good ? from + q * g.k + k : dy, good);
        }
      }
      float* const under_it = to + g.pixels * filters;
      for (int r = 0; r < 3; ++r) {
        int const h = row * g.st_h - g.pad_h + r;
        bool const in_rows = exists && unsigned(h) < unsigned(g.h);
        int const first = q0 * step - g.pad_w;
        float const* const image = x + (n * g.h + h) * g.w * g.c + c0;
        if (g.wide_x) {
          for (int i = t; i < wide * (channels / 4); i += threads) {
            int const c = i % (channels / 4) * 4, w = first + i / (channels / 4);
            bool const good = in_rows && unsigned(w) < unsigned(g.w) && c0 + c < g.c;
            copy_async<16>(under_it + r * wide * channels + i * 4, good ? image + w * g.c + c : x, good);
          }
        } else {
          for (int i = t; i < wide * channels; i += threads) {
            int const c = i % channels, w = first + i / channels;
            bool const good = in_rows && unsigned(w) < unsigned(g.w) && c0 + c < g.c;
            copy_async<4>(under_it + r * wide * channels + i, good ? image + w * g.c + c : x, good);
          }
        }
      }
    }
  };

  int const c = t % 32, k8 = t / 32 * 8;
  float sum[9][8] = {};
  if (begin < end) copy(begin);
  for (int stage = begin; stage < end; ++stage) {
    copy_async_wait();
    __syncthreads();
    if (stage + 1 < end) copy(stage + 1);
    for (int l = 0; l < g.lines; ++l) {
      float const* const d = memory + (stage & 1) * buffer + l * line_words + k8;
      float const* const u = memory + (stage & 1) * buffer + l * line_words + g.pixels * filters + c;
      float window[3][3];   // column j of x lies in [.][j % 3]
      if (step == 1)
#pragma unroll
        for (int r = 0; r < 3; ++r) window[r][0] = u[r * wide * channels], window[r][1] = u[(r * wide + 1) * channels];
      for (int q = 0; q < g.pixels; q += 3)
#pragma unroll
        for (int i = 0; i < 3; ++i) {
          float4 const low = *reinterpret_cast<float4 const*>(d + (q + i) * filters), high = *reinterpret_cast<float4 const*>(d + (q + i) * filters + 4);
          float const v[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
          for (int r = 0; r < 3; ++r) {
            if (step == 1) window[r][(i + 2) % 3] = u[(r * wide + q + i + 2) * channels];
            else
#pragma unroll
              for (int s = 0; s < 3; ++s) window[r][(i + s) % 3] = u[(r * wide + (q + i) * step + s) * channels];
#pragma unroll
            for (int s = 0; s < 3; ++s)
#pragma unroll
              for (int k = 0; k < 8; ++k) sum[r * 3 + s][k] = fmaf(window[r][(i + s) % 3], v[k], sum[r * 3 + s][k]);
          }
        }
    }
  }
  if (c0 + c >= g.c) return;
#pragma unroll
  for (int k = 0; k < 8; ++k)
#pragma unroll
    for (int tap = 0; tap < 9; ++tap)
      if (k0 + k8 + k < g.k) partial[((std::int64_t(blockIdx.z) * g.k + k0 + k8 + k) * 9 + tap) * g.c + c0 + c] = sum[tap][k];
}

// dw = the parts' sums in order: thread (x, y) adds every eighth part from y on, then the eight are added.
__global__ void __launch_bounds__(threads) add_filter_parts(float const* partial, int parts, int elements, float* dw) {
  __shared__ float sums[8][32];
  int const element = blockIdx.x * 32 + threadIdx.x;
  float sum = 0;
  if (element < elements)
    for (int i = threadIdx.y; i < parts; i += 8) sum += partial[std::int64_t(i) * elements + element];
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || element >= elements) return;
  for (int i = 1; i < 8; ++i) sum += sums[i][threadIdx.x];
  dw[element] = sum;
}

Work work_of(ConvProblem const& p) {
  Work g{};
  g.h = p.h, g.w = p.w, g.c = p.c, g.p = p.p(), g.q = p.q(), g.k = p.k, g.pad_h = p.pad_top, g.pad_w = p.pad_left, g.st_h = p.stride_h;
  int const most = p.stride_w == 1 ? longest : 27;
  g.per_row = up(g.q, most);
  g.pixels = up(up(g.q, g.per_row), 3) * 3;
  g.per_row = up(g.q, g.pixels);
  g.all_lines = p.n * g.p * g.per_row;
  g.lines = std::clamp(std::min(most / g.pixels, 18), 1, g.all_lines);   // 18: 95 KiB of shared memory, which every card has
  g.stages = up(g.all_lines, g.lines);
  int const tiles = up(p.k, filters) * up(p.c, channels), wanted = std::clamp(264 / tiles, 1, g.stages);
  g.part = up(g.stages, wanted);
  g.wide_x = p.c % 4 == 0, g.wide_dy = p.k % 4 == 0;
  g.by_per_row = FastDivide(g.per_row), g.by_p = FastDivide(g.p);
  return g;
}
std::size_t shared_bytes(Work const& g, int step) { return std::size_t(2) * g.lines * words_of_line(g.pixels, step) * sizeof(float); }

}  // namespace

std::string reject_filter(ConvProblem const& p) {
  if (p.r != 3 || p.s != 3) return "a filter gradient of other than 3x3";
  if (p.dilation_h != 1 || p.dilation_w != 1) return "the filter gradient's dilation";
  if (p.stride_w > 2) return "a stride of more than 2";
  if (!(p.store == OnStore{})) return "slots of the filter gradient";
  if (up(p.k, filters) > 65535) return "more filters than a grid has rows";
  return {};
}
std::size_t scratch_filter(ConvProblem const& p) {
  Work const g = work_of(p);
  int const parts = up(g.stages, g.part);
  return parts > 1 ? std::size_t(parts) * p.k * 9 * p.c * sizeof(float) : 0;
}
double seconds_filter(ConvProblem const& p) {
  Work const g = work_of(p);
  double const blocks = double(up(p.k, filters)) * up(p.c, channels) * up(g.stages, g.part), each = double(std::min(g.part, g.stages)) * g.lines * g.pixels * 9 * filters * channels;
  return 7e-6 + std::ceil(blocks / 264) * (each * std::min(2.0, std::ceil(blocks / 132)) / (128 * 1.7e9 * 0.65) + 1e-6) + 2 * double(scratch_filter(p)) / 2e12;
}
void run_filter(ConvProblem const& p, ConvArgs const& args, View memory, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  Work const g = work_of(p);
  int const parts = up(g.stages, g.part);
  float* const sums = parts > 1 ? memory.as<float>() : args.w.as<float>();
  std::size_t const bytes = shared_bytes(g, p.stride_w);
  auto const launch = [&](auto kernel) {
    allow_shared_memory(kernel, int(bytes));
    kernel<<<dim3(unsigned(up(p.c, channels)), unsigned(up(p.k, filters)), unsigned(parts)), threads, bytes, stream>>>(g, args.x.as<float>(), args.y.as<float>(), sums);
  };
  p.stride_w == 1 ? launch(tiled_filter<1>) : launch(tiled_filter<2>);
  if (parts > 1) {
    int const elements = p.k * 9 * p.c;
    add_filter_parts<<<unsigned(up(elements, 32)), dim3(32, 8), 0, stream>>>(sums, parts, elements, args.w.as<float>());
  }
  check_launch("conv tiled, filter gradient", p, stream);
}

}  // namespace falconet::tiled
