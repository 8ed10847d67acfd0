// The filter gradient of `tiled`, rows of 3, 5 and 7 taps:  dw(k, r, s, c) = sum over n, p, q of dy(n, p, q, k) * x(n, p * st - pad + r, q * st - pad + s, c)
// A thread keeps `rows` x `taps` taps of 8 filters and one channel while it runs along the pixels of a row of dy: of 3x3 all 9, 72 sums, of others one
// filter row, 40 or 56. With 3x3 a pixel brings 8 numbers of dy (the same for a warp) and, with stride 1, three of x (32 neighbouring channels for a warp); the
// other six of the 3x3 window are in registers from the pixels before. 11 words feed 72 multiply-adds; 9 words 40 of a row of 5. A block of 8 warps makes 64
// filters by 32 channels; rows of dy and the rows of x under each lie in shared memory as they lie in global memory, the next while the last are multiplied.
// The sum over all pixels is cut into equal parts for different blocks; a second kernel adds them in order. 1x1: tiled_pointwise.cu.
// Limits: f32 nhwc, rows of 3, 5 or 7 taps, stride 1 or 2 along them, no dilation. Cost: 2 n k p q c r s operations; x is read `rows` k/64 times for each of
// r / rows, dy c/32 times for each, from L2.
#include <algorithm>
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/copy_async.cuh"
#include "falconet/device/cuda/divide.cuh"
#include "falconet/ops/conv/cuda/tiled.cuh"

