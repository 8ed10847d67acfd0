// The parts of one_wave that do not depend on how a block makes its tile: how blocks wait for one another, and how each of them makes batch norm's
// vectors from the sums of all.
#pragma once
#include <algorithm>
#include <string>

#include "falconet/device/cuda/divide.cuh"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/ops/conv/cuda/small_channels.cuh"
#include "falconet/ops/conv_norm/problem.h"

namespace falconet::one_wave_parts {

constexpr int multiprocessors = 132;  // of the H100 and H200; fixed, so that results do not depend on the card
using small_channels::Place;
using small_channels::Tiles;

struct Work {
  bf16 const *in = nullptr, *residual = nullptr, *mask = nullptr, *other = nullptr, *skip = nullptr;
  bf16 *out = nullptr, *result = nullptr;      // out: y or d; null where nobody reads d
  void const* filter = nullptr;
  bool filter_f32 = false;
  Tiles tiles;
  FastDivide by_image, by_columns, by_across, by_down;   // of a tile's pixels: an image's, a row's; of tiles: those of a row, rows of an image
  int n = 0, height = 0, width = 0, real = 0;  // of `in`; real: its channels in memory
  int rows = 0, columns = 0;                   // of the result
  int stride = 1, pad_top = 0, pad_left = 0;
  StepState const* step = nullptr;
  float const *gamma = nullptr, *beta = nullptr, *sums = nullptr;   // sums: of the forward pass, for the gradient
  float *stats = nullptr, *running_mean = nullptr, *running_var = nullptr, *dgamma = nullptr, *dbeta = nullptr;
  double per_sample = 1, eps = 0, momentum = 0;
  bool relu = false, relu6 = false;
  float* partial = nullptr;                    // [blocks][2][N]
  unsigned* arrivals = nullptr;
};

// All blocks of the launch have come here, and what they wrote before can be read. One thread of a block; leave() when nothing is left to do.
FALCONET_DEVICE void meet(unsigned* arrivals) {
  unsigned here;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;" : "=r"(here) : "l"(arrivals) : "memory");
  here = (here & 0xffffu) + 1;
  while (here < gridDim.x) {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(here) : "l"(arrivals) : "memory");
    here &= 0xffffu;
  }
}
FALCONET_DEVICE void leave(unsigned* arrivals) {
  if (atomicAdd(arrivals, 0x10000u) >> 16 == gridDim.x - 1) atomicExch(arrivals, 0u);
}

// A pixel of a block's tile: where its matrix row begins, in bytes from the tile's first, its element in the result, and its image; -1 outside.
struct Pixel {
  int matrix, to, image;
};
FALCONET_DEVICE Place place_of_block(Work const& w) {
  int across, down;
  int const line = w.by_across(blockIdx.x, across), n = w.by_down(line, down);
  return {n * w.tiles.group, down * w.tiles.rows, across * w.tiles.columns};
}
template <int N>
FALCONET_DEVICE Pixel locate(Work const& w, Place const& at, int p, int pixel_bytes) {
  Tiles const& t = w.tiles;
  int const last = t.group * t.rows * t.columns - 1;
  int in_image, column;
  int const g = w.by_image(min(p, last), in_image), row = w.by_columns(in_image, column);
  bool const inside = p <= last && at.n + g < w.n && at.row + row < w.rows && at.column + column < w.columns;
  return {((g * t.in_rows + row * w.stride) * t.in_columns + column * w.stride) * pixel_bytes,
          inside ? (((at.n + g) * w.rows + at.row + row) * w.columns + at.column + column) * N : -1, at.n + g};
}

// Adds v over the lanes that differ in bits 2 to 4, by halves: of count values a lane keeps the count / 8 from first_kept<count>(lane) on.
template <int n, int count>
FALCONET_DEVICE void add_half(float (&v)[count], bool up, int lanes) {
#pragma unroll
  for (int i = 0; i < n / 2; ++i) {
    float const keep = up ? v[i + n / 2] : v[i], give = up ? v[i] : v[i + n / 2];
    v[i] = keep + __shfl_xor_sync(~0u, give, lanes);
  }
}
template <int count>
FALCONET_DEVICE void add_lanes(float (&v)[count], int lane) {
  add_half<count>(v, lane & 16, 16);
  add_half<count / 2>(v, lane & 8, 8);
  add_half<count / 4>(v, lane & 4, 4);
}
template <int count>
FALCONET_DEVICE int first_kept(int lane) { return (lane >> 4 & 1) * (count / 2) + (lane >> 3 & 1) * (count / 4) + (lane >> 2 & 1) * (count / 8); }

