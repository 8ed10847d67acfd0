// The smallest 3x3 convolutions on an NVIDIA GPU, where a launch's latency is its time: f32, straight from global memory to registers, nothing
// staged, so that one round trip to the second-level cache lies between the launch and the sums.
//   forward          a thread per result: 9 vectors of 4 channels of x and of w at a time
//   data gradient    1, 4 or 16 threads per pixel and 4 channels take as many filters each as that leaves and add their sums
//   both of these    or a thread per pair of pixels and 8 (data gradient: 4) filters, which lie in shared memory
//   filter gradient  a block per tap, 4 filters and 4 channels: every thread takes some pixels, the block adds the sums in a fixed order
// Limits: f32 nhwc, 3x3, stride 1, no groups, c a multiple of 4. Cost: 2 n k p q c r s operations, operands from the caches for every result.
#include <algorithm>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/copy_async.cuh"
#include "falconet/device/cuda/divide.cuh"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/result_slots.cuh"

namespace falconet {
namespace {

constexpr int threads = 128, filter_threads = 512, taps = 9, kt = 4;

struct Geometry {
  int n, h, w, c, k, p, q, pad_top, pad_left, results;
  FastDivide by_channels, by_columns, by_rows;   // of the result
};
struct Pointers {
  float const *x, *filter, *dy, *bias;
  float *result, *db;
  ResultSlots slots;
};

__device__ float4 four(float const* p, bool in) { return in ? *reinterpret_cast<float4 const*>(p) : float4{}; }
__device__ float finished(Pointers const& a, bool few, float v, int at) { return through_slots(a.slots, few, v, at); }

__global__ void __launch_bounds__(threads) unstaged_forward(Geometry const g, Pointers const a) {
  bool const few = a.slots.few();
  wait_for_work_ahead();
  let_next_begin();
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
  a.result[i] = finished(a, few, sum, i);
}

template <int shares>
__global__ void __launch_bounds__(threads) unstaged_data(Geometry const g, Pointers const a) {
  bool const few = a.slots.few();
  wait_for_work_ahead();
  let_next_begin();
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
  *reinterpret_cast<float4*>(a.result + at) = make_float4(finished(a, few, sum.x, at), finished(a, few, sum.y, at + 1), finished(a, few, sum.z, at + 2), finished(a, few, sum.w, at + 3));
}

// Pairs of neighbouring pixels, for problems that fill the card: what the lanes share, the filter, comes into shared memory while x or dy is on its way.
constexpr int most_pair_channels = 64, pair_filters = 8;

// Grid: pairs; filters by 8.
__global__ void __launch_bounds__(threads) unstaged_forward_pairs(Geometry const g, Pointers const a) {
  __shared__ __align__(16) float filter[pair_filters * taps * most_pair_channels];   // [filter][tap][c]
  bool const few = a.slots.few();
  wait_for_work_ahead();
  let_next_begin();
  int const i = blockIdx.x * threads + threadIdx.x, k = blockIdx.y * pair_filters;
  for (int j = threadIdx.x * 4; j < pair_filters * taps * g.c; j += threads * 4) copy_async<16>(filter + j, a.filter + k * taps * g.c + j, true);
  int q, p;
  int const n = g.by_rows(g.by_columns(i, q), p);
  q *= 2;
  float sum[2][pair_filters] = {};
  for (int c = 0; c < g.c; c += 4) {
    float4 x[3][4];
#pragma unroll
    for (int r = 0; r < 3; ++r)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        int const row = p - g.pad_top + r, column = q - g.pad_left + j;
        x[r][j] = four(a.x + ((n * g.h + row) * g.w + column) * g.c + c, n < g.n && unsigned(row) < unsigned(g.h) && unsigned(column) < unsigned(g.w));
      }
    if (c == 0) {
      copy_async_wait();
      __syncthreads();
    }
#pragma unroll
    for (int t = 0; t < taps; ++t)
#pragma unroll
      for (int e = 0; e < pair_filters; ++e) {
        float4 const w = *reinterpret_cast<float4 const*>(filter + (e * taps + t) * g.c + c);
#pragma unroll
        for (int u = 0; u < 2; ++u) {
          float4 const v = x[t / 3][t % 3 + u];
          sum[u][e] = fmaf(v.x, w.x, fmaf(v.y, w.y, fmaf(v.z, w.z, fmaf(v.w, w.w, sum[u][e]))));
        }
      }
  }
  if (n >= g.n) return;
#pragma unroll
  for (int u = 0; u < 2; ++u) {
    if (q + u >= g.q) continue;
    int const at = ((n * g.p + p) * g.q + q + u) * g.k + k;
#pragma unroll
    for (int e = 0; e < pair_filters; ++e) sum[u][e] = finished(a, few, sum[u][e] + (a.bias ? a.bias[k + e] : 0), at + e);
#pragma unroll
    for (int e = 0; e < pair_filters; e += 4) *reinterpret_cast<float4*>(a.result + at + e) = make_float4(sum[u][e], sum[u][e + 1], sum[u][e + 2], sum[u][e + 3]);
  }
}

// Neighbouring lanes take 4 filters each and add. Grid: pairs times shares; channels in fours.
template <int shares>
__global__ void __launch_bounds__(threads) unstaged_data_pairs(Geometry const g, Pointers const a) {
  constexpr int group = 4 * taps * 4 + 4;          // words of 4 filters; the lanes' groups lie in different banks
  __shared__ __align__(16) float filter[shares * group];
  bool const few = a.slots.few();
  wait_for_work_ahead();
  let_next_begin();
  int const i = blockIdx.x * threads + threadIdx.x, share = i % shares, c = blockIdx.y * 4;
  for (int j = threadIdx.x; j < shares * 4 * taps; j += threads) copy_async<16>(filter + j / (4 * taps) * group + j % (4 * taps) * 4, a.filter + j * g.c + c, true);
  int w, h;
  int const n = g.by_rows(g.by_columns(i / shares, w), h);
  w *= 2;
  float4 d[3][4];
#pragma unroll
  for (int y = 0; y < 3; ++y)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      int const p = h + g.pad_top - 2 + y, q = w + g.pad_left - 2 + j;
      d[y][j] = four(a.dy + ((n * g.p + p) * g.q + q) * g.k + share * 4, n < g.n && unsigned(p) < unsigned(g.p) && unsigned(q) < unsigned(g.q));
    }
  copy_async_wait();
  __syncthreads();
  float sum[2][4] = {};
#pragma unroll
  for (int t = 0; t < taps; ++t)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      float4 const f = *reinterpret_cast<float4 const*>(filter + share * group + (e * taps + t) * 4);
#pragma unroll
      for (int u = 0; u < 2; ++u) {
        float4 const four_filters = d[2 - t / 3][u + 2 - t % 3];
        float const v = e == 0 ? four_filters.x : e == 1 ? four_filters.y : e == 2 ? four_filters.z : four_filters.w;
        sum[u][0] = fmaf(v, f.x, sum[u][0]), sum[u][1] = fmaf(v, f.y, sum[u][1]), sum[u][2] = fmaf(v, f.z, sum[u][2]), sum[u][3] = fmaf(v, f.w, sum[u][3]);
      }
    }
