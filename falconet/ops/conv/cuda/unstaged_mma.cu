// Small 3x3 convolutions in f32 by tensor cores, where the launch and a round trip to the second-level cache are most of the time: nothing of x or
// dy is staged, fragments come straight from global memory. A factor is cut in two TF32 values and three products are taken, at f32's accuracy
// (docs/adr/0117).
//   forward          a warp: 16 pixels of a row by 16 (8) filters; depth 4 channels of two taps. A quarter of a fragment is a word a lane: 8 pixels
//                    by 4 channels lie side by side.
//   data gradient    16 pairs of neighbouring pixels by 2 pixels x 4 channels, so that no column is idle; depth the 3 x 4 pixels of dy around a pair
//                    x 16 filters, 4 of them a lane; a warp a row of dy, the three warps' sums are added in shared memory.
//   filter gradient  16 filters by two taps x 4 channels (ones in place of the tenth tap: the bias gradient), depth pixels. A warp takes one run of
//                    32 pixels after another; up to 16 blocks of a cluster share the pixels and add in a fixed order in the first one's memory.
// Next to `unstaged` and `unstaged_clusters`: a third of the words from the caches, no sums across lanes.
// Limits: f32 nhwc, 3x3, stride 1, no groups, columns of x and y multiples of 32, c a multiple of 4 up to 16, k of 8 (gradients: 16) up to 64.
// Cost: three times 2 n k p q c r s operations of the tensor cores, with 40 rows of depth for 36, in the data gradient 48.
#include <algorithm>
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/cluster.cuh"
#include "falconet/device/cuda/copy_async.cuh"
#include "falconet/device/cuda/divide.cuh"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/device/cuda/tf32.cuh"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/implicit_gemm_3xtf32.h"
#include "falconet/ops/conv/cuda/result_slots.cuh"