// What the vectors are made of beside the sums, ahead of them: by the first N threads, a channel each.
template <int N, bool gradient>
struct Own {
  double gamma = 0, count = 1, per = 1;
  double beta = 0, mean = 0, inverse = 0;      // fwd: beta; gradient: mean and deviation of the forward pass
  float running_mean = 0, running_var = 0;     // fwd
  FALCONET_DEVICE explicit Own(Work const& w) {
    int const c = threadIdx.x;
    if (c >= N) return;
    gamma = double(w.gamma[c]);
    double const first = double(gradient ? w.sums[c] : w.beta[c]), second = gradient ? double(w.sums[N + c]) : 0;
    if constexpr (!gradient) running_mean = w.running_mean[c], running_var = w.running_var[c];
    count = double(max(w.step->valid_count, 1)) * w.per_sample, per = 1 / count;
    beta = first;
    if constexpr (gradient) mean = first * per, inverse = rsqrt(fmax(second * per - mean * mean, 0.0) + w.eps);
  }
};

// From the sums in `table` (its first `rows` rows, one below the other, make the block's) to `vectors`: scale and shift, or the three of two_operand.
// meanwhile(): work while blocks wait for one another. Ends with a barrier of the block.
template <int N, int threads, int rows, bool gradient, class Meanwhile>
FALCONET_DEVICE void make_vectors(Work const& w, float (*table)[2 * N], float* totals, float (*vectors)[N], Own<N, gradient> const& own, Meanwhile const& meanwhile) {
  constexpr int columns = 2 * N / 4, warps = threads / 32;   // a thread always adds the same four sums
  static_assert(threads % columns == 0 && columns <= 32);
  int const warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  __syncthreads();
  if (warp == 0) {
    for (int i = lane; i < 2 * N; i += 32) {
      float sum = 0;
#pragma unroll 8
      for (int k = 0; k < rows; ++k) sum += table[k][i];
      __stcg(w.partial + blockIdx.x * 2 * N + i, sum);
    }
    __syncwarp();
    if (lane == 0) meet(w.arrivals);
  }
  meanwhile();
  __syncthreads();

  constexpr int most = (multiprocessors * columns + threads - 1) / threads;
  float4 v[most], sum = make_float4(0, 0, 0, 0);   // all under way before the first is added
#pragma unroll
  for (int u = 0; u < most; ++u) {
    int const i = threadIdx.x + u * threads;
    v[u] = i < int(gridDim.x) * columns ? __ldcg(reinterpret_cast<float4 const*>(w.partial) + i) : make_float4(0, 0, 0, 0);
  }
#pragma unroll
  for (int u = 0; u < most; ++u) sum.x += v[u].x, sum.y += v[u].y, sum.z += v[u].z, sum.w += v[u].w;
#pragma unroll
  for (int step = columns; step < 32; step *= 2) {
    sum.x += __shfl_xor_sync(~0u, sum.x, step), sum.y += __shfl_xor_sync(~0u, sum.y, step);
    sum.z += __shfl_xor_sync(~0u, sum.z, step), sum.w += __shfl_xor_sync(~0u, sum.w, step);
  }
  if (lane < columns) reinterpret_cast<float4*>(table[warp])[lane] = sum;
  __syncthreads();
  for (int i = threadIdx.x / 4; i < 2 * N; i += threads / 4) {   // four threads a sum
    double total = 0;
#pragma unroll
    for (int k = 0; k < warps / 4; ++k) total += double(table[k * 4 + (threadIdx.x & 3)][i]);
    total += __shfl_xor_sync(~0u, total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    if ((threadIdx.x & 3) == 0) totals[i] = float(total);
  }
  __syncthreads();
  if (int const c = threadIdx.x; c < N) {
    double const a = double(totals[c]), b = double(totals[N + c]);   // fwd: sum, squares; gradient: dscale, dshift
    if constexpr (gradient) {
      double const g = a - own.mean * b, scale = own.gamma * own.inverse, dvar = -0.5 * g * own.gamma * own.inverse * own.inverse * own.inverse,
                   dmean = -scale * b - 2 * own.mean * dvar;
      vectors[0][c] = float(scale);
      vectors[1][c] = float(2 * dvar * own.per);
      vectors[2][c] = float(dmean * own.per);
      if (blockIdx.x == 0) w.dgamma[c] = float(g * own.inverse), w.dbeta[c] = float(b);
    } else {
      double const mean = a * own.per, var = fmax(b * own.per - mean * mean, 0.0), scale = own.gamma * rsqrt(var + w.eps);
      vectors[0][c] = float(scale);
      vectors[1][c] = float(own.beta - mean * scale);
      if (blockIdx.x == 0) {
        w.stats[c] = totals[c], w.stats[N + c] = totals[N + c];
        w.running_mean[c] = float((1 - w.momentum) * double(own.running_mean) + w.momentum * mean);
        w.running_var[c] = float((1 - w.momentum) * double(own.running_var) + w.momentum * var * own.count / fmax(own.count - 1, 1.0));
      }
    }
  }
  __syncthreads();
}

// One value of the result. v: what the convolution made, u: the skip (fwd), or what the sums were taken with.
template <bool gradient>
FALCONET_DEVICE float apply(Work const& w, float v, float u, float const (&of)[gradient ? 3 : 2], bool counts) {
  if constexpr (gradient) return counts ? of[0] * v + (of[1] * u + of[2]) : 0.f;
  v = of[0] * v + of[1] + u;
  if (w.relu) v = v < 0 ? 0.f : v;
  if (w.relu6) v = v > 6 ? 6.f : v;
  return v;
}

// ---------------------------------------------------------------- host

// Blocks that wait for one another: all are on the card at once, or the launch fails.
template <class... Parameters, class... Arguments>
void launch_together(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared, cudaStream_t stream, Arguments&&... arguments) {
  cudaLaunchAttribute attribute[2];
  attribute[0].id = cudaLaunchAttributeCooperative;
  attribute[0].val.cooperative = 1;
  attribute[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = attribute;
  config.numAttrs = kernels_compiled_for() < 90 ? 1 : 2;
  (void)cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

// What is refused whatever the channels.
inline std::string rejects_one_wave(ConvNormProblem const& whole, DeviceFacts const& facts) {
  auto const& p = whole.conv;
  if (facts.compute_capability < 80) return "products in bf16 need compute capability 8.0";
  if (facts.multiprocessors < multiprocessors) return "fewer than 132 multiprocessors: not all blocks are on the card at once";
  if (p.x_type != DType::bf16 || p.y_type != DType::bf16 || p.layout != Layout::nhwc) return "bf16 and nhwc only";
  if (p.groups != 1 || p.dilation_h != 1 || p.dilation_w != 1) return "groups or dilation";
  if (p.r != p.s) return "square filters only";
  if (p.stride_h != p.stride_w || p.stride_h > 2) return "strides 1 and 2 only";
  if (p.direction != Direction::fwd && p.stride_h != 1) return "a data gradient with stride";
  if (p.load_x != OnLoad{} || p.store.bias) return "a bias or slots on load";
  if (p.store.mask != Mask::none && p.store.mask != Mask::relu) return "a mask other than relu's";
  if (p.h > 60000 || p.w > 60000) return "maps wider than 60000";
  if (double(p.n) * std::max(double(p.p()) * p.q() * p.k, double(p.h) * p.w * p.c) >= double(1 << 30)) return "2^30 elements or more";
  return {};
}

inline Work work_of(ConvNormProblem const& whole, Tiles const& tiles, ConvNormArgs const& args, View memory, Stream& on) {
  auto const& p = whole.conv;
  auto const& c = args.conv;
  auto const& b = args.norm;
  bool const gradient = p.direction == Direction::bwd_data;
  Work w;
  w.tiles = tiles;
  w.by_image = FastDivide(tiles.rows * tiles.columns), w.by_columns = FastDivide(tiles.columns);
  w.by_across = FastDivide(tiles.across), w.by_down = FastDivide(tiles.down);
  w.in = (gradient ? c.y : c.x).as<bf16>();
  w.out = (gradient ? c.x : c.y).as<bf16>();
  w.result = b.y.as<bf16>();
  w.filter = c.w.data, w.filter_f32 = p.w_type == DType::f32;
  w.n = p.n, w.real = gradient ? p.k : p.c, w.rows = gradient ? p.h : p.p(), w.columns = gradient ? p.w : p.q();
  w.height = gradient ? p.p() : p.h, w.width = gradient ? p.q() : p.w;
  w.stride = p.stride_h;
  w.pad_top = gradient ? p.r - 1 - p.pad_top : p.pad_top, w.pad_left = gradient ? p.s - 1 - p.pad_left : p.pad_left;
  if (p.store.residual) w.residual = c.residual.as<bf16>();
  if (p.store.mask != Mask::none) w.mask = c.mask.as<bf16>();
  if (gradient) w.other = c.other.as<bf16>(), w.sums = b.sums.as<float>(), w.dgamma = b.dgamma.as<float>(), w.dbeta = b.dbeta.as<float>();
  else w.beta = b.beta.as<float>(), w.stats = c.stats.as<float>(), w.running_mean = b.running_mean.as<float>(), w.running_var = b.running_var.as<float>();
  if (whole.skip) w.skip = b.residual.as<bf16>();
  w.step = c.step, w.gamma = b.gamma.as<float>();
  w.per_sample = double(whole.norm().per_sample), w.eps = whole.eps, w.momentum = whole.momentum;
  w.relu = whole.act != Activation::none, w.relu6 = whole.act == Activation::relu6;
  w.partial = memory.as<float>(), w.arrivals = on.arrivals();
  return w;
}

}  // namespace falconet::one_wave_parts