#pragma unroll
  for (int step = 1; step < shares; step *= 2)
#pragma unroll
    for (int j = 0; j < 8; ++j) sum[j / 4][j % 4] += __shfl_xor_sync(~0u, sum[j / 4][j % 4], step);
  if (n >= g.n || share >= 2) return;
  // Two lanes write a pixel each; one lane alone both.
#pragma unroll
  for (int u = 0; u < 2; ++u) {
    if ((shares > 1 && u != share) || w + u >= g.w) continue;
    int const at = ((n * g.h + h) * g.w + w + u) * g.c + c;
    *reinterpret_cast<float4*>(a.result + at) =
        make_float4(finished(a, few, sum[u][0], at), finished(a, few, sum[u][1], at + 1), finished(a, few, sum[u][2], at + 2), finished(a, few, sum[u][3], at + 3));
  }
}

// Grid: taps, filters in fours, channels in fours. per_pixel: filters that a pixel is multiplied with, 4, or 1 where there is only one.
template <int per_pixel>
__global__ void __launch_bounds__(filter_threads) unstaged_filter(Geometry const g, Pointers const a) {
  constexpr int values = per_pixel * 5, batch = 4;   // 4 channels each, and dy itself
  __shared__ float partial[filter_threads / 32][values];
  int const t = threadIdx.x, tap = blockIdx.x, k0 = blockIdx.y * per_pixel, c = blockIdx.z * 4, pixels = g.n * g.p * g.q;
  wait_for_work_ahead();
  let_next_begin();
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

// Latency of the launch and of each round of loads, and the loads themselves; constants fitted to li2019 on one H200. shares: of the data gradient.
double seconds_with(ConvProblem const& p, int shares) {
  double const pixels = double(p.n) * p.p() * p.q();
  if (p.direction == Direction::bwd_filter) {
    double const blocks = 9.0 * ((p.k + 3) / 4) * (p.c / 4), waves = std::max(1.0, blocks / 264);
    return 2.8e-6 + waves * pixels * (16 + (p.k > 1 ? 32 : 4)) / 100e9;
  }
  if (p.direction == Direction::fwd) return 2.9e-6 + (p.c / 4 - 1) * 0.7e-6 + pixels * p.k * p.c / 4 * 14e-12;
  return 2.7e-6 + ((p.k + shares - 1) / shares - 1) * 0.75e-6 + double(p.n) * p.h * p.w * p.c / 4 * std::max(p.k, shares) * 9 * 5 / 4e12;
}
bool takes_pairs(ConvProblem const& p) {
  if (p.direction == Direction::fwd) return p.k % pair_filters == 0 && p.c <= most_pair_channels;
  return p.direction == Direction::bwd_data && (p.k == 4 || p.k == 8 || p.k == 16);
}
double seconds_of_pairs(ConvProblem const& p) {
  if (p.direction == Direction::fwd) return 3.1e-6 + (p.c / 4 - 1) * 0.5e-6 + double(p.n) * p.p() * p.q() * p.k * p.c / 4 * 2.3e-12;
  return 2.6e-6 + (p.k / 4 - 1) * 0.15e-6 + double(p.n) * p.h * p.w * p.c / 4 * p.k * 5.5e-12;
}
// shares: threads that share the filters of a pixel in the data gradient; pairs: of pixels, a thread.
std::vector<Config> configs(ConvProblem const& p, DeviceFacts const&) {
  std::vector<std::pair<double, Config>> ways;
  if (p.direction == Direction::bwd_data)
    for (int shares : {1, 4, 16}) ways.emplace_back(seconds_with(p, shares), Config{{"shares", shares}});
  else ways.emplace_back(seconds_with(p, 1), Config{});
  if (takes_pairs(p)) ways.emplace_back(seconds_of_pairs(p), Config{{"pairs", 1}});
  std::stable_sort(ways.begin(), ways.end(), [](auto const& a, auto const& b) { return a.first < b.first; });
  std::vector<Config> out;
  for (auto const& way : ways) out.push_back(way.second);
  return out;
}
double seconds(ConvProblem const& p, DeviceFacts const& facts) {
  Config const best = configs(p, facts).front();
  return best.get("pairs", 0) ? seconds_of_pairs(p) : seconds_with(p, best.get("shares", 1));
}

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  bool const data = p.direction == Direction::bwd_data, filter = p.direction == Direction::bwd_filter;
  bool const pairs = config.get("pairs", 0) && takes_pairs(p);
  int const vectors = p.c / 4, results = data ? p.n * p.h * p.w * vectors : p.n * p.p() * p.q() * p.k;
  Geometry const g{p.n, p.h, p.w, p.c, p.k, p.p(), p.q(), p.pad_top, p.pad_left, results,
                   FastDivide(data ? vectors : p.k), FastDivide(((data ? p.w : p.q()) + pairs) / (1 + pairs)), FastDivide(data ? p.h : p.p())};
  Pointers const a{args.x.as<float>(), args.w.as<float>(), args.y.as<float>(), filter ? nullptr : args.bias.as<float>(),
                   (filter ? args.w : data ? args.x : args.y).as<float>(), filter && p.store.bias ? args.bias.as<float>() : nullptr,
                   {args.residual.as<float>(), p.store.mask != Mask::none ? args.mask.as<float>() : nullptr, p.store.act}};
  if (filter) {
    dim3 const block(p.n * p.p() * p.q() > 2048 ? filter_threads : 256);
    if (p.k == 1) launch_ahead(unstaged_filter<1>, dim3(taps, 1, unsigned(vectors)), block, 0, 1, stream, g, a);
    else launch_ahead(unstaged_filter<kt>, dim3(taps, unsigned((p.k + kt - 1) / kt), unsigned(vectors)), block, 0, 1, stream, g, a);
  } else if (pairs) {
    int const rows = data ? p.n * p.h : p.n * p.p(), columns = ((data ? p.w : p.q()) + 1) / 2, shares = data ? p.k / 4 : 1;
    dim3 const grid(unsigned((std::int64_t(rows) * columns * shares + threads - 1) / threads), unsigned(data ? vectors : p.k / pair_filters));
    auto const kernel = !data ? unstaged_forward_pairs : shares == 1 ? unstaged_data_pairs<1> : shares == 2 ? unstaged_data_pairs<2> : unstaged_data_pairs<4>;
    launch_ahead(kernel, grid, dim3(threads), 0, 1, stream, g, a);
  } else {
    int const shares = data ? config.get("shares", 4) : 1;
    auto const kernel = !data ? unstaged_forward : shares == 1 ? unstaged_data<1> : shares == 4 ? unstaged_data<4> : unstaged_data<16>;
    launch_ahead(kernel, dim3(unsigned((std::int64_t(results) * shares + threads - 1) / threads)), dim3(threads), 0, 1, stream, g, a);
  }
  check_launch("conv unstaged", p, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_unstaged{
    .name = "unstaged", .target = DeviceKind::cuda, .reject = reject, .configs = configs, .seconds = seconds, .run = run};

}  // namespace falconet