namespace falconet {
namespace {

constexpr int taps = 9, most_channels = 16, most_filters = 64, most_warps = 32, most_together = 16;

struct Geometry {
  // segments: runs of 16 (filter gradient, data gradient: 32) pixels of the result's, or dy's, rows
  int h, w, c, k, p, q, pad_top, pad_left, segments;
  FastDivide by_segments, by_rows, by_vectors;         // of a row, of an image; vectors of 4 channels of a filter, or of 9 taps
};
struct Pointers {
  float const *x, *filter, *dy, *bias;
  float *result, *db;
  ResultSlots slots;
};

__device__ __forceinline__ float one(float const* p, bool in) { return in ? *p : 0.f; }
__device__ __forceinline__ float2 two(float const* p) { return *reinterpret_cast<float2 const*>(p); }
__device__ __forceinline__ float4 four(float const* p, bool in) { return in ? *reinterpret_cast<float4 const*>(p) : float4{}; }

// A fragment of the left factor, cut in two.
struct Left {
  std::uint32_t high[4], low[4];
  __device__ __forceinline__ Left(float a0, float a1, float a2, float a3) {
    ptx::cut_in_two(a0, high[0], low[0]);
    ptx::cut_in_two(a1, high[1], low[1]);
    ptx::cut_in_two(a2, high[2], low[2]);
    ptx::cut_in_two(a3, high[3], low[3]);
  }
};
// A fragment of the right one.
struct Right {
  std::uint32_t high[2], low[2];
  __device__ __forceinline__ Right(float b0, float b1) {
    ptx::cut_in_two(b0, high[0], low[0]);
    ptx::cut_in_two(b1, high[1], low[1]);
  }
};
// sum += a b. rest: the sum of the products with a low part, apart so that two chains of products run side by side.
__device__ __forceinline__ void multiply(float (&sum)[4], float (&rest)[4], Left const& a, Right const& b) {
  ptx::mma_tf32(rest, a.low, b.high);
  ptx::mma_tf32(sum, a.high, b.high);
  ptx::mma_tf32(rest, a.high, b.low);
}

// ---------------------------------------------------------------- forward

constexpr int forward_threads = 128;

// Words from one filter to the next in shared memory: 8 filters by 4 channels lie in 32 banks.
__host__ __device__ constexpr int pitch_of(int c) { return taps * c + (c % 8 == 0 ? 4 : 0); }

// Grid: 4 * runs segments; filters by 8 * tiles. With two tiles, filters 4 t and 4 t + 1 of the block are columns 2 t and 2 t + 1 of the first, the
// two behind them of the second: a lane then holds four neighbours. runs: segments of a warp, neighbours in a row.
template <int tiles, int runs>
__global__ void __launch_bounds__(forward_threads) mma_forward(Geometry const g, Pointers const a) {
  __shared__ __align__(16) float filter[8 * tiles * (taps * most_channels + 4)];
  int const warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4, t = lane % 4, k0 = blockIdx.y * 8 * tiles, pitch = pitch_of(g.c);
  bool const few = a.slots.few();
  wait_for_work_ahead();
  let_next_begin();
  for (int i = threadIdx.x; i < 8 * tiles * taps * g.c / 4; i += forward_threads) {
    int vector;
    int const f = g.by_vectors(i, vector), to = tiles == 1 ? f : f / 2 % 2 * 8 + f / 4 * 2 + f % 2;
    copy_async<16>(filter + to * pitch + vector * 4, a.filter + k0 * taps * g.c + i * 4, true);
  }
  int const segment = (blockIdx.x * (forward_threads / 32) + warp) * runs;
  int p, q;
  int const n = g.by_rows(g.by_segments(segment, q), p);
  bool const any = segment < g.segments;
  q = q * 16 + row;
  float sum[runs][tiles][4] = {}, rest[runs][tiles][4] = {};
  for (int c = 0; c < g.c; c += 4) {
    float x[2 * 5][2 * runs] = {};
#pragma unroll
    for (int r = 0; r < 3; ++r) {
      int const y = p - g.pad_top + r, column = q - g.pad_left;
      bool const in = any && unsigned(y) < unsigned(g.h);
      float const* const from = a.x + ((n * g.h + y) * g.w + column) * g.c + c + t;
#pragma unroll
      for (int s = 0; s < 3; ++s)
#pragma unroll
        for (int i = 0; i < 2 * runs; ++i) x[3 * r + s][i] = one(from + (s + 8 * i) * g.c, in && unsigned(column + s + 8 * i) < unsigned(g.w));
    }
    if (c == 0) {
      copy_async_wait();
      __syncthreads();
    }
    float const* const weights = filter + row * pitch + c + t;
#pragma unroll
    for (int step = 0; step < 5; ++step)
#pragma unroll
      for (int j = 0; j < tiles; ++j) {
        Right const right(weights[j * 8 * pitch + 2 * step * g.c], step < 4 ? weights[j * 8 * pitch + (2 * step + 1) * g.c] : 0.f);
#pragma unroll
        for (int i = 0; i < runs; ++i)
          multiply(sum[i][j], rest[i][j], Left(x[2 * step][2 * i], x[2 * step][2 * i + 1], x[2 * step + 1][2 * i], x[2 * step + 1][2 * i + 1]), right);
      }
  }
  if (!any) return;
#pragma unroll
  for (int i = 0; i < 2 * runs; ++i) {
    int const k = k0 + 2 * tiles * t, at = ((n * g.p + p) * g.q + q + 8 * i) * g.k + k;
    float v[2 * tiles];
#pragma unroll
    for (int e = 0; e < 2 * tiles; ++e) {
      int const from = i % 2 * 2 + e % 2;
      v[e] = through_slots(a.slots, few, sum[i / 2][e / 2][from] + rest[i / 2][e / 2][from] + (a.bias ? a.bias[k + e] : 0), at + e);
    }
    if constexpr (tiles == 2) *reinterpret_cast<float4*>(a.result + at) = make_float4(v[0], v[1], v[2], v[3]);
    else *reinterpret_cast<float2*>(a.result + at) = make_float2(v[0], v[1]);
  }
}

// ---------------------------------------------------------------- data gradient

constexpr int data_segments = 2, data_threads = data_segments * 3 * 32;
constexpr int fours_pitch = 4 * taps * 4 + 8;          // words from 4 filters to the next 4: 4 of these by 8 columns lie in 32 banks

// Grid: 2 segments; channels by 4. Column 4 u + e of the product is channel e of the pair's pixel u.
__global__ void __launch_bounds__(data_threads) mma_data(Geometry const g, Pointers const a) {
  __shared__ __align__(16) float filter[most_filters / 4 * fours_pitch];
  __shared__ float4 parts[data_segments][2][32];
  int const warp = threadIdx.x / 32, lane = threadIdx.x % 32, pair = lane / 4, t = lane % 4, c = blockIdx.y * 4, y = warp % 3;   // y: row of dy under the three taps
  bool const few = a.slots.few();
  wait_for_work_ahead();
  let_next_begin();
  for (int i = threadIdx.x; i < g.k * taps; i += data_threads)
    copy_async<16>(filter + i / (4 * taps) * fours_pitch + i % (4 * taps) * 4, a.filter + i * g.c + c, true);
  int const segment = blockIdx.x * data_segments + warp / 3;
  int h, w;
  int const n = g.by_rows(g.by_segments(segment, w), h);
  bool const any = segment < g.segments;
  w = w * 32 + 2 * pair;
  int const p = h + g.pad_top - 2 + y, q = w + g.pad_left - 2, u = pair / 4, e = pair % 4;
  bool const in = any && unsigned(p) < unsigned(g.p);
  float const* const from = a.dy + ((n * g.p + p) * g.q + q) * g.k + 4 * t;
  float sum[4] = {}, rest[4] = {};
  for (int k = 0; k < g.k; k += 16) {
    float4 near[4], far[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      near[j] = four(from + j * g.k + k, in && unsigned(q + j) < unsigned(g.q));
      far[j] = four(from + (j + 16) * g.k + k, in && unsigned(q + j + 16) < unsigned(g.q));
    }
    if (k == 0) {
      copy_async_wait();
      __syncthreads();
    }
    float const* const weights = filter + (k / 4 + t) * fours_pitch + (2 - y) * 12 + e;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      int const s = u + 2 - j;   // the tap that joins pixel u of the pair and pixel j of the row
      bool const joined = unsigned(s) < 3u;
      float const* const tap = weights + (joined ? s : 0) * 4;
      float const b[4] = {tap[0], tap[taps * 4], tap[2 * taps * 4], tap[3 * taps * 4]};
      multiply(sum, rest, Left(near[j].x, far[j].x, near[j].y, far[j].y), Right(joined ? b[0] : 0.f, joined ? b[1] : 0.f));
      multiply(sum, rest, Left(near[j].z, far[j].z, near[j].w, far[j].w), Right(joined ? b[2] : 0.f, joined ? b[3] : 0.f));
    }
  }
  float4 total = make_float4(sum[0] + rest[0], sum[1] + rest[1], sum[2] + rest[2], sum[3] + rest[3]);
  if (y > 0) parts[warp / 3][y - 1][lane] = total;
  __syncthreads();
  if (y > 0 || !any) return;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float4 const other = parts[warp / 3][i][lane];
    total.x += other.x, total.y += other.y, total.z += other.z, total.w += other.w;
  }
  int const at = ((n * g.h + h) * g.w + w + t / 2) * g.c + c + t % 2 * 2, below = at + 16 * g.c;
  *reinterpret_cast<float2*>(a.result + at) = make_float2(through_slots(a.slots, few, total.x, at), through_slots(a.slots, few, total.y, at + 1));
  *reinterpret_cast<float2*>(a.result + below) = make_float2(through_slots(a.slots, few, total.z, below), through_slots(a.slots, few, total.w, below + 1));
}

