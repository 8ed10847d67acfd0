// The matrix product of small networks on the ordinary cores of an NVIDIA GPU, made for the shortest way from the operands to the result: a
// block makes 16x32 results, its 8 warps take every eighth index of the sum, and up to 8 blocks share a sum by forming a cluster that adds
// through each other's shared memory, in order. One launch, no scratch. Copies to shared memory are under way 128 deep at once. Sums in f32.
// Limits: f32, at most 2^26 multiply-adds. Cost: 2 m n k operations at 4 to 10 TFLOP/s, the operands once per 16 rows and 32 columns.
#include <algorithm>
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/cluster.cuh"
#include "falconet/device/cuda/copy_async.cuh"
#include "falconet/device/cuda/divide.cuh"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/ops/gemm/cuda/small.h"

namespace falconet {
namespace {

constexpr int threads = 256, warps = 8, tile_m = 16, tile_n = 32, depth = 128, most_together = 8;

struct Work {
  int m, n, k, part;                     // part: depth of one block's share of the sum
  int a_row, a_column, b_row, b_column;  // steps in memory
  float const *a, *b, *bias, *residual, *mask;
  float* y;
  Activation act;
  GemmImage::Which image;                // b, y: columns count as memory does, the other of the two has them in flatten's order
  int pixels;
  FastDivide by_channels;
};

__global__ void __launch_bounds__(threads) small(Work const w) {
  constexpr int left_row = tile_m + 4, right_row = tile_n + 4, results = tile_m * tile_n;
  __shared__ __align__(16) float left[depth * left_row], right[depth * right_row], sums[warps][results], result[results];
  auto const cluster = this_cluster();
  int const t = threadIdx.x, lane = t % 32, warp = t / 32, rank = int(cluster.block_rank()), together = int(cluster.num_blocks());
  int const tile = blockIdx.x / together, tiles_n = (w.n + tile_n - 1) / tile_n, m0 = tile / tiles_n * tile_m, n0 = tile % tiles_n * tile_n;
  int const begin = rank * w.part, end = min(w.k, begin + w.part);
  bool const a_along = w.a_column == 1, b_along = w.b_row == 1;   // neighbouring threads read neighbouring elements
  auto const flattened = [&](int c) {
    int channel;
    int const pixel = w.by_channels(c, channel);
    return channel * w.pixels + pixel;
  };
  wait_for_work_ahead();
  float sum[4][4] = {};
  int const row = lane / 8 * 4, column = lane % 8 * 4;
  for (int k0 = begin; k0 < end; k0 += depth) {
    if (k0 > begin) __syncthreads();
#pragma unroll 4
    for (int at = t; at < tile_m * depth; at += threads) {
      int const kk = a_along ? at % depth : at / tile_m, line = a_along ? at / depth : at % tile_m, r = m0 + line;
      bool const in = r < w.m && k0 + kk < end;
      copy_async<4>(left + kk * left_row + line, w.a + (in ? r * w.a_row + (k0 + kk) * w.a_column : 0), in);
    }
#pragma unroll 4
    for (int at = t; at < tile_n * depth; at += threads) {
      int const kk = b_along ? at % depth : at / tile_n, line = b_along ? at / depth : at % tile_n, c = n0 + line;
      bool const in = c < w.n && k0 + kk < end;
      copy_async<4>(right + kk * right_row + line, w.b + (in ? (k0 + kk) * w.b_row + (w.image == GemmImage::y ? flattened(c) : c) * w.b_column : 0), in);
    }
    copy_async_wait();
    __syncthreads();
    int const here = min(depth, end - k0);
#pragma unroll 4
    for (int kk = warp; kk < here; kk += warps) {
      float4 const u = *reinterpret_cast<float4 const*>(left + kk * left_row + row), v = *reinterpret_cast<float4 const*>(right + kk * right_row + column);
      float const us[4] = {u.x, u.y, u.z, u.w}, vs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[i][j] = fmaf(us[i], vs[j], sum[i][j]);
    }
  }
  let_next_begin();
#pragma unroll
  for (int i = 0; i < 4; ++i) *reinterpret_cast<float4*>(&sums[warp][(row + i) * tile_n + column]) = make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
  __syncthreads();
  for (int i = t; i < results; i += threads) {
    float total = sums[0][i];
#pragma unroll
    for (int j = 1; j < warps; ++j) total += sums[j][i];
    result[i] = total;
  }
  if (together > 1) cluster.sync();
  else __syncthreads();
  for (int i = rank * threads + t; i < results; i += together * threads) {
    float v = result[i];
    if (together > 1) {
      float part[most_together];
#pragma unroll
      for (int other = 0; other < most_together; ++other) part[other] = other < together ? cluster.map_shared_rank(result, other)[i] : 0;
      v = 0;
#pragma unroll
      for (int other = 0; other < most_together; ++other) v += part[other];
    }
    int const r = m0 + i / tile_n, c = n0 + i % tile_n;
    if (r >= w.m || c >= w.n) continue;
    int const at = r * w.n + c;
    if (w.bias) v += w.bias[c];
    if (w.residual) v += w.residual[at];
    if (w.act != Activation::none) v = activate(w.act, v);
    if (w.mask && !(w.mask[at] > 0)) v = 0;
    w.y[w.image == GemmImage::b ? r * w.n + flattened(c) : at] = v;
  }
  if (together > 1) cluster.sync();   // nobody leaves while its results are read
}

int tiles_of(GemmProblem const& p) { return int((p.m + tile_m - 1) / tile_m * ((p.n + tile_n - 1) / tile_n)); }
// Blocks that share a sum: enough to fill the card, each with 64 or more of it.
int together_of(GemmProblem const& p) {
  int together = 1;
  while (together < most_together && tiles_of(p) * together < 100 && p.k / (2 * together) >= 64) together *= 2;
  return together;
}

std::string reject(GemmProblem const& p, DeviceFacts const& facts) {
  if (!p.one_type(DType::f32)) return "f32 only";
  if (facts.compute_capability < 90) return "clusters of blocks need compute capability 9.0";
  if (p.image.which == GemmImage::a) return "a left operand that lies as images";
  if (p.image.which != GemmImage::none && p.store != OnStore{} && (p.image.which == GemmImage::b || p.store.bias)) return "slots of images";
  if (double(p.m) * double(p.n) * double(p.k) > double(1 << 26) || p.m * p.k > 1 << 26 || p.k * p.n > 1 << 26 || p.m * p.n > 1 << 26) return "a large product";
  return {};
}
double seconds(GemmProblem const& p, DeviceFacts const&) {
  int const together = together_of(p);
  double const slabs = std::ceil(std::ceil(double(p.k) / together) / depth), waves = std::ceil(double(tiles_of(p)) * together / 264);
  return 2.5e-6 + waves * 2 * slabs * 0.6e-6 + (together > 1 ? 0.6e-6 : 0);
}

void run(GemmProblem const& p, Config const&, GemmArgs const& args, View, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  int const together = together_of(p), m = int(p.m), n = int(p.n), k = int(p.k);
  Work const w{m, n, k, (k + together - 1) / together, p.trans_a ? 1 : k, p.trans_a ? m : 1, p.trans_b ? 1 : n, p.trans_b ? k : 1,
               args.a.as<float>(), args.b.as<float>(), args.bias.as<float>(), args.residual.as<float>(), p.store.mask == Mask::relu ? args.mask.as<float>() : nullptr,
               args.y.as<float>(), p.store.act, p.image.which, p.image.pixels(), FastDivide(p.image.c)};
  launch_ahead(small, dim3(unsigned(tiles_of(p) * together)), dim3(threads), 0, together, stream, w);
  check_launch("gemm small", p, stream);
}

}  // namespace

Algorithm<GemmProblem> gemm_cuda_small() { return {.name = "small", .target = DeviceKind::cuda, .reject = reject, .seconds = seconds, .run = run}; }

}  // namespace falconet
