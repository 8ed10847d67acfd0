// Convolution as a matrix product on the ordinary cores, tiles in shared memory, the unfolded matrix formed as it is read:
//   forward          result[pixel][k]     = sum over (r, s, c) of x[pixel moved by (r, s)][c] * w[k][(r, s, c)]
//   data gradient    result[pixel][c]     = sum over (r, s, k) of dy[pixel moved back by (r, s)][k] * w[k][(r, s), c]
//   filter gradient  result[k][(r, s, c)] = sum over pixels of dy[pixel][k] * x[pixel moved by (r, s)][c]
// in f32, for tensors of f32 or bf16, channels-last, any sizes. A block of 256 threads makes a tile of tile_m by tile_n by running over the
// sum 16 deep at a time, the next slab being read while the last is multiplied. The filter gradient's sum runs over n*p*q pixels and is cut
// into equal parts for different blocks; the parts are added in order. A strided data gradient reads zeros for the pixels between.
// Cost: 2 n k p q c r s operations (times stride^2 for a data gradient); each operand from L2 once per tile of the other side.
#include <algorithm>
#include <cmath>
#include <vector>

#include "falconet/base/error.h"
#include "falconet/device/cuda/check.h"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/implicit_gemm.cuh"

namespace falconet {
namespace {

using namespace implicit;

template <class E>
__device__ float read_x(Geometry const& g, Slots const& slots, Pointers<E> const& a, Pixel const& y, Tap const& t) {
  int const h = y.row * g.st_h - g.pad_h + t.r * g.d_h, w = y.column * g.st_w - g.pad_w + t.s * g.d_w;
  if (unsigned(h) >= unsigned(g.h) || unsigned(w) >= unsigned(g.w)) return 0;
  float v = load(a.x, ((y.n * g.h + h) * g.w + w) * g.c + t.channel);
  if (slots.load_x == Affine::scale_shift) v = a.load_x[t.channel] * v + a.load_x[g.c + t.channel];
  return slots.load_act == Activation::none ? v : activated(slots.load_act, v);
}
template <class E>
__device__ float read_dy(Geometry const& g, Slots const& slots, Pointers<E> const& a, int pixel, int k) {
  int const i = pixel * g.k + k;
  float v = load(a.y, i);
  if (slots.load_dy == Affine::two_operand) v = a.load_dy[k] * v + a.load_dy[g.k + k] * load(a.other, i) + a.load_dy[2 * g.k + k];
  return v;
}
template <class E>
__device__ float read_dy_at(Geometry const& g, Slots const& slots, Pointers<E> const& a, Pixel const& x, Tap const& t) {
  int const up = x.row + g.pad_h - t.r * g.d_h, left = x.column + g.pad_w - t.s * g.d_w;
  if (up < 0 || left < 0) return 0;
  int off_h, off_w;
  int const p = g.by_st_h(up, off_h), q = g.by_st_w(left, off_w);
  if (off_h || off_w || p >= g.p || q >= g.q) return 0;
  return read_dy(g, slots, a, (x.n * g.p + p) * g.q + q, t.channel);
}

template <class E, Direction direction, int tile_m, int tile_n, int per_m, int per_n>
__global__ void __launch_bounds__(threads) implicit_gemm(Geometry const g, Slots const slots, Pointers<E> const a) {
  static_assert(tile_m / per_m * (tile_n / per_n) == threads);
  constexpr bool filter = direction == Direction::bwd_filter, data = direction == Direction::bwd_data;
  constexpr int rows = tile_m * depth / threads, columns = tile_n * depth / threads;   // elements that a thread reads
  __shared__ __align__(16) float left[depth][tile_m + 4], right[depth][tile_n + 4];
  int const t = threadIdx.x, m0 = blockIdx.x * tile_m, n0 = blockIdx.y * tile_n, begin = blockIdx.z * g.part, end = min(g.sum, begin + g.part);

  // Neighbouring threads read neighbouring elements: along the sum where memory runs along it, else along rows or columns.
  Pixel pixel[filter ? 1 : rows];
  if constexpr (!filter) {
#pragma unroll
    for (int i = 0; i < rows; ++i) pixel[i] = pixel_of(g, min(m0 + t / depth + i * (threads / depth), g.m - 1));
  }
  Tap const column_tap = filter ? tap_of(g, g.by_c, min(n0 + t % tile_n, g.columns - 1)) : Tap{};
  float next_left[rows], next_right[columns];
  auto const read = [&](int k0) {
    if constexpr (!filter) {
      int const kk = k0 + t % depth;
      bool const in = kk < end;
      Tap const tap = tap_of(g, data ? g.by_k : g.by_c, min(kk, g.sum - 1));
#pragma unroll
      for (int i = 0; i < rows; ++i) next_left[i] = !in ? 0 : data ? read_dy_at(g, slots, a, pixel[i], tap) : read_x(g, slots, a, pixel[i], tap);
      if constexpr (!data) {
#pragma unroll
        for (int i = 0; i < columns; ++i) {
          int const n = n0 + t / depth + i * (threads / depth);
          next_right[i] = in && n < g.columns ? load(a.w, n * g.sum + kk) : 0;
        }
      } else {
#pragma unroll
        for (int i = 0; i < columns; ++i) {   // along c
          int const n = n0 + t % tile_n, row = k0 + t / tile_n + i * (threads / tile_n);
          Tap const tap_here = tap_of(g, g.by_k, min(row, g.sum - 1));
          next_right[i] = row < end && n < g.columns ? load(a.w, ((tap_here.channel * g.r + tap_here.r) * g.s + tap_here.s) * g.c + n) : 0;
        }
      }
    } else {
#pragma unroll
      for (int i = 0; i < rows; ++i) {
        int const m = m0 + t % tile_m, row = k0 + t / tile_m + i * (threads / tile_m);
        next_left[i] = row < end && m < g.m ? read_dy(g, slots, a, row, m) : 0;
      }
#pragma unroll
      for (int i = 0; i < columns; ++i) {
        int const row = k0 + t / tile_n + i * (threads / tile_n);
        next_right[i] = row < end && n0 + t % tile_n < g.columns ? read_x(g, slots, a, pixel_of(g, row), column_tap) : 0;
      }
    }
  };
  float sum[per_m][per_n] = {};
  int const my_m = t / (tile_n / per_n) * per_m, my_n = t % (tile_n / per_n) * per_n;
  read(begin);
  for (int k0 = begin; k0 < end; k0 += depth) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < rows; ++i)
      filter ? left[t / tile_m + i * (threads / tile_m)][t % tile_m] = next_left[i] : left[t % depth][t / depth + i * (threads / depth)] = next_left[i];
#pragma unroll
    for (int i = 0; i < columns; ++i)
      filter || data ? right[t / tile_n + i * (threads / tile_n)][t % tile_n] = next_right[i] : right[t % depth][t / depth + i * (threads / depth)] = next_right[i];
    __syncthreads();
    if (k0 + depth < end) read(k0 + depth);
#pragma unroll
    for (int kk = 0; kk < depth; ++kk) {
      float u[per_m], v[per_n];
#pragma unroll
      for (int i = 0; i < per_m; ++i) u[i] = left[kk][my_m + i];
#pragma unroll
      for (int j = 0; j < per_n; ++j) v[j] = right[kk][my_n + j];
#pragma unroll
      for (int i = 0; i < per_m; ++i)
#pragma unroll
        for (int j = 0; j < per_n; ++j) sum[i][j] = fmaf(u[i], v[j], sum[i][j]);
    }
  }
#pragma unroll
  for (int i = 0; i < per_m; ++i)
#pragma unroll
    for (int j = 0; j < per_n; ++j) {
      int const m = m0 + my_m + i, n = n0 + my_n + j;
      if (m >= g.m || n >= g.columns) continue;
      float const v = sum[i][j];
      int const at = m * g.columns + n;
      if constexpr (filter) {
        if (a.partial) a.partial[std::int64_t(blockIdx.z) * g.m * g.columns + at] = v;
        else put(a.w, at, v);
      } else {
        put(data ? a.x : a.y, at, stored(g, slots, a, v, n, at));
      }
    }
}

