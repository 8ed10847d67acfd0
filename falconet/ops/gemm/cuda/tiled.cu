// The matrix product on the ordinary cores of an NVIDIA GPU: tiles of 64x64 or 32x32 in shared memory, 16 deep, the next slab read while the
// last is multiplied; sums in f32 (f64 for f64). A product with few tiles and a long sum is cut along the sum into equal parts, which a
// second kernel adds in order and finishes. Any sizes, transpositions and mixture of types. Cost: 2 m n k operations at 10 to 25 TFLOP/s.
#include <algorithm>
#include <cmath>

#include "falconet/base/error.h"
#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/element.cuh"
#include "falconet/ops/gemm/algorithms.h"
#include "falconet/ops/gemm/cuda/cublaslt.h"
#include "falconet/ops/gemm/cuda/small.h"
#include "falconet/ops/gemm/cuda/tiled.h"
#include "falconet/ops/gemm/cuda/wgmma.h"

namespace falconet {
namespace {

constexpr int threads = 256, depth = 16;

template <class A>
struct Work {
  std::int64_t m, n, k, part;                          // part: depth of one block's share of the sum
  std::int64_t a_row, a_column, b_row, b_column;       // steps in memory
  A const* bias;
  void const *residual, *mask;
  void* y;
  DType y_type;
  Activation act;
  A* partial;
};

template <class A>
__device__ A get(void const* p, DType t, std::int64_t i) {
  if (t == DType::f64) return A(static_cast<double const*>(p)[i]);
  return t == DType::f32 ? A(static_cast<float const*>(p)[i]) : A(to_float(static_cast<bf16 const*>(p)[i]));
}
// Called, not inlined: it stands at every element of a tile.
template <class A>
__device__ __noinline__ A activated(Activation act, A v) {
  return activate(act, v);
}
template <class A>
__device__ void finish(Work<A> const& w, std::int64_t row, std::int64_t column, A v) {
  std::int64_t const at = row * w.n + column;
  if (w.bias) v += w.bias[column];
  if (w.residual) v += get<A>(w.residual, w.y_type, at);
  if (w.act != Activation::none) v = activated(w.act, v);
  if (w.mask && !(get<A>(w.mask, w.y_type, at) > A(0))) v = 0;
  if (w.y_type == DType::f64) static_cast<double*>(w.y)[at] = double(v);
  else if (w.y_type == DType::f32) static_cast<float*>(w.y)[at] = float(v);
  else put(static_cast<bf16*>(w.y)[at], v);
}

template <class EA, class EB, class A, int tile>
__global__ void __launch_bounds__(threads) tiled(EA const* a, EB const* b, Work<A> const w) {
  constexpr int each = tile * depth / threads, per = tile / 16;
  __shared__ A left[depth][tile + 1], right[depth][tile + 1];
  int const t = threadIdx.x;
  std::int64_t const m0 = blockIdx.x * std::int64_t(tile), n0 = blockIdx.y * std::int64_t(tile), begin = blockIdx.z * w.part, end = min(w.k, begin + w.part);
  // Neighbouring threads read neighbouring elements.
  bool const a_along = w.a_column == 1, b_along = w.b_row == 1;
  int const ai = a_along ? t / depth : t % tile, ak = a_along ? t % depth : t / tile, ai_step = a_along ? threads / depth : 0, ak_step = a_along ? 0 : threads / tile;
  int const bj = b_along ? t / depth : t % tile, bk = b_along ? t % depth : t / tile, bj_step = b_along ? threads / depth : 0, bk_step = b_along ? 0 : threads / tile;
  A next_left[each], next_right[each];
  auto const read = [&](std::int64_t k0) {
#pragma unroll
    for (int i = 0; i < each; ++i) {
      std::int64_t const row = m0 + ai + i * ai_step, k = k0 + ak + i * ak_step, column = n0 + bj + i * bj_step, l = k0 + bk + i * bk_step;
      next_left[i] = row < w.m && k < end ? A(load(a[row * w.a_row + k * w.a_column])) : A(0);
      next_right[i] = column < w.n && l < end ? A(load(b[l * w.b_row + column * w.b_column])) : A(0);
    }
  };
  A sum[per][per] = {};
  int const mine = t / 16, other = t % 16;   // rows mine + 16 i, columns other + 16 j
  read(begin);
  for (std::int64_t k0 = begin; k0 < end; k0 += depth) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < each; ++i) left[ak + i * ak_step][ai + i * ai_step] = next_left[i], right[bk + i * bk_step][bj + i * bj_step] = next_right[i];
    __syncthreads();
    if (k0 + depth < end) read(k0 + depth);
#pragma unroll
    for (int kk = 0; kk < depth; ++kk) {
      A u[per], v[per];
#pragma unroll
      for (int i = 0; i < per; ++i) u[i] = left[kk][mine + 16 * i], v[i] = right[kk][other + 16 * i];
#pragma unroll
      for (int i = 0; i < per; ++i)
#pragma unroll
        for (int j = 0; j < per; ++j) sum[i][j] += u[i] * v[j];
    }
  }
#pragma unroll
  for (int i = 0; i < per; ++i)
#pragma unroll
    for (int j = 0; j < per; ++j) {
      std::int64_t const row = m0 + mine + 16 * i, column = n0 + other + 16 * j;
      if (row >= w.m || column >= w.n) continue;
      if (gridDim.z > 1) w.partial[(blockIdx.z * w.m + row) * w.n + column] = sum[i][j];
      else finish(w, row, column, sum[i][j]);
    }
}