// ---------------------------------------------------------------- filter gradient

// Grid: blocks of a cluster, taps in twos; filters by 16; channels by 4. Rows 8 i + f of the product are filters 2 f + i.
__global__ void __launch_bounds__(32 * most_warps) mma_filter(Geometry const g, Pointers const a) {
  constexpr int results = 16 * 8;
  __shared__ float4 partial[most_warps][32];
  __shared__ float blocks[most_together][results];     // of the cluster's first block: all blocks' sums
  auto const cluster = this_cluster();
  int const rank = int(cluster.block_rank()), together = int(cluster.num_blocks()), warps = blockDim.x / 32;
  int const warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4, t = lane % 4;
  int const first_tap = blockIdx.x / together * 2, tap = first_tap + row / 4, k0 = blockIdx.y * 16, c = blockIdx.z * 4;
  if (together > 1) cluster.barrier_arrive();          // all blocks run before anyone writes to the first
  wait_for_work_ahead();
  float const spare = tap == taps && row % 4 == 0 ? 1.f : 0.f;
  int const r = tap / 3, s = tap - 3 * r;
  float sum[4] = {}, rest[4] = {};
  for (int segment = rank * warps + warp; segment < g.segments; segment += together * warps) {
    int p, q;
    int const n = g.by_rows(g.by_segments(segment, q), p);
    q *= 32;
    int const y = p - g.pad_top + r, column = q - g.pad_left + s + t;
    bool const in = tap < taps && unsigned(y) < unsigned(g.h);
    float const *const dy = a.dy + ((n * g.p + p) * g.q + q + t) * g.k + k0 + 2 * row, *const x = a.x + ((n * g.h + y) * g.w + column) * g.c + c + row % 4;
    float2 d[8];
    float v[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      d[i] = two(dy + 4 * i * g.k);
      v[i] = in && unsigned(column + 4 * i) < unsigned(g.w) ? x[4 * i * g.c] : spare;
    }
#pragma unroll
    for (int i = 0; i < 8; i += 2) multiply(sum, rest, Left(d[i].x, d[i].y, d[i + 1].x, d[i + 1].y), Right(v[i], v[i + 1]));
  }
  let_next_begin();
  partial[warp][lane] = make_float4(sum[0] + rest[0], sum[1] + rest[1], sum[2] + rest[2], sum[3] + rest[3]);
  __syncthreads();
  int const i = threadIdx.x;
  if (i < results) {
    float total = 0;
#pragma unroll 8
    for (int j = 0; j < warps; ++j) total += reinterpret_cast<float const*>(partial[j])[i];
    if (together > 1) {
      cluster.barrier_wait();
      cluster.map_shared_rank(&blocks[0][0], 0)[rank * results + i] = total;
    } else {
      blocks[0][i] = total;
    }
  } else if (together > 1) {
    cluster.barrier_wait();
  }
  if (together > 1) cluster.sync();
  if (rank > 0 || i >= results) return;
  float total = 0;
#pragma unroll
  for (int j = 0; j < most_together; ++j) total += j < together ? blocks[j][i] : 0.f;
  // Number i is word i % 4 of lane i / 4: row (i / 4) / 4 + 8 * (word / 2), column 2 * (lane % 4) + word % 2.
  int const filter = k0 + i / 16 * 2 + i % 4 / 2, column = i / 4 % 4 * 2 + i % 2, to = first_tap + column / 4, channel = c + column % 4;
  if (to < taps) a.result[(filter * taps + to) * g.c + channel] = total;
  else if (a.db && channel == 0) a.db[filter] = total;
}