constexpr Tile tiles_known[] = {{128, 128}, {64, 64}, {128, 16}};

Tile tile_of(Config const& c) { return {c.get("tile_m", 64), c.get("tile_n", 64)}; }

std::string reject(ConvProblem const& p, DeviceFacts const&) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  bool const masters = p.direction == Direction::bwd_filter && p.x_type == DType::bf16 && p.w_type == DType::f32 && p.y_type == DType::bf16;
  if (!p.one_type(DType::f32) && !p.one_type(DType::bf16) && !masters) return "f32 or bf16 only; a filter gradient in f32 from bf16";
  return reject_form(p);
}

double seconds_with(ConvProblem const& p, Tile t) {
  Shape3 const s = product_of(p);
  double const tiles = std::ceil(double(s.m) / t.m) * std::ceil(double(s.n) / t.n);
  auto const [part, parts] = parts_of(p, t);
  bool const filter = p.direction == Direction::bwd_filter, fwd = p.direction == Direction::fwd;
  double rate = t.m * t.n >= 16384 ? 2.2e11 : t.n == 64 ? 1.6e11 : 0.8e11;   // multiply-adds of a multiprocessor
  if (p.x_type == DType::f32)                                                // bench/results/h200/2026-11-21_tf32.md
    rate = t.m * t.n >= 16384 ? (filter ? 0.38e11 : fwd ? 0.7e11 : 0.8e11) : t.n == 64 ? (filter ? 0.4e11 : fwd ? 0.8e11 : 0.72e11) : (filter ? 0.2e11 : 0.4e11);
  return 4e-6 + std::ceil(tiles * parts / 264) * 2 * (part * double(t.m) * t.n / rate + 1e-6) + (parts > 1 ? 3e-6 : 0);
}

