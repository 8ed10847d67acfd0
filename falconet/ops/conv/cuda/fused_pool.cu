// Convolution, activation and max- or average-pooling of 2x2 in one kernel, and both gradients from the pooled dy and the winners, for any filter, stride and
// dilation: the product of implicit_gemm.cu whose rows are not pixels as they lie but windows,
//   row 4 w + 2 i + j  =  pixel (2 a + i, 2 b + j) of window w = (n, a, b)
// so that the 4x4 results of a thread are the 4 pixels of one window for 4 filters: they are compared or added in registers, and neither the map nor its
// gradient is ever in memory. The gradients read dy where the winner says so and zero elsewhere, straight from the pooled tensors; the filter gradient reads
// each window once for its four pixels. Where they accept, direct, direct_filter (few channels) and winograd (3x3) do the same faster; this is the plain
// form for all others.
// f32 or bf16 channels-last, sums in f32; tiles of 64x64, 16 deep. The filter gradient's sum is cut into parts, added in order; db comes from a block a
// channel vector. Cost: 2 n k p q c r s operations; bytes: x, w and the pooled y, 1/4 of the map and a byte a window.
#include <algorithm>
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/element.cuh"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/implicit_gemm.cuh"

namespace falconet {
namespace {

using namespace implicit;

constexpr int tile = 64, per = 4;
static_assert(tile / per * (tile / per) == threads);

struct Windows {
  int down, across;                      // windows of an image
  FastDivide by_image, by_across;
  PoolSlot::Kind kind;
};
template <class E>
struct Operands {
  E *x, *w, *y;
  std::uint8_t* winner;
  float const *bias, *affine;
  E const *residual, *mask;
  float* partial;
};

__device__ __forceinline__ float clip(Activation act, float v) {   // none, relu or relu6
  if (act != Activation::none && v < 0) v = 0;
  return act == Activation::relu6 && v > 6 ? 6 : v;
}
// Whether the activation's derivative is zero at v.
__device__ __forceinline__ bool flat(Activation act, float v) { return act != Activation::none && (!(v > 0) || (act == Activation::relu6 && v >= 6)); }
// Pixel of y that row `row` of the product means.
__device__ __forceinline__ Pixel pixel_of_row(Windows const& v, int row) {
  Pixel at;
  int in_image, column;
  at.n = v.by_image(row / 4, in_image);
  at.row = v.by_across(in_image, column) * 2 + (row >> 1 & 1);
  at.column = column * 2 + (row & 1);
  return at;
}

template <class E, Direction direction>
__global__ void __launch_bounds__(threads) fused_pool(Geometry const g, Windows const windows, Slots const slots, Operands<E> const a) {
  constexpr bool filter = direction == Direction::bwd_filter, data = direction == Direction::bwd_data;
  constexpr int each = tile * depth / threads;             // elements of either operand that a thread reads
  __shared__ __align__(16) float left[depth][tile + 4], right[depth][tile + 4];
  int const t = threadIdx.x, m0 = blockIdx.x * tile, n0 = blockIdx.y * tile, begin = blockIdx.z * g.part, end = min(g.sum, begin + g.part);
  int const along = t % depth, along_row = t / depth, across = t % tile, across_row = t / tile;
  Pixel pixel[filter ? 1 : each];
  if constexpr (!filter) {
#pragma unroll
    for (int i = 0; i < each; ++i) {
      int const m = min(m0 + along_row + i * (threads / depth), g.m - 1);
      pixel[i] = data ? pixel_of(g, m) : pixel_of_row(windows, m);
    }
  }
  Tap const column_tap = filter ? tap_of(g, g.by_c, min(n0 + across, g.columns - 1)) : Tap{};
  auto const read_x = [&](Pixel const& y, Tap const& tap) {
    int const h = y.row * g.st_h - g.pad_h + tap.r * g.d_h, w = y.column * g.st_w - g.pad_w + tap.s * g.d_w;
    if (unsigned(h) >= unsigned(g.h) || unsigned(w) >= unsigned(g.w)) return 0.0f;
    return falconet::load(a.x[((std::int64_t(y.n) * g.h + h) * g.w + w) * g.c + tap.channel]);
  };
  bool const strided = g.st_h > 1 || g.st_w > 1, slab_of_one_tap = data && g.k % depth == 0;
  auto const read_dy_at = [&](Pixel const& x, Tap const& tap) {   // of the map, from its pooled form
    int p = x.row + g.pad_h - tap.r * g.d_h, q = x.column + g.pad_w - tap.s * g.d_w;
    if (p < 0 || q < 0) return 0.0f;
    if (strided) {
      int off_h, off_w;
      p = g.by_st_h(p, off_h), q = g.by_st_w(q, off_w);
      if (off_h || off_w) return 0.0f;
    }
    if (p >> 1 >= windows.down || q >> 1 >= windows.across) return 0.0f;
    std::int64_t const at = std::int64_t((x.n * windows.down + (p >> 1)) * windows.across + (q >> 1)) * g.k + tap.channel;
    return share_of_place(windows.kind, 2, a.winner[at], (p & 1) * 2 + (q & 1), falconet::load(a.y[at]));
  };
  float next_left[each], next_right[each];
  auto const read = [&](int k0) {
    if constexpr (!filter) {
      int const kk = k0 + along;
      bool const in = kk < end;
      Tap const tap = tap_of(g, data ? g.by_k : g.by_c, min(kk, g.sum - 1));
#pragma unroll
      for (int i = 0; i < each; ++i) next_left[i] = !in ? 0 : data ? read_dy_at(pixel[i], tap) : read_x(pixel[i], tap);
#pragma unroll
      for (int i = 0; i < each; ++i) {
        if constexpr (!data) {
          int const n = n0 + along_row + i * (threads / depth);
          next_right[i] = in && n < g.columns ? falconet::load(a.w[std::int64_t(n) * g.sum + kk]) : 0;
        } else {
          int const n = n0 + across, row = k0 + across_row + i * (threads / tile);
          Tap const here = slab_of_one_tap ? Tap{tap.r, tap.s, tap.channel - along + row - k0} : tap_of(g, g.by_k, min(row, g.sum - 1));
          next_right[i] =
              row < end && n < g.columns ? falconet::load(a.w[((std::int64_t(here.channel) * g.r + here.r) * g.s + here.s) * g.c + n]) : 0;
        }
      }
    } else {
      static_assert(each == 4 && threads / tile == 4);     // a thread reads a window, whose four rows it stores
      int const window = k0 / 4 + across_row, m = m0 + across;
      bool const in = 4 * window < end;
      Pixel const corner = pixel_of_row(windows, min(4 * window, g.sum - 1));
      std::int64_t const at = std::int64_t(window) * g.k + m;
      float const dy = in && m < g.m ? falconet::load(a.y[at]) : 0;
      int const winner = in && m < g.m ? a.winner[at] : 0;
#pragma unroll
      for (int i = 0; i < each; ++i) {
        next_left[i] = share_of_place(windows.kind, 2, winner, i, dy);
        next_right[i] = in && n0 + across < g.columns ? read_x({corner.n, corner.row + i / 2, corner.column + i % 2}, column_tap) : 0;
      }
    }
  };
  float sum[per][per] = {};
  int const my_m = t / (tile / per) * per, my_n = t % (tile / per) * per;
  read(begin);
  for (int k0 = begin; k0 < end; k0 += depth) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < each; ++i) {
      if constexpr (filter) left[across_row * each + i][across] = next_left[i];
      else left[along][along_row + i * (threads / depth)] = next_left[i];
      if constexpr (filter) right[across_row * each + i][across] = next_right[i];
      else if constexpr (data) right[across_row + i * (threads / tile)][across] = next_right[i];
      else right[along][along_row + i * (threads / depth)] = next_right[i];
    }
    __syncthreads();
    if (k0 + depth < end) read(k0 + depth);
#pragma unroll
    for (int kk = 0; kk < depth; ++kk) {
      float4 const u = *reinterpret_cast<float4 const*>(&left[kk][my_m]), v = *reinterpret_cast<float4 const*>(&right[kk][my_n]);
      float const us[per] = {u.x, u.y, u.z, u.w}, vs[per] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int i = 0; i < per; ++i)
#pragma unroll
        for (int j = 0; j < per; ++j) sum[i][j] = fmaf(us[i], vs[j], sum[i][j]);
    }
  }