template <class A>
__global__ void __launch_bounds__(threads) add_parts(Work<A> const w, int parts) {
  std::int64_t const i = blockIdx.x * std::int64_t(threads) + threadIdx.x, elements = w.m * w.n;
  if (i >= elements) return;
  A sum = 0;
#pragma unroll 4
  for (int part = 0; part < parts; ++part) sum += w.partial[part * elements + i];
  finish(w, i / w.n, i % w.n, sum);
}

struct Split {
  int tile;
  std::int64_t part;
  int parts;
};
Split split_of(GemmProblem const& p) {
  auto const tiles = [&](std::int64_t tile) { return ((p.m + tile - 1) / tile) * ((p.n + tile - 1) / tile); };
  Split s{};
  s.tile = tiles(64) >= 132 ? 64 : 32;
  std::int64_t const slabs = (p.k + depth - 1) / depth;
  std::int64_t const wanted = std::clamp<std::int64_t>(264 / tiles(s.tile), 1, std::max<std::int64_t>(1, slabs / 4));
  s.part = (slabs + wanted - 1) / wanted * depth;
  s.parts = int((p.k + s.part - 1) / s.part);
  return s;
}

std::string reject(GemmProblem const& p, DeviceFacts const&) {
  bool const all = p.one_type(DType::f64), none = p.a_type != DType::f64 && p.b_type != DType::f64 && p.y_type != DType::f64;
  if (!all && !none) return "f64 beside other types";
  if (p.image.which != GemmImage::none) return "an operand that lies as images";
  if ((p.n + 31) / 32 > 65535) return "more than 2 million columns";
  return {};
}
std::size_t scratch(GemmProblem const& p, Config const&) {
  Split const s = split_of(p);
  return s.parts > 1 ? std::size_t(s.parts) * std::size_t(p.m * p.n) * (p.a_type == DType::f64 ? 8 : 4) : 0;
}
double seconds(GemmProblem const& p, DeviceFacts const&) {
  Split const s = split_of(p);
  double const tiles = std::ceil(double(p.m) / s.tile) * std::ceil(double(p.n) / s.tile) * s.parts;
  return 4e-6 + std::ceil(tiles / 264) * 2 * double(s.part) * s.tile * s.tile / 1.2e11 + (s.parts > 1 ? 3e-6 : 0);
}

template <class EA, class EB, class A>
void launch(GemmProblem const& p, GemmArgs const& args, View memory, cudaStream_t stream) {
  Split const s = split_of(p);
  Work<A> const w{p.m, p.n, p.k, s.part, p.trans_a ? 1 : p.k, p.trans_a ? p.m : 1, p.trans_b ? 1 : p.n, p.trans_b ? p.k : 1, args.bias.as<A>(), args.residual.data,
                  p.store.mask == Mask::relu ? args.mask.data : nullptr, args.y.data, p.y_type, p.store.act, memory.as<A>()};
  dim3 const grid(unsigned((p.m + s.tile - 1) / s.tile), unsigned((p.n + s.tile - 1) / s.tile), unsigned(s.parts));
  if (s.tile == 64) tiled<EA, EB, A, 64><<<grid, threads, 0, stream>>>(args.a.as<EA>(), args.b.as<EB>(), w);
  else tiled<EA, EB, A, 32><<<grid, threads, 0, stream>>>(args.a.as<EA>(), args.b.as<EB>(), w);
  if (s.parts > 1) add_parts<A><<<unsigned((p.m * p.n + threads - 1) / threads), threads, 0, stream>>>(w, s.parts);
  check_launch("gemm tiled", p, stream);
}

void run(GemmProblem const& p, Config const&, GemmArgs const& args, View memory, Stream& on) {
  auto const s = static_cast<cudaStream_t>(on.cuda());
  bool const a16 = p.a_type == DType::bf16, b16 = p.b_type == DType::bf16;
  if (p.a_type == DType::f64) launch<double, double, double>(p, args, memory, s);
  else if (a16 && b16) launch<bf16, bf16, float>(p, args, memory, s);
  else if (a16) launch<bf16, float, float>(p, args, memory, s);
  else if (b16) launch<float, bf16, float>(p, args, memory, s);
  else launch<float, float, float>(p, args, memory, s);
}

}  // namespace

Algorithm<GemmProblem> gemm_cuda_tiled() { return {.name = "tiled", .target = DeviceKind::cuda, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run}; }

std::vector<Algorithm<GemmProblem>> gemm_cuda_algorithms() { return {gemm_cuda_dot(), gemm_cuda_small(), gemm_cuda_wgmma(), gemm_cuda_tiled(), gemm_cuda_cublaslt()}; }

}  // namespace falconet