// ---------------------------------------------------------------- host

std::string reject(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (facts.compute_capability < 90) return "needs compute capability 9.0";
  if (!p.one_type(DType::f32)) return "f32 only";
  if (p.layout != Layout::nhwc) return "nhwc only";
  if (p.groups != 1 || p.stride_h != 1 || p.stride_w != 1 || p.dilation_h != 1 || p.dilation_w != 1) return "groups, stride or dilation";
  if (p.r != 3 || p.s != 3) return "filters of 3x3 only";
  if (p.c % 4 || p.c > most_channels) return "multiples of 4 channels up to 16 only";
  if (p.k % (p.direction == Direction::fwd ? 8 : 16) || p.k > most_filters) return "multiples of 8 filters (gradients: 16) up to 64 only";
  if (p.w % 32 || p.q() % 32) return "rows of x or y that are no multiple of 32 pixels";
  if (p.load_x != OnLoad{} || p.load_dy != OnLoad{}) return "slots of x or dy";
  if (p.store.mask == Mask::relu6) return "a mask of relu6";
  auto const& s = p.store;
  if (s.affine != Affine::none || s.stats != Stats::none || s.pool.kind != PoolSlot::none) return "an affine, pooling or statistics of the result";
  if (p.direction == Direction::bwd_data && s.bias) return "the data gradient has no bias";
  if (p.operations() > 1e9) return "a convolution that is not small";
  return {};
}

int segments_of(ConvProblem const& p) {
  return p.direction == Direction::fwd ? p.n * p.p() * (p.q() / 16) : p.direction == Direction::bwd_data ? p.n * p.h * (p.w / 32) : p.n * p.p() * (p.q() / 32);
}
int warps_of(ConvProblem const& p, Config const& config) {   // of a block of the filter gradient
  int const together = config.get("together", 1);
  return std::clamp((segments_of(p) + together - 1) / together, 4, std::clamp(config.get("warps", 16), 4, most_warps));
}