std::vector<Config> configs(ConvProblem const& p, DeviceFacts const&) {
  std::vector<Tile> tiles(std::begin(tiles_known), std::end(tiles_known));
  std::stable_sort(tiles.begin(), tiles.end(), [&](Tile a, Tile b) { return seconds_with(p, a) < seconds_with(p, b); });
  std::vector<Config> out;
  for (Tile t : tiles) out.push_back(Config{{"tile_m", t.m}, {"tile_n", t.n}});
  return out;
}

std::size_t scratch(ConvProblem const& p, Config const& c) { return scratch_of(p, tile_of(c)); }
double seconds(ConvProblem const& p, DeviceFacts const& facts) { return seconds_with(p, tile_of(configs(p, facts).front())); }

template <class E>
void launch(ConvProblem const& p, Config const& config, ConvArgs const& args, View memory, cudaStream_t stream) {
  bool const filter = p.direction == Direction::bwd_filter, data = p.direction == Direction::bwd_data;
  Tile const tile = tile_of(config);
  Shape3 const s = product_of(p);
  auto const [part, parts] = parts_of(p, tile);
  auto const g = geometry_of(p, part);
  auto const slots = slots_of(p);
  auto const a = pointers_of<E>(args, !filter ? nullptr : parts > 1 ? memory.as<float>() : p.w_type == DType::f32 ? args.w.as<float>() : nullptr);
  dim3 const grid(unsigned((s.m + tile.m - 1) / tile.m), unsigned((s.n + tile.n - 1) / tile.n), unsigned(parts));
  auto const with = [&](auto m, auto n, auto per_m, auto per_n) {
    if (tile.m != m || tile.n != n) return false;
    if (filter) implicit_gemm<E, Direction::bwd_filter, m, n, per_m, per_n><<<grid, threads, 0, stream>>>(g, slots, a);
    else if (data) implicit_gemm<E, Direction::bwd_data, m, n, per_m, per_n><<<grid, threads, 0, stream>>>(g, slots, a);
    else implicit_gemm<E, Direction::fwd, m, n, per_m, per_n><<<grid, threads, 0, stream>>>(g, slots, a);
    return true;
  };
  if (!with(number<128>{}, number<128>{}, number<8>{}, number<8>{}) && !with(number<64>{}, number<64>{}, number<4>{}, number<4>{}) &&
      !with(number<128>{}, number<16>{}, number<4>{}, number<2>{})) fail(ErrorKind::usage, "implicit_gemm has no tile '" + config.text() + "'");
  if (parts > 1) {
    int const elements = int(s.m * s.n);
    if (p.w_type == DType::f32) add_parts<<<(elements + 31) / 32, dim3(32, 8), 0, stream>>>(a.partial, parts, elements, args.w.as<float>());
    else add_parts<<<(elements + 31) / 32, dim3(32, 8), 0, stream>>>(a.partial, parts, elements, a.w);
  }
  check_launch("conv implicit_gemm", p, stream);
}

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View memory, Stream& stream) {
  auto const s = static_cast<cudaStream_t>(stream.cuda());
  if (p.x_type == DType::f32) launch<float>(p, config, args, memory, s);
  else launch<bf16>(p, config, args, memory, s);
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_implicit_gemm{
    .name = "implicit_gemm", .target = DeviceKind::cuda, .reject = reject, .configs = configs, .scratch = scratch, .seconds = seconds, .run = run};

}  // namespace falconet
