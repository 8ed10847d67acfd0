// The matrix product of small networks where both operands lie contiguous along k (the linear layer forward), on the ordinary cores of an NVIDIA
// GPU: a block makes 8x8 results, each of its threads takes four neighbouring indices of the sum, 16 vectors of 4 straight from global memory into
// registers, for 256 multiply-adds. The sums of a warp are added by halves: at each of five steps a lane hands the half that it will not finish
// to its neighbour, so that 62 exchanges leave every lane two results; the warps' sums are added in shared memory. One round trip to memory
// lies between launch and result. Where a lies as images, k counts as memory does and w is read in single words.
// Limits: f32, k a multiple of 4, at most 2^26 multiply-adds. Cost: 2 m n k operations, the operands once per 8 rows and 8 columns.
#include <algorithm>
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/divide.cuh"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/ops/gemm/cuda/small.h"

namespace falconet {
namespace {

constexpr int tile = 8, results = tile * tile, most_threads = 256;

struct Work {
  int m, n, k, tiles_n;
  float const *a, *b, *bias, *residual, *mask;
  float* y;
  Activation act;
  bool image;                 // a lies as images
  int pixels;
  FastDivide by_channels;
};

// v[i] and v[i + count / 2] of this lane and of the one at `lanes`: the lane with `up` keeps the upper half.
template <int count>
__device__ __forceinline__ void add_halves(float (&v)[results], bool up, int lanes) {
#pragma unroll
  for (int i = 0; i < count / 2; ++i) {
    float const keep = up ? v[i + count / 2] : v[i], give = up ? v[i] : v[i + count / 2];
    v[i] = keep + __shfl_xor_sync(~0u, give, lanes);
  }
}

__global__ void __launch_bounds__(most_threads) dot(Work const w) {
  __shared__ float2 sums[most_threads / 32][results / 2];
  int const t = threadIdx.x, lane = t % 32, warp = t / 32, warps = blockDim.x / 32, tile_m = blockIdx.x / w.tiles_n, m0 = tile_m * tile, n0 = (blockIdx.x - tile_m * w.tiles_n) * tile;
  wait_for_work_ahead();
  // The first two warps finish the tile, a thread per result.
  int const row = m0 + t / tile, column = n0 + t % tile, at = row * w.n + column;
  bool const finishes = t < results && row < w.m && column < w.n;
  float const bias = finishes && w.bias ? w.bias[column] : 0, residual = finishes && w.residual ? w.residual[at] : 0;
  bool const passes = !(finishes && w.mask) || w.mask[at] > 0;
  float sum[results] = {};
  for (int k = t * 4; k < w.k; k += blockDim.x * 4) {
    float4 a[tile], b[tile];
#pragma unroll
    for (int i = 0; i < tile; ++i) a[i] = *reinterpret_cast<float4 const*>(w.a + min(m0 + i, w.m - 1) * w.k + k);
    if (!w.image) {
#pragma unroll
      for (int j = 0; j < tile; ++j) b[j] = *reinterpret_cast<float4 const*>(w.b + min(n0 + j, w.n - 1) * w.k + k);
    } else {
      int c[4];
      float const* from[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        int const pixel = w.by_channels(k + e, c[e]);
        from[e] = w.b + c[e] * w.pixels + pixel;
      }
#pragma unroll
      for (int j = 0; j < tile; ++j) {
        int const line = min(n0 + j, w.n - 1) * w.k;
        b[j] = make_float4(from[0][line], from[1][line], from[2][line], from[3][line]);
      }
    }
#pragma unroll
    for (int i = 0; i < tile; ++i)
#pragma unroll
      for (int j = 0; j < tile; ++j) {
        float& s = sum[i * tile + j];
        s = fmaf(a[i].w, b[j].w, fmaf(a[i].z, b[j].z, fmaf(a[i].y, b[j].y, fmaf(a[i].x, b[j].x, s))));
      }
  }
  let_next_begin();
  add_halves<64>(sum, lane & 16, 16), add_halves<32>(sum, lane & 8, 8), add_halves<16>(sum, lane & 4, 4), add_halves<8>(sum, lane & 2, 2), add_halves<4>(sum, lane & 1, 1);
  sums[warp][lane] = make_float2(sum[0], sum[1]);
  __syncthreads();
  for (int i = t; i < results; i += blockDim.x) {     // one warp alone takes two turns
    float total = 0;
    for (int j = 0; j < warps; ++j) total += reinterpret_cast<float const*>(sums[j])[i];
    int const r = m0 + i / tile, c = n0 + i % tile, to = r * w.n + c;
    if (r >= w.m || c >= w.n) continue;
    bool const first = i == t;
    total += first ? bias : w.bias ? w.bias[c] : 0;
    total += first ? residual : w.residual ? w.residual[to] : 0;
    if (w.act != Activation::none) total = activate(w.act, total);
    if (first ? !passes : w.mask && !(w.mask[to] > 0)) total = 0;
    w.y[to] = total;
  }
}

int tiles(std::int64_t v) { return int((v + tile - 1) / tile); }

std::string reject(GemmProblem const& p, DeviceFacts const&) {
  if (!p.one_type(DType::f32)) return "f32 only";
  if (p.trans_a || !p.trans_b) return "operands that are not contiguous along k";
  if (p.k % 4) return "k that is no multiple of 4";
  if (p.image.which != GemmImage::none && p.image.which != GemmImage::a) return "a result or right operand that lies as images";
  if (double(p.m) * double(p.n) * double(p.k) > double(1 << 26) || p.m * p.k > 1 << 26 || p.k * p.n > 1 << 26 || p.m * p.n > 1 << 26) return "a large product";
  return {};
}
double seconds(GemmProblem const& p, DeviceFacts const&) {
  double const waves = std::ceil(double(tiles(p.m)) * tiles(p.n) / 264), turns = std::ceil(double(p.k) / (4 * most_threads));
  return 2.9e-6 + waves * turns * 0.7e-6 + (p.image.which != GemmImage::none ? 0.3e-6 : 0);
}

void run(GemmProblem const& p, Config const&, GemmArgs const& args, View, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  Work const w{int(p.m), int(p.n), int(p.k), tiles(p.n), args.a.as<float>(), args.b.as<float>(), args.bias.as<float>(), args.residual.as<float>(),
               p.store.mask == Mask::relu ? args.mask.as<float>() : nullptr, args.y.as<float>(), p.store.act, p.image.which == GemmImage::a, p.image.pixels(), FastDivide(p.image.c)};
  int const threads = std::min(int((p.k / 4 + 31) / 32 * 32), most_threads);
  launch_ahead(dot, dim3(unsigned(tiles(p.m) * tiles(p.n))), dim3(unsigned(threads)), 0, 1, stream, w);
  check_launch("gemm dot", p, stream);
}

}  // namespace

Algorithm<GemmProblem> gemm_cuda_dot() { return {.name = "dot", .target = DeviceKind::cuda, .reject = reject, .seconds = seconds, .run = run}; }

}  // namespace falconet