// Fitted to li2019 on one H200, with the launch as `unstaged` counts it.
double seconds_with(ConvProblem const& p, Config const& config) {
  double const products = segments_of(p) * (p.c / 4) * (p.k / 16.0);
  if (p.direction == Direction::fwd) return config.get("runs", 1) == 2 ? 2.75e-6 + products * 0.27e-9 : 2.25e-6 + products * 1.1e-9;
  if (p.direction == Direction::bwd_data) return 2.9e-6 + products * 1.2e-9;
  double const segments = segments_of(p);
  int const together = config.get("together", 1);
  double const blocks = 5.0 * (p.k / 16) * (p.c / 4) * together, warps = warps_of(p, config), each = std::ceil(segments / together / warps);
  return 3.4e-6 + (together > 1 ? 0.3e-6 : 0) + std::ceil(blocks / 132) * each * (0.3e-6 + warps * 0.015e-6);
}
// runs: segments of a warp, forward; together: blocks of a cluster, warps: of a block, in the filter gradient.
std::vector<Config> configs(ConvProblem const& p, DeviceFacts const&) {
  if (p.direction == Direction::bwd_data) return {Config{}};
  std::vector<std::pair<double, Config>> ways;
  if (p.direction == Direction::fwd)
    for (int runs : {1, 2}) ways.emplace_back(0, Config{{"runs", runs}});
  else
    for (int together : {8, 16, 4, 1})
      for (int warps : {16, 32}) {
        Config const config{{"together", together}, {"warps", warps}};
        if (warps == 16 || warps_of(p, config) > 16) ways.emplace_back(0, config);
      }
  for (auto& way : ways) way.first = seconds_with(p, way.second);
  std::stable_sort(ways.begin(), ways.end(), [](auto const& a, auto const& b) { return a.first < b.first; });
  std::vector<Config> out;
  for (auto const& way : ways) out.push_back(way.second);
  return out;
}
double seconds(ConvProblem const& p, DeviceFacts const& facts) { return seconds_with(p, configs(p, facts).front()); }

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  bool const fwd = p.direction == Direction::fwd, data = p.direction == Direction::bwd_data, filter = p.direction == Direction::bwd_filter;
  int const segments = segments_of(p);
  Geometry const g{p.h, p.w, p.c, p.k, p.p(), p.q(), p.pad_top, p.pad_left, segments,
                   FastDivide(fwd ? p.q() / 16 : data ? p.w / 32 : p.q() / 32), FastDivide(data ? p.h : p.p()), FastDivide(taps * p.c / 4)};
  Pointers const a{args.x.as<float>(), args.w.as<float>(), args.y.as<float>(), filter ? nullptr : args.bias.as<float>(),
                   (filter ? args.w : data ? args.x : args.y).as<float>(), filter && p.store.bias ? args.bias.as<float>() : nullptr,
                   {args.residual.as<float>(), p.store.mask != Mask::none ? args.mask.as<float>() : nullptr, p.store.act}};
  if (filter) {
    static bool const allowed = (check_cuda(cudaFuncSetAttribute(mma_filter, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), "cudaFuncSetAttribute"), true);
    (void)allowed;
    int const together = config.get("together", 1);
    launch_ahead(mma_filter, dim3(unsigned(5 * together), unsigned(p.k / 16), unsigned(p.c / 4)), dim3(unsigned(32 * warps_of(p, config))), 0, together, stream, g, a);
  } else if (data) {
    launch_ahead(mma_data, dim3(unsigned((segments + data_segments - 1) / data_segments), unsigned(p.c / 4)), dim3(data_threads), 0, 1, stream, g, a);
  } else {
    int const tiles = p.k % 16 == 0 ? 2 : 1, runs = config.get("runs", 1);
    auto const kernel = tiles == 2 ? (runs == 2 ? mma_forward<2, 2> : mma_forward<2, 1>) : (runs == 2 ? mma_forward<1, 2> : mma_forward<1, 1>);
    launch_ahead(kernel, dim3(unsigned((segments + 4 * runs - 1) / (4 * runs)), unsigned(p.k / (8 * tiles))), dim3(forward_threads), 0, 1, stream, g, a);
  }
  check_launch("conv unstaged_mma", p, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_unstaged_mma{
    .name = "unstaged_mma", .target = DeviceKind::cuda, .reject = reject, .configs = configs, .seconds = seconds, .run = run,
    .unasked = products_of_three};

}  // namespace falconet