#pragma unroll
  for (int j = 0; j < per; ++j) {
    int const n = n0 + my_n + j;
    if (n >= g.columns) continue;
    if constexpr (direction == Direction::fwd) {           // the four rows are a window
      if (m0 + my_m >= g.m) continue;
      float best = 0, before = 0;                          // of the average, best is the sum
      int winner = -1, passing = 0;
#pragma unroll
      for (int i = 0; i < per; ++i) {
        float u = sum[i][j];
        if (slots.store == Affine::scale_shift) u = a.affine[n] * u + a.affine[g.columns + n];
        if (slots.bias) u += a.bias[n];
        float const y = clip(slots.act, u);
        if (windows.kind == PoolSlot::average) best += y, passing |= int(!flat(slots.act, u)) << i;
        else if (winner < 0 || y > best || y != y) best = y, before = u, winner = i;
      }
      std::int64_t const at = std::int64_t((m0 + my_m) / 4) * g.columns + n;
      bool const average = windows.kind == PoolSlot::average;
      falconet::put(a.y[at], average ? 0.25f * best : best);
      a.winner[at] = average ? std::uint8_t(passing) : flat(slots.act, before) ? no_winner : std::uint8_t(winner);
    } else {
#pragma unroll
      for (int i = 0; i < per; ++i) {
        int const m = m0 + my_m + i;
        if (m >= g.m) continue;
        std::int64_t const at = std::int64_t(m) * g.columns + n;
        if constexpr (filter) {
          a.partial[std::int64_t(blockIdx.z) * g.m * g.columns + at] = sum[i][j];
        } else {
          float v = sum[i][j];
          if (slots.residual) v += falconet::load(a.residual[at]);
          if (slots.mask && !(falconet::load(a.mask[at]) > 0)) v = 0;
          falconet::put(a.x[at], v);
        }
      }
    }
  }
}