namespace falconet::tiled {
namespace {

constexpr int filters = 64, channels = 32, threads = 256;

struct Work {
  int h, w, c, p, q, k, pad_h, pad_w, st_h;
  int r;
  int pixels, per_row, lines, all_lines;   // pixels of a line; lines of a row of dy; lines of one stage; of all images
  int stages, part;
  bool wide_x, wide_dy;
  FastDivide by_per_row, by_p;
};

int up(int v, int of) { return (v + of - 1) / of; }
// Columns of x under the pixels of a line.
constexpr int under(int pixels, int step, int taps) { return (pixels - 1) * step + taps; }
// Filter rows of one block: all of 3x3, else one.
constexpr int rows_at_once(int r, int s) { return r == 3 && s == 3 ? 3 : 1; }
int words_of_line(int pixels, int step, int rows, int taps) { return pixels * filters + rows * under(pixels, step, taps) * channels; }

template <int rows, int taps, int step>
__global__ void __launch_bounds__(threads, 2) tiled_filter(Work const g, float const* x, float const* dy, float* partial) {
  extern __shared__ __align__(16) float memory[];   // [2][lines]: dy [pixels][filters], x [3][under][channels]
  int const t = threadIdx.x, r0 = blockIdx.x % (g.r / rows) * rows, c0 = blockIdx.x / (g.r / rows) * channels, k0 = blockIdx.y * filters, begin = blockIdx.z * g.part, end = min(g.stages, begin + g.part);
  int const wide = under(g.pixels, step, taps), line_words = g.pixels * filters + rows * wide * channels, buffer = g.lines * line_words;
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
      for (int r = 0; r < rows; ++r) {
        int const h = row * g.st_h - g.pad_h + r0 + r;
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
  float sum[rows * taps][8] = {};
  if (begin < end) copy(begin);
  for (int stage = begin; stage < end; ++stage) {
    copy_async_wait();
    __syncthreads();
    if (stage + 1 < end) copy(stage + 1);
    for (int l = 0; l < g.lines; ++l) {
      float const* const d = memory + (stage & 1) * buffer + l * line_words + k8;
      float const* const u = memory + (stage & 1) * buffer + l * line_words + g.pixels * filters + c;
      float window[rows][taps];   // column j of x lies in [.][j % taps]
      if (step == 1)
#pragma unroll
        for (int r = 0; r < rows; ++r)
#pragma unroll
          for (int s = 0; s + 1 < taps; ++s) window[r][s] = u[(r * wide + s) * channels];
      for (int q = 0; q < g.pixels; q += taps)
#pragma unroll
        for (int i = 0; i < taps; ++i) {
          float4 const low = *reinterpret_cast<float4 const*>(d + (q + i) * filters), high = *reinterpret_cast<float4 const*>(d + (q + i) * filters + 4);
          float const v[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
          for (int r = 0; r < rows; ++r) {
            if (step == 1) window[r][(i + taps - 1) % taps] = u[(r * wide + q + i + taps - 1) * channels];
            else
#pragma unroll
              for (int s = 0; s < taps; ++s) window[r][(i + s) % taps] = u[(r * wide + (q + i) * step + s) * channels];
#pragma unroll
            for (int s = 0; s < taps; ++s)
#pragma unroll
              for (int k = 0; k < 8; ++k) sum[r * taps + s][k] = fmaf(window[r][(i + s) % taps], v[k], sum[r * taps + s][k]);
          }
        }
    }
  }
  if (c0 + c >= g.c) return;
#pragma unroll
  for (int k = 0; k < 8; ++k)
#pragma unroll
    for (int tap = 0; tap < rows * taps; ++tap)
      if (k0 + k8 + k < g.k) partial[((std::int64_t(blockIdx.z) * g.k + k0 + k8 + k) * (g.r * taps) + r0 * taps + tap) * g.c + c0 + c] = sum[tap][k];
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

int tiles_of(ConvProblem const& p) { return up(p.k, filters) * up(p.c, channels) * (p.r / rows_at_once(p.r, p.s)); }

Work work_of(ConvProblem const& p) {
  Work g{};
  g.h = p.h, g.w = p.w, g.c = p.c, g.p = p.p(), g.q = p.q(), g.k = p.k, g.pad_h = p.pad_top, g.pad_w = p.pad_left, g.st_h = p.stride_h;
  g.r = p.r;
  int const most = (p.stride_w == 1 ? 57 : 27) / p.s * p.s;   // pixels of one line, a multiple of the taps
  g.per_row = up(g.q, most);
  g.pixels = up(up(g.q, g.per_row), p.s) * p.s;
  g.per_row = up(g.q, g.pixels);
  g.all_lines = p.n * g.p * g.per_row;
  g.lines = std::clamp(std::min(most / g.pixels, 18), 1, g.all_lines);   // 18: 95 KiB of shared memory, which every card has
  g.stages = up(g.all_lines, g.lines);
  int const tiles = tiles_of(p), wanted = std::clamp(264 / tiles, 1, g.stages);
  g.part = up(g.stages, wanted);
  g.wide_x = p.c % 4 == 0, g.wide_dy = p.k % 4 == 0;
  g.by_per_row = FastDivide(g.per_row), g.by_p = FastDivide(g.p);
  return g;
}
std::size_t shared_bytes(Work const& g, ConvProblem const& p) { return std::size_t(2) * g.lines * words_of_line(g.pixels, p.stride_w, rows_at_once(p.r, p.s), p.s) * sizeof(float); }
bool pointwise(ConvProblem const& p) { return p.r == 1 && p.s == 1; }

}  // namespace

std::string reject_filter(ConvProblem const& p) {
  if (!(p.store == OnStore{})) return "slots of the filter gradient";
  if (pointwise(p)) return reject_pointwise_filter(p);
  if (p.s != 3 && p.s != 5 && p.s != 7) return "a filter gradient of 3, 5 or 7 columns only, or 1x1";
  if (p.dilation_h != 1 || p.dilation_w != 1) return "the filter gradient's dilation";
  if (p.stride_w > 2) return "a stride of more than 2";
  if (up(p.k, filters) > 65535) return "more filters than a grid has rows";
  return {};
}
std::size_t scratch_filter(ConvProblem const& p) {
  if (pointwise(p)) return scratch_pointwise_filter(p);
  Work const g = work_of(p);
  int const parts = up(g.stages, g.part);
  return parts > 1 ? std::size_t(parts) * p.k * p.r * p.s * p.c * sizeof(float) : 0;
}
double seconds_filter(ConvProblem const& p) {
  if (pointwise(p)) return seconds_pointwise_filter(p);
  Work const g = work_of(p);
  double const blocks = double(tiles_of(p)) * up(g.stages, g.part), each = double(std::min(g.part, g.stages)) * g.lines * g.pixels * rows_at_once(p.r, p.s) * p.s * filters * channels;
  return 7e-6 + std::ceil(blocks / 264) * (each * std::min(2.0, std::ceil(blocks / 132)) / (128 * 1.7e9 * (p.r == 3 && p.s == 3 ? 0.65 : 0.5)) + 1e-6) + 2 * double(scratch_filter(p)) / 2e12;
}
void add_parts_of_filter(float const* partial, int parts, int elements, float* dw, Stream& on) {
  add_filter_parts<<<unsigned(up(elements, 32)), dim3(32, 8), 0, static_cast<cudaStream_t>(on.cuda())>>>(partial, parts, elements, dw);
}
void run_filter(ConvProblem const& p, ConvArgs const& args, View memory, Stream& on) {
  if (pointwise(p)) return run_pointwise_filter(p, args, memory, on);
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  Work const g = work_of(p);
  int const parts = up(g.stages, g.part);
  float* const sums = parts > 1 ? memory.as<float>() : args.w.as<float>();
  std::size_t const bytes = shared_bytes(g, p);
  auto const launch = [&](auto kernel) {
    allow_shared_memory(kernel, int(bytes));
    kernel<<<dim3(unsigned(up(p.c, channels) * (p.r / rows_at_once(p.r, p.s))), unsigned(up(p.k, filters)), unsigned(parts)), threads, bytes, stream>>>(g, args.x.as<float>(), args.y.as<float>(), sums);
  };
  auto const either = [&]<int rows, int taps>() { p.stride_w == 1 ? launch(tiled_filter<rows, taps, 1>) : launch(tiled_filter<rows, taps, 2>); };
  if (p.s == 5) either.template operator()<1, 5>();
  else if (p.s == 7) either.template operator()<1, 7>();
  else if (p.r == 3) either.template operator()<3, 3>();
  else either.template operator()<1, 3>();
  if (parts > 1) add_parts_of_filter(sums, parts, p.k * p.r * p.s * p.c, args.w.as<float>(), on);
  check_launch("conv tiled, filter gradient", p, stream);
}

}  // namespace falconet::tiled
