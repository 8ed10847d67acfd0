// The smallest 3x3 convolutions on an NVIDIA GPU, where a launch's latency is its time: f32, straight from global memory to registers, nothing
// staged, so that one round trip to the second-level cache lies between the launch and the sums.
//   forward          a thread per result: 9 vectors of 4 channels of x and of w at a time
//   data gradient    4 threads per pixel and 4 channels take every fourth filter each and add their sums
//   filter gradient  a block per tap, 4 filters and 4 channels: every thread takes some pixels, the block adds the sums in a fixed order
// Limits: f32 nhwc, 3x3, stride 1, no groups, c a multiple of 4. Cost: 2 n k p q c r s operations, operands from the caches for every result.
#include <algorithm>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/divide.cuh"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/ops/conv/cuda/algorithms.h"

namespace falconet {
namespace {

constexpr int threads = 128, filter_threads = 512, taps = 9, shares = 4, kt = 4;

struct Geometry {
  int n, h, w, c, k, p, q, pad_top, pad_left, results;
  FastDivide by_channels, by_columns, by_rows;   // of the result
};
struct Pointers {
  float const *x, *filter, *dy, *bias, *residual, *mask;
  float *result, *db;
  Activation act;
};

__device__ float4 four(float const* p, bool in) { return in ? *reinterpret_cast<float4 const*>(p) : float4{}; }
__device__ float finished(Pointers const& a, float v, int at) {
  if (a.residual) v += a.residual[at];
  if (a.act != Activation::none) v = activate(a.act, v);
  return a.mask && !(a.mask[at] > 0) ? 0 : v;
}

__global__ void __launch_bounds__(threads) unstaged_forward(Geometry const g, Pointers const a) {
  wait_for_work_ahead();
  int const i = blockIdx.x * threads + threadIdx.x;
  if (i >= g.results) return;
  int k, q, p;
  int const n = g.by_rows(g.by_columns(g.by_channels(i, k), q), p);
  float sum = 0;
  for (int c = 0; c < g.c; c += 4) {
    float4 x[taps], w[taps];
#pragma unroll
    for (int t = 0; t < taps; ++t) {
      int const row = p - g.pad_top + t / 3, column = q - g.pad_left + t % 3;
      x[t] = four(a.x + ((n * g.h + row) * g.w + column) * g.c + c, unsigned(row) < unsigned(g.h) && unsigned(column) < unsigned(g.w));
      w[t] = four(a.filter + (k * taps + t) * g.c + c, true);
    }
#pragma unroll
    for (int t = 0; t < taps; ++t) sum = fmaf(x[t].x, w[t].x, fmaf(x[t].y, w[t].y, fmaf(x[t].z, w[t].z, fmaf(x[t].w, w[t].w, sum))));
  }
  if (a.bias) sum += a.bias[k];
  a.result[i] = finished(a, sum, i);
}

__global__ void __launch_bounds__(threads) unstaged_data(Geometry const g, Pointers const a) {
  wait_for_work_ahead();
  int const i = blockIdx.x * threads + threadIdx.x, vector = min(i / shares, g.results - 1), share = i % shares;   // a warp stays together
  int c, w, h;
  int const n = g.by_rows(g.by_columns(g.by_channels(vector, c), w), h);
  c *= 4;
  float4 sum = {};
  for (int k = share; k < g.k; k += shares) {
    float d[taps];
    float4 f[taps];
#pragma unroll
    for (int t = 0; t < taps; ++t) {
      int const p = h + g.pad_top - t / 3, q = w + g.pad_left - t % 3;
      d[t] = unsigned(p) < unsigned(g.p) && unsigned(q) < unsigned(g.q) ? a.dy[((n * g.p + p) * g.q + q) * g.k + k] : 0;
      f[t] = four(a.filter + (k * taps + t) * g.c + c, true);
    }
#pragma unroll
    for (int t = 0; t < taps; ++t) {
      sum.x = fmaf(d[t], f[t].x, sum.x), sum.y = fmaf(d[t], f[t].y, sum.y);
      sum.z = fmaf(d[t], f[t].z, sum.z), sum.w = fmaf(d[t], f[t].w, sum.w);
    }
  }
#pragma unroll
  for (int step = 1; step < shares; step *= 2) {
    sum.x += __shfl_xor_sync(~0u, sum.x, step), sum.y += __shfl_xor_sync(~0u, sum.y, step);
    sum.z += __shfl_xor_sync(~0u, sum.z, step), sum.w += __shfl_xor_sync(~0u, sum.w, step);
  }
  if (i / shares >= g.results || share > 0) return;
  int const at = vector * 4;
  *reinterpret_cast<float4*>(a.result + at) = make_float4(finished(a, sum.x, at), finished(a, sum.y, at + 1), finished(a, sum.z, at + 2), finished(a, sum.w, at + 3));
}

// Grid: taps, filters in fours, channels in fours. per_pixel: filters that a pixel is multiplied with, 4, or 1 where there is only one.
template <int per_pixel>
__global__ void __launch_bounds__(filter_threads) unstaged_filter(Geometry const g, Pointers const a) {
  constexpr int values = per_pixel * 5, batch = 4;   // 4 channels each, and dy itself
  __shared__ float partial[filter_threads / 32][values];
  int const t = threadIdx.x, tap = blockIdx.x, k0 = blockIdx.y * per_pixel, c = blockIdx.z * 4, pixels = g.n * g.p * g.q;
  wait_for_work_ahead();
  float sum[values] = {};
  bool const whole = per_pixel == 1 || g.k % 4 == 0;
  for (int first = t; first < pixels; first += batch * blockDim.x) {
    float4 x[batch];
    float d[batch][per_pixel];
#pragma unroll
    for (int u = 0; u < batch; ++u) {
      int const i = first + u * int(blockDim.x);
      int q, p;
      int const n = g.by_rows(g.by_columns(i, q), p), row = p - g.pad_top + tap / 3, column = q - g.pad_left + tap % 3;
      bool const in = i < pixels;
      x[u] = four(a.x + ((n * g.h + row) * g.w + column) * g.c + c, in && unsigned(row) < unsigned(g.h) && unsigned(column) < unsigned(g.w));
      if constexpr (per_pixel == 4) {
        if (whole) {
          float4 const v = four(a.dy + i * g.k + k0, in);
          d[u][0] = v.x, d[u][1] = v.y, d[u][2] = v.z, d[u][3] = v.w;
          continue;
        }
      }
#pragma unroll
      for (int e = 0; e < per_pixel; ++e) d[u][e] = in && k0 + e < g.k ? a.dy[i * g.k + k0 + e] : 0;
    }
#pragma unroll
    for (int u = 0; u < batch; ++u)
#pragma unroll
      for (int e = 0; e < per_pixel; ++e) {
        sum[e * 5] = fmaf(d[u][e], x[u].x, sum[e * 5]), sum[e * 5 + 1] = fmaf(d[u][e], x[u].y, sum[e * 5 + 1]);
        sum[e * 5 + 2] = fmaf(d[u][e], x[u].z, sum[e * 5 + 2]), sum[e * 5 + 3] = fmaf(d[u][e], x[u].w, sum[e * 5 + 3]);
        sum[e * 5 + 4] += d[u][e];
      }
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2)
#pragma unroll
    for (int v = 0; v < values; ++v) sum[v] += __shfl_xor_sync(~0u, sum[v], step);
  if (t % 32 == 0)
#pragma unroll
    for (int v = 0; v < values; ++v) partial[t / 32][v] = sum[v];
  __syncthreads();
  int const k = k0 + t / 5, element = t % 5;
  if (t >= values || k >= g.k) return;
  float total = 0;
  for (int warp = 0; warp < int(blockDim.x) / 32; ++warp) total += partial[warp][t];
  if (element < 4) a.result[(k * taps + tap) * g.c + c + element] = total;
  else if (a.db && tap == 0 && c == 0) a.db[k] = total;
}

std::string reject(ConvProblem const& p, DeviceFacts const&) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (!p.one_type(DType::f32)) return "f32 only";
  if (p.layout != Layout::nhwc) return "nhwc only";
  if (p.groups != 1 || p.stride_h != 1 || p.stride_w != 1 || p.dilation_h != 1 || p.dilation_w != 1) return "groups, stride or dilation";
  if (p.r != 3 || p.s != 3) return "filters of 3x3 only";
  if (p.c % 4) return "channels that are no multiple of 4";
  if (p.load_x != OnLoad{} || p.load_dy != OnLoad{}) return "slots of x or dy";
  if (p.store.mask == Mask::relu6) return "a mask of relu6";
  auto const& s = p.store;
  if (s.affine != Affine::none || s.stats != Stats::none || s.pool.kind != PoolSlot::none) return "an affine, pooling or statistics of the result";
  if (p.direction == Direction::bwd_data && s.bias) return "the data gradient has no bias";
  if (p.operations() > 2e8 || double(p.n) * std::max(double(p.h) * p.w, double(p.p()) * p.q()) * std::max(p.c, p.k) > 1e8) return "a convolution that is not small";
  if (p.k > 4096 || p.c > 4096) return "more than 4096 channels";
  return {};
}

// Latency of the launch and of each round of loads, and the loads themselves; constants fitted to li2019 on one H200.
double seconds(ConvProblem const& p, DeviceFacts const&) {
  double const pixels = double(p.n) * p.p() * p.q();
  if (p.direction == Direction::bwd_filter) {
    double const blocks = 9.0 * ((p.k + 3) / 4) * (p.c / 4), waves = std::max(1.0, blocks / 264);
    return 2.8e-6 + waves * pixels * (16 + (p.k > 1 ? 32 : 4)) / 100e9;
  }
  if (p.direction == Direction::fwd) return 2.7e-6 + (p.c / 4 - 1) * 0.7e-6 + pixels * p.k * p.c / 4 * 9 * 20 / 12e12;
  return 2.7e-6 + ((p.k + 3) / 4 - 1) * 1e-6 + double(p.n) * p.h * p.w * p.c / 4 * p.k * 9 * 5 / 12e12;
}

void run(ConvProblem const& p, Config const&, ConvArgs const& args, View, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  bool const data = p.direction == Direction::bwd_data, filter = p.direction == Direction::bwd_filter;
  int const vectors = p.c / 4, results = data ? p.n * p.h * p.w * vectors : p.n * p.p() * p.q() * p.k;
  Geometry const g{p.n, p.h, p.w, p.c, p.k, p.p(), p.q(), p.pad_top, p.pad_left, results,
                   FastDivide(data ? vectors : p.k), FastDivide(data ? p.w : p.q()), FastDivide(data ? p.h : p.p())};
  Pointers const a{args.x.as<float>(), args.w.as<float>(), args.y.as<float>(), filter ? nullptr : args.bias.as<float>(), args.residual.as<float>(),
                   p.store.mask != Mask::none ? args.mask.as<float>() : nullptr, (filter ? args.w : data ? args.x : args.y).as<float>(),
                   filter && p.store.bias ? args.bias.as<float>() : nullptr, p.store.act};
  if (filter) {
    dim3 const block(p.n * p.p() * p.q() > 2048 ? filter_threads : 256);
    if (p.k == 1) launch_ahead(unstaged_filter<1>, dim3(taps, 1, unsigned(vectors)), block, 0, 1, stream, g, a);
    else launch_ahead(unstaged_filter<kt>, dim3(taps, unsigned((p.k + kt - 1) / kt), unsigned(vectors)), block, 0, 1, stream, g, a);
  } else {
    int const work = data ? results * shares : results;
    launch_ahead(data ? unstaged_data : unstaged_forward, dim3(unsigned((work + threads - 1) / threads)), dim3(threads), 0, 1, stream, g, a);
  }
  check_launch("conv unstaged", p, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_unstaged{.name = "unstaged", .target = DeviceKind::cuda, .reject = reject, .seconds = seconds, .run = run};

}  // namespace falconet