// db = the sum of what every window's dy gives to its pixels: a block of 32 channels by 8 lines for each part of the windows, then the parts in order.
template <class E>
__global__ void __launch_bounds__(threads)
    add_windows(PoolSlot::Kind kind, E const* dy, std::uint8_t const* winner, int all, int each, int k, float* partial) {
  __shared__ float lines[8][32];
  int const channel = blockIdx.x * 32 + threadIdx.x, last = min(all, int(blockIdx.y + 1) * each);
  float sum = 0;
  if (channel < k)
    for (int i = blockIdx.y * each + threadIdx.y; i < last; i += 8) {
      std::int64_t const at = std::int64_t(i) * k + channel;
      float const v = falconet::load(dy[at]);
      if (kind == PoolSlot::average) sum += 0.25f * float(__popc(winner[at] & 15)) * v;
      else if (winner[at] < 4) sum += v;
    }
  lines[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || channel >= k) return;
  for (int i = 1; i < 8; ++i) sum += lines[i][threadIdx.x];
  partial[blockIdx.y * std::int64_t(k) + channel] = sum;
}

bool filter_gradient(ConvProblem const& p) { return p.direction == Direction::bwd_filter; }
Windows windows_of(ConvProblem const& p) {
  int const down = p.p() / 2, across = p.q() / 2;
  return {down, across, FastDivide(std::max(1, down * across)), FastDivide(std::max(1, across)), (p.direction == Direction::fwd ? p.store.pool : p.load_dy.unpool).kind};
}
std::int64_t windows_in(ConvProblem const& p) { return std::int64_t(p.n) * (p.p() / 2) * (p.q() / 2); }
Shape3 shape_of(ConvProblem const& p) {
  Shape3 s = product_of(p);
  if (p.direction == Direction::fwd) s.m = 4 * windows_in(p);
  if (filter_gradient(p)) s.sum = 4 * windows_in(p);
  return s;
}
std::pair<int, int> cut_of(ConvProblem const& p) {         // depth of a part, parts
  Shape3 const s = shape_of(p);
  if (!filter_gradient(p)) return {int(s.sum), 1};
  std::int64_t const tiles = ((s.m + tile - 1) / tile) * ((s.n + tile - 1) / tile), slabs = (s.sum + depth - 1) / depth;
  std::int64_t const wanted = std::clamp<std::int64_t>(528 / tiles, 1, std::max<std::int64_t>(1, slabs / 4)),
                     part = (slabs + wanted - 1) / wanted * depth;
  return {int(part), int((s.sum + part - 1) / part)};
}
constexpr int windows_each = 1024;       // of a block that adds up db
int bias_parts(ConvProblem const& p) { return int((windows_in(p) + windows_each - 1) / windows_each); }

