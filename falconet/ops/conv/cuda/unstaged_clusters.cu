// The filter gradient of the smallest 3x3 convolutions on an NVIDIA GPU, where a launch's latency is its time: f32, straight from global memory to
// registers,
//   dw(k, r, s, c) = sum over n, p, q of dy(n, p, q, k) * x(n, p - pad + r, q - pad + s, c),   db(k) = sum over n, p, q of dy(n, p, q, k)
// A block makes one tap, or one filter row, of 4 filters and 4 channels: a thread takes some pixels, for each one or three vectors of x and one of dy;
// all loads of 4 pixels are under way at once. Up to 8 blocks share the pixels by forming a cluster. A warp adds its sums by halves: at each step a
// lane hands the half that it will not finish to its neighbour; the warps' sums are added in shared memory, the blocks' through each other's. Every
// order is fixed. Next to `unstaged`, the pixels are spread over more of the card.
// Limits: f32 nhwc, 3x3, stride 1, no groups, c a multiple of 4. Cost: 2 n k p q c r s operations.
#include <algorithm>
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/cluster.cuh"
#include "falconet/device/cuda/divide.cuh"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/ops/conv/cuda/algorithms.h"

namespace falconet {
namespace {

constexpr int most_threads = 512, most_together = 8, batch = 4;   // batch: pixels of a thread whose loads are under way together

struct Geometry {
  int h, w, c, k, p, q, pad_top, pad_left, pixels, share;         // share: pixels of a block
  FastDivide by_columns, by_rows;
};

__device__ float4 four(float const* p, bool in) { return in ? *reinterpret_cast<float4 const*>(p) : float4{}; }

// Adds v[0..count) over the lanes of a warp, by halves while that goes. Lanes whose bits of `alike` are 0 then hold v[0..left) of those from `first` on.
template <int count, int step>
struct Sum {
  using Next = Sum<count % 2 ? count : count / 2, step / 2>;
  static constexpr int left = Next::left, alike = Next::alike | (count % 2 ? step : 0);
  static __device__ __forceinline__ void run(float* v, int lane, int& first) {
    bool const up = lane & step;
    if constexpr (count % 2 == 0) {
#pragma unroll
      for (int i = 0; i < count / 2; ++i) {
        float const keep = up ? v[i + count / 2] : v[i], give = up ? v[i] : v[i + count / 2];
        v[i] = keep + __shfl_xor_sync(~0u, give, step);
      }
      if (up) first += count / 2;
    } else {
#pragma unroll
      for (int i = 0; i < count; ++i) v[i] += __shfl_xor_sync(~0u, v[i], step);
    }
    Next::run(v, lane, first);
  }
};
template <int count>
struct Sum<count, 0> {
  static constexpr int left = count, alike = 0;
  static __device__ __forceinline__ void run(float*, int, int&) {}
};

// kt: filters of a block, 4, or 1 where there is only one. span: taps of a block, 1 or 3. Grid: blocks of a cluster, taps by span; filters; channels by 4.
template <int kt, int span>
__global__ void __launch_bounds__(most_threads) unstaged_clusters(Geometry const g, float const* x, float const* dy, float* dw, float* db) {
  constexpr int products = span * kt * 4, sums = products + kt;   // [tap][filter][channel], and dy itself
  __shared__ float partial[most_threads / 32][sums], block[sums];
  auto const cluster = this_cluster();
  int const t = threadIdx.x, lane = t % 32, warp = t / 32, rank = int(cluster.block_rank()), together = int(cluster.num_blocks());
  int const tap = blockIdx.x / together * span, r = tap / 3, s0 = tap % 3, k0 = blockIdx.y * kt, c = blockIdx.z * 4;
  wait_for_work_ahead();
  float sum[products] = {}, bias[kt] = {};
  bool const whole = g.k % 4 == 0;
  int const end = min(g.pixels, (rank + 1) * g.share);
  for (int pixel = rank * g.share + t; pixel < end; pixel += batch * blockDim.x) {
    float4 v[batch][span];
    float d[batch][kt];
#pragma unroll
    for (int u = 0; u < batch; ++u) {
      int const i = pixel + u * int(blockDim.x);
      int q, p;
      int const n = g.by_rows(g.by_columns(i, q), p), row = p - g.pad_top + r, column = q - g.pad_left + s0;
      bool const in = i < end, inside = in && unsigned(row) < unsigned(g.h);
      float const* const from = x + ((n * g.h + row) * g.w + column) * g.c + c;
#pragma unroll
      for (int s = 0; s < span; ++s) v[u][s] = four(from + s * g.c, inside && unsigned(column + s) < unsigned(g.w));
      if constexpr (kt == 4) {
        if (whole) {
          float4 const e = four(dy + i * g.k + k0, in);
          d[u][0] = e.x, d[u][1] = e.y, d[u][2] = e.z, d[u][3] = e.w;
          continue;
        }
      }
#pragma unroll
      for (int e = 0; e < kt; ++e) d[u][e] = in && k0 + e < g.k ? dy[i * g.k + k0 + e] : 0;
    }
#pragma unroll
    for (int u = 0; u < batch; ++u)
#pragma unroll
      for (int e = 0; e < kt; ++e) {
        bias[e] += d[u][e];
#pragma unroll
        for (int s = 0; s < span; ++s) {
          float* const to = sum + (s * kt + e) * 4;
          to[0] = fmaf(d[u][e], v[u][s].x, to[0]), to[1] = fmaf(d[u][e], v[u][s].y, to[1]);
          to[2] = fmaf(d[u][e], v[u][s].z, to[2]), to[3] = fmaf(d[u][e], v[u][s].w, to[3]);
        }
      }
  }
  let_next_begin();
  using Products = Sum<products, 16>;
  using Biases = Sum<kt, 16>;
  int first = 0, first_bias = products;
  Products::run(sum, lane, first);
  Biases::run(bias, lane, first_bias);
  if (!(lane & Products::alike))
#pragma unroll
    for (int i = 0; i < Products::left; ++i) partial[warp][first + i] = sum[i];
  if (!(lane & Biases::alike))
#pragma unroll
    for (int i = 0; i < Biases::left; ++i) partial[warp][first_bias + i] = bias[i];
  __syncthreads();
  if (t < sums) {
    float total = 0;
#pragma unroll
    for (int j = 0; j < most_threads / 32; ++j) total += j < int(blockDim.x) / 32 ? partial[j][t] : 0;
    block[t] = total;
  }
  if (together > 1) cluster.sync();
  if (rank == 0 && t < sums) {
    float total = block[t];
    if (together > 1) {
      float part[most_together];
#pragma unroll
      for (int other = 1; other < most_together; ++other) part[other] = other < together ? cluster.map_shared_rank(block, other)[t] : 0;
#pragma unroll
      for (int other = 1; other < most_together; ++other) total += part[other];
    }
    if (t >= products) {
      int const k = k0 + t - products;
      if (db && tap == 0 && c == 0 && k < g.k) db[k] = total;
    } else if (int const k = k0 + t / 4 % kt; k < g.k) {
      dw[(k * 9 + tap + t / (4 * kt)) * g.c + c + t % 4] = total;
    }
  }
  if (together > 1) cluster.sync();   // nobody leaves while its sums are read
}

std::string reject(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (p.direction != Direction::bwd_filter) return "filter gradient only";
  if (facts.compute_capability < 90) return "clusters of blocks need compute capability 9.0";
  if (!p.one_type(DType::f32)) return "f32 only";
  if (p.layout != Layout::nhwc) return "nhwc only";
  if (p.groups != 1 || p.stride_h != 1 || p.stride_w != 1 || p.dilation_h != 1 || p.dilation_w != 1) return "groups, stride or dilation";
  if (p.r != 3 || p.s != 3) return "filters of 3x3 only";
  if (p.c % 4) return "channels that are no multiple of 4";
  if (p.load_x != OnLoad{} || p.load_dy != OnLoad{}) return "slots of x or dy";
  if (p.operations() > 2e8 || double(p.n) * std::max(double(p.h) * p.w, double(p.p()) * p.q()) * std::max(p.c, p.k) > 1e8) return "a convolution that is not small";
  if (p.k > 4096 || p.c > 4096) return "more than 4096 channels";
  return {};
}

struct Way {
  int kt, span, together, threads;
  double blocks, turns;
};
Way way_of(ConvProblem const& p, int span, int together) {
  int const pixels = p.n * p.p() * p.q(), share = (pixels + together - 1) / together, kt = p.k == 1 ? 1 : 4;
  int const threads = std::clamp((share + 32 * batch - 1) / (32 * batch) * 32, 64, most_threads);
  return {kt, span, together, threads, 9.0 / span * ((p.k + kt - 1) / kt) * (p.c / 4) * together, std::ceil(double(share) / (batch * threads))};
}
// Rounds of loads and what is done with them; fitted to li2019 on one H200.
double seconds_with(Way const& way) {
  return 3.2e-6 + (way.together > 1 ? 0.4e-6 : 0) + std::ceil(way.blocks / 132) * way.turns * (0.3e-6 + way.threads * (way.span + 1) * way.kt * 0.2e-9);
}
std::vector<Config> configs(ConvProblem const& p, DeviceFacts const&) {
  std::vector<std::pair<double, Config>> ways;
  for (int together : {8, 4, 1})
    for (int span : {1, 3}) ways.emplace_back(seconds_with(way_of(p, span, together)), Config{{"taps", span}, {"together", together}});
  std::stable_sort(ways.begin(), ways.end(), [](auto const& a, auto const& b) { return a.first < b.first; });
  std::vector<Config> out;
  for (auto const& way : ways) out.push_back(way.second);
  return out;
}
std::vector<LaunchRange> ranges(ConvProblem const&, DeviceFacts const&) {
  return {{"taps", 1, 1, false}, {"taps", 3, 3, false}, {"together", 1, most_together, false}, {"threads", 64, most_threads, true}};
}
double seconds(ConvProblem const& p, DeviceFacts const& facts) {
  Config const best = configs(p, facts).front();
  return seconds_with(way_of(p, best.get("taps", 1), best.get("together", 1)));
}

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  Way const way = way_of(p, config.get("taps", 1), config.get("together", 1));
  int const pixels = p.n * p.p() * p.q();
  Geometry const g{p.h, p.w, p.c, p.k, p.p(), p.q(), p.pad_top, p.pad_left, pixels, (pixels + way.together - 1) / way.together, FastDivide(p.q()), FastDivide(p.p())};
  dim3 const grid(unsigned(9 / way.span * way.together), unsigned((p.k + way.kt - 1) / way.kt), unsigned(p.c / 4));
  auto const launch = [&](auto kernel) {
    launch_ahead(kernel, grid, dim3(unsigned(config.get("threads", way.threads))), 0, way.together, stream, g, static_cast<float const*>(args.x.as<float>()),
                 static_cast<float const*>(args.y.as<float>()), args.w.as<float>(), p.store.bias ? args.bias.as<float>() : nullptr);
  };
  if (way.kt == 1) way.span == 1 ? launch(unstaged_clusters<1, 1>) : launch(unstaged_clusters<1, 3>);
  else way.span == 1 ? launch(unstaged_clusters<4, 1>) : launch(unstaged_clusters<4, 3>);
  check_launch("conv unstaged_clusters", p, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_unstaged_clusters{
    .name = "unstaged_clusters", .target = DeviceKind::cuda, .reject = reject, .configs = configs, .seconds = seconds, .run = run, .ranges = ranges};

}  // namespace falconet