std::string reject(ConvProblem const& p, DeviceFacts const&) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  bool const masters = filter_gradient(p) && p.x_type == DType::bf16 && p.w_type == DType::f32 && p.y_type == DType::bf16;
  if (!p.one_type(DType::f32) && !p.one_type(DType::bf16) && !masters) return "f32 or bf16 only; a filter gradient in f32 from bf16";
  if (p.layout != Layout::nhwc) return "nhwc only";
  if (p.groups != 1) return "groups";
  PoolSlot const pool = p.direction == Direction::fwd ? p.store.pool : p.load_dy.unpool;
  if (pool.kind == PoolSlot::none || pool.size != 2) return "only where results are pooled, by windows of 2x2";
  if (p.load_x != OnLoad{} || p.load_dy.affine != Affine::none || p.load_dy.act != Activation::none) return "slots of operands but unpooling";
  auto const& s = p.store;
  if (s.act != Activation::none && s.act != Activation::relu && s.act != Activation::relu6) return "activations other than relu and relu6";
  if (s.stats != Stats::none || s.affine == Affine::two_operand || s.mask == Mask::relu6) return "statistics, or a mask of relu6";
  if (p.direction == Direction::bwd_data && (s.bias || s.affine != Affine::none || s.act != Activation::none))
    return "slots of the data gradient but residual and mask";
  if (filter_gradient(p) && (s.residual || s.affine != Affine::none || s.act != Activation::none || s.mask != Mask::none))
    return "slots of the filter gradient but the bias";
  if (windows_in(p) == 0) return "no whole window";
  constexpr std::int64_t most = std::int64_t(1) << 31;
  if (std::int64_t(p.n) * p.c * p.h * p.w >= most || std::int64_t(p.n) * p.p() * p.q() >= most || std::int64_t(p.k) * p.c * p.r * p.s >= most)
    return "2^31 elements or more";
  if (std::max(p.k, p.c) / tile >= 65535 || (filter_gradient(p) && std::int64_t(p.c) * p.r * p.s / tile >= 65535)) return "too many columns of tiles";
  return {};
}
double seconds(ConvProblem const& p, DeviceFacts const&) {
  Shape3 const s = shape_of(p);
  auto const [part, parts] = cut_of(p);
  double const blocks = std::ceil(double(s.m) / tile) * std::ceil(double(s.n) / tile) * parts, rate = filter_gradient(p) ? 0.4e11 : 0.7e11;
  return 5e-6 + std::ceil(blocks / 528) * 4 * (part * double(tile) * tile / rate + 1e-6) + (parts > 1 ? 3e-6 : 0);
}
std::size_t scratch(ConvProblem const& p, Config const&) {
  if (!filter_gradient(p)) return 0;
  return 4 * (std::size_t(cut_of(p).second) * p.k * p.c * p.r * p.s + (p.store.bias ? std::size_t(bias_parts(p)) * p.k : 0));
}

template <class E>
void launch(ConvProblem const& p, ConvArgs const& args, View memory, cudaStream_t stream) {
  bool const filter = filter_gradient(p), data = p.direction == Direction::bwd_data;
  Shape3 const s = shape_of(p);
  auto const [part, parts] = cut_of(p);
  Geometry g = implicit::geometry_of(p, part);
  g.m = int(s.m), g.sum = int(s.sum);
  Windows const windows = windows_of(p);
  float* const partial = filter ? memory.as<float>() : nullptr;
  Operands<E> const a{
      args.x.as<E>(),        args.w.as<E>(),    args.y.as<E>(), args.winner.as<std::uint8_t>(), args.bias.as<float>(), args.store_affine.as<float>(),
      args.residual.as<E>(), args.mask.as<E>(), partial};
  dim3 const grid(unsigned((s.m + tile - 1) / tile), unsigned((s.n + tile - 1) / tile), unsigned(parts));
  auto const kernel = filter ? fused_pool<E, Direction::bwd_filter> : data ? fused_pool<E, Direction::bwd_data> : fused_pool<E, Direction::fwd>;
  kernel<<<grid, threads, 0, stream>>>(g, windows, slots_of(p), a);
  if (filter) {
    int const elements = int(s.m * s.n);
    if (p.w_type == DType::f32) add_parts<<<(elements + 31) / 32, dim3(32, 8), 0, stream>>>(partial, parts, elements, args.w.as<float>());
    else add_parts<<<(elements + 31) / 32, dim3(32, 8), 0, stream>>>(partial, parts, elements, args.w.as<E>());
    if (p.store.bias) {
      float* const between = partial + std::int64_t(parts) * elements;
      add_windows<<<dim3(unsigned((p.k + 31) / 32), unsigned(bias_parts(p))), dim3(32, 8), 0, stream>>>(
          windows.kind, args.y.as<E>(), a.winner, int(windows_in(p)), windows_each, p.k, between);
      add_parts<<<(p.k + 31) / 32, dim3(32, 8), 0, stream>>>(between, bias_parts(p), p.k, args.bias.as<float>());
    }
  }
  check_launch("conv fused_pool", p, stream);
}
void run(ConvProblem const& p, Config const&, ConvArgs const& args, View memory, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  if (p.x_type == DType::f32) launch<float>(p, args, memory, stream);
  else launch<bf16>(p, args, memory, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_fused_pool{
    .name = "fused_pool", .target = DeviceKind::cuda, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run};

}  // namespace falconet
