// Convolutions in groups, f32 or bf16 channels-last, on the ordinary cores in f32: a group has too few channels for tiles of a matrix product to be full,
// so each thread goes straight to the images.
//   forward, data gradient  a thread makes 4 neighbouring channels of a strip of 4 or 8 neighbouring results of a row. For each filter row and 4 channels of
//                           its group it reads the pixels under the strip once, for all taps of the row; a filter vector of 4 results serves the whole
//                           strip. Neighbouring threads take neighbouring channels, so that loads of pixels and filters are whole lines. The filter is
//                           laid out first as [tap][channel of the group][result], f32. A data gradient of stride 1 is the same with the taps turned
//                           round; with a stride it reads each tap's pixel where there is one.
//   filter gradient         a thread keeps the sums of 4 filters by 4 channels by the taps of a filter row while it walks along rows of dy: 2 to 4 loads
//                           for 16 to 48 multiply-adds. 8 lines of a block share its rows, blocks share the batch; their sums are added in order.
// Groups whose channels or filters are no multiples of 4 go one channel at a time.
// Limits: no pooling, no sums of results, no slots of operands as they are read. Cost: 2 n k p q (c/g) r s operations; x and y about once, a pixel r times.
#include <algorithm>
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/element.cuh"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/implicit_gemm.cuh"

namespace falconet {
namespace {

constexpr int threads = 256;

struct Geometry {
  int in_h, in_w, in, out_h, out_w, out;   // maps that are read and made, all channels
  int each_in, each_out;                   // of a group
  int r, s, pad_top, pad_left, st_h, st_w, d_h, d_w;
  bool spread;                             // a data gradient with stride: place h meets tap r at row (h + pad - r * d) / stride, if that is whole
  int units, strips_w, all;                // vectors of results, strips of a row, threads' work
  FastDivide by_units, by_strips, by_rows, by_st_h, by_st_w;
};
struct Slots {
  Affine affine;
  Activation act;
  Mask mask;
  bool bias, residual;
};
template <class E>
struct Pointers {
  E const *from, *residual, *mask;
  float const *filter, *bias, *affine;
  E* to;
};

__device__ __forceinline__ float clip(Activation act, float v) {   // none, relu or relu6
  if (act != Activation::none && v < 0) v = 0;
  return act == Activation::relu6 && v > 6 ? 6 : v;
}
// to[tap][j][o]: o a result, j a channel of its group; w lies as [k][tap][c of the group]. data: results are channels of x, taps turned round if `turned`.
template <class E>
__global__ void __launch_bounds__(threads)
    lay_filter(E const* w, int taps, int c_each, int k_each, int groups, bool data, bool turned, int all, float* to) {
  int const i = blockIdx.x * threads + threadIdx.x;
  if (i >= all) return;
  int const outs = groups * (data ? c_each : k_each), ins = data ? k_each : c_each, o = i % outs, j = i / outs % ins, tap = i / outs / ins;
  int const group = o / (data ? c_each : k_each), k = data ? group * k_each + j : o, c = data ? o - group * c_each : j;
  to[i] = load(w[(std::int64_t(k) * taps + (turned ? taps - 1 - tap : tap)) * c_each + c]);
}

// S: taps of a filter row and stride known when compiled, dilation 1; S = 0: any.
template <class E, int v, int S, int stride, int strip>
__global__ void __launch_bounds__(threads) grouped(Geometry const g, Slots const slots, Pointers<E> const a) {
  int const index = blockIdx.x * threads + threadIdx.x;
  if (index >= g.all) return;
  int unit, column0, row;
  int rest = g.by_units(index, unit);
  rest = g.by_strips(rest, column0);
  int const n = g.by_rows(rest, row), o = unit * v, group = o / g.each_out;
  column0 *= strip;
  E const* const from = a.from + std::int64_t(n) * g.in_h * g.in_w * g.in + group * g.each_in;
  float sum[strip][v] = {};
  auto const read = [&](int at_row, int at_column, int j) {
    bool const in = unsigned(at_row) < unsigned(g.in_h) && unsigned(at_column) < unsigned(g.in_w);
    Pack<E, v> x{};
    if (in) x = *reinterpret_cast<Pack<E, v> const*>(from + (std::int64_t(at_row) * g.in_w + at_column) * g.in + j);
    return x;
  };
  auto const weights = [&](int tap, int j) {
    return *reinterpret_cast<Pack<float, v> const*>(a.filter + (std::int64_t(tap) * g.each_in + j) * g.out + o);
  };
  if constexpr (S > 0) {
    constexpr int span = (strip - 1) * stride + S;
    int const top = row * stride - g.pad_top, left = column0 * stride - g.pad_left;
    for (int r = 0; r < g.r; ++r) {
      if (unsigned(top + r) >= unsigned(g.in_h)) continue;
      for (int j = 0; j < g.each_in; j += v) {
        Pack<E, v> x[span];
#pragma unroll
        for (int i = 0; i < span; ++i) x[i] = read(top + r, left + i, j);
#pragma unroll
        for (int s = 0; s < S; ++s)
#pragma unroll
          for (int e = 0; e < v; ++e) {
            Pack<float, v> const w = weights(r * S + s, j + e);
#pragma unroll
            for (int i = 0; i < strip; ++i)
#pragma unroll
              for (int f = 0; f < v; ++f) sum[i][f] = fmaf(load(x[i * stride + s].e[e]), w.e[f], sum[i][f]);
          }
      }
    }
  } else {
    for (int r = 0; r < g.r; ++r) {
      int off = 0;
      int at_row = g.spread ? row + g.pad_top - r * g.d_h : row * g.st_h - g.pad_top + r * g.d_h;
      if (g.spread) at_row = at_row < 0 ? -1 : g.by_st_h(at_row, off);
      if (off || unsigned(at_row) >= unsigned(g.in_h)) continue;
      for (int s = 0; s < g.s; ++s) {
        int at_column[strip];
#pragma unroll
        for (int i = 0; i < strip; ++i) {
          int const c = column0 + i;
          at_column[i] = g.spread ? c + g.pad_left - s * g.d_w : c * g.st_w - g.pad_left + s * g.d_w;
          if (g.spread) {
            int apart = 0;
            at_column[i] = at_column[i] < 0 ? -1 : g.by_st_w(at_column[i], apart);
            if (apart) at_column[i] = -1;
          }
        }
        for (int j = 0; j < g.each_in; j += v) {
          Pack<E, v> x[strip];
#pragma unroll
          for (int i = 0; i < strip; ++i) x[i] = read(at_row, at_column[i], j);
#pragma unroll
          for (int e = 0; e < v; ++e) {
            Pack<float, v> const w = weights(r * g.s + s, j + e);
#pragma unroll
            for (int i = 0; i < strip; ++i)
#pragma unroll
              for (int f = 0; f < v; ++f) sum[i][f] = fmaf(load(x[i].e[e]), w.e[f], sum[i][f]);
          }
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < strip; ++i) {
    if (column0 + i >= g.out_w) continue;
    std::int64_t const at = ((std::int64_t(n) * g.out_h + row) * g.out_w + column0 + i) * g.out + o;
    Pack<E, v> out;
#pragma unroll
    for (int f = 0; f < v; ++f) {
      float y = sum[i][f];
      if (slots.affine == Affine::scale_shift) y = a.affine[o + f] * y + a.affine[g.out + o + f];
      if (slots.bias) y += a.bias[o + f];
      if (slots.residual) y += load(a.residual[at + f]);
      y = clip(slots.act, y);
      if (slots.mask != Mask::none && !passes(slots.mask, load(a.mask[at + f]))) y = 0;
      put(out.e[f], y);
    }
    *reinterpret_cast<Pack<E, v>*>(a.to + at) = out;
  }
}

// partial[part][k][r][s][c of the group], a block for 32 (filters, channels), one filter row (S > 0, dilation 1) or tap (S = 0), and one part of dy's rows.
template <class E, int v, int S>
__global__ void __launch_bounds__(threads)
    grouped_filter(Geometry const g, int n_images, int c_vectors, int items, int rows_each, E const* x, E const* dy, float* partial) {
  constexpr int taps = S > 0 ? S : 1;
  __shared__ float lines[8][32];
  int const lane = threadIdx.x % 32, line = threadIdx.x / 32, item = min(int(blockIdx.x) * 32 + lane, items - 1);
  int const r = S > 0 ? blockIdx.y : blockIdx.y / g.s, s0 = S > 0 ? 0 : blockIdx.y % g.s;
  // Of a group's items filters run faster, so that they read neighbouring dy.
  int const k_vectors = g.each_out / v, group = item / (k_vectors * c_vectors), in_group = item - group * k_vectors * c_vectors;
  int const k = group * g.each_out + in_group % k_vectors * v, c_here = in_group / k_vectors * v, c = group * g.each_in + c_here;
  float sum[taps][v][v] = {};
  int const last = min(n_images * g.out_h, int(blockIdx.z + 1) * rows_each);
  for (int i = blockIdx.z * rows_each + line; i < last; i += 8) {
    int p;
    int const n = g.by_rows(i, p), h = p * g.st_h - g.pad_top + r * g.d_h;
    if (unsigned(h) >= unsigned(g.in_h)) continue;
    E const* const x_row = x + (std::int64_t(n) * g.in_h + h) * g.in_w * g.in + c;
    E const* const dy_row = dy + std::int64_t(i) * g.out_w * g.out + k;
#pragma unroll 2
    for (int q = 0; q < g.out_w; ++q) {
      Pack<E, v> const d = *reinterpret_cast<Pack<E, v> const*>(dy_row + std::int64_t(q) * g.out);
#pragma unroll
      for (int s = 0; s < taps; ++s) {
        int const w = q * g.st_w - g.pad_left + (s0 + s) * g.d_w;
        if (unsigned(w) >= unsigned(g.in_w)) continue;
        Pack<E, v> const u = *reinterpret_cast<Pack<E, v> const*>(x_row + std::int64_t(w) * g.in);
#pragma unroll
        for (int f = 0; f < v; ++f)
#pragma unroll
          for (int e = 0; e < v; ++e) sum[s][f][e] = fmaf(load(d.e[f]), load(u.e[e]), sum[s][f][e]);
      }
    }
  }
  bool const writes = line == 0 && int(blockIdx.x) * 32 + lane < items;
  float* const to = partial + std::int64_t(blockIdx.z) * g.out * g.r * g.s * g.each_in;
#pragma unroll
  for (int s = 0; s < taps; ++s)
#pragma unroll
    for (int f = 0; f < v; ++f)
#pragma unroll
      for (int e = 0; e < v; ++e) {
        lines[line][lane] = sum[s][f][e];
        __syncthreads();
        float all = lines[0][lane];
        for (int l = 1; l < 8; ++l) all += lines[l][lane];
        if (writes) to[((std::int64_t(k + f) * g.r + r) * g.s + s0 + s) * g.each_in + c_here + e] = all;
        __syncthreads();
      }
}

bool filter_gradient(ConvProblem const& p) { return p.direction == Direction::bwd_filter; }
int vector_of(ConvProblem const& p) { return p.c / p.groups % 4 == 0 && p.k / p.groups % 4 == 0 ? 4 : 1; }
// Taps of a row known when compiled, or 0.
int fast_taps(ConvProblem const& p) {
  if (p.dilation_h != 1 || p.dilation_w != 1 || p.stride_h != p.stride_w || p.stride_h > 2) return 0;
  if (vector_of(p) == 1 || (p.s != 3 && !(p.s == 5 && p.stride_h == 1))) return 0;
  return p.direction == Direction::bwd_data && p.stride_h > 1 ? 0 : p.s;
}
int strip_of(ConvProblem const& p) {
  int const columns = p.direction == Direction::bwd_data ? p.w : p.q();
  return fast_taps(p) && p.stride_h == 1 && columns % 8 != 4 && columns > 4 ? 8 : 4;
}

Geometry geometry_of(ConvProblem const& p) {
  bool const data = p.direction == Direction::bwd_data;
  Geometry g{};
  g.in_h = data ? p.p() : p.h, g.in_w = data ? p.q() : p.w, g.in = data ? p.k : p.c;
  g.out_h = data ? p.h : p.p(), g.out_w = data ? p.w : p.q(), g.out = data ? p.c : p.k;
  g.each_in = g.in / p.groups, g.each_out = g.out / p.groups;
  g.r = p.r, g.s = p.s, g.st_h = p.stride_h, g.st_w = p.stride_w, g.d_h = p.dilation_h, g.d_w = p.dilation_w;
  g.spread = data && (p.stride_h > 1 || p.stride_w > 1);
  bool const turned = data && !g.spread;
  g.pad_top = turned ? int(p.span_h()) - 1 - p.pad_top : p.pad_top, g.pad_left = turned ? int(p.span_w()) - 1 - p.pad_left : p.pad_left;
  int const strip = strip_of(p);
  g.units = g.out / vector_of(p), g.strips_w = (g.out_w + strip - 1) / strip, g.all = p.n * g.out_h * g.strips_w * g.units;
  g.by_units = FastDivide(g.units), g.by_strips = FastDivide(g.strips_w), g.by_rows = FastDivide(g.out_h), g.by_st_h = FastDivide(p.stride_h),
  g.by_st_w = FastDivide(p.stride_w);
  return g;
}
struct Parts {
  int items, blocks_x, blocks_y, rows, parts;
};
Parts parts_of(ConvProblem const& p) {
  int const v = vector_of(p), items = p.k / v * (p.c / p.groups / v), x = (items + 31) / 32, y = fast_taps(p) ? p.r : p.r * p.s, all = p.n * p.p();
  int const wanted = std::clamp(1056 / (x * y), 1, std::max(1, all / 16)), rows = (all + wanted - 1) / wanted;
  return {items, x, y, rows, (all + rows - 1) / rows};
}
bool masters(ConvProblem const& p) { return p.x_type == DType::bf16 && p.w_type == DType::f32 && p.y_type == DType::bf16; }

std::string reject(ConvProblem const& p, DeviceFacts const&) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (p.groups == 1) return "one group";
  if (p.groups == p.c && p.groups == p.k) return "depthwise: channels never meet";
  if (!p.one_type(DType::f32) && !p.one_type(DType::bf16) && !(masters(p) && filter_gradient(p)))
    return "f32 or bf16 only; a filter gradient in f32 from bf16";
  if (p.layout != Layout::nhwc) return "nhwc only";
  if (p.load_x != OnLoad{} || p.load_dy != OnLoad{}) return "slots of operands as they are read";
  auto const& s = p.store;
  if (s.pool.kind != PoolSlot::none || s.stats != Stats::none) return "pooling and statistics";
  if (s.affine == Affine::two_operand) return "an affine that makes no sense here";
  if (s.act != Activation::none && s.act != Activation::relu && s.act != Activation::relu6) return "activations other than relu and relu6";
  if (filter_gradient(p) && !(s == OnStore{})) return "slots of the filter gradient";
  constexpr std::int64_t most = std::int64_t(1) << 31;
  if (std::int64_t(p.n) * p.c * p.h * p.w >= most || std::int64_t(p.n) * p.k * p.p() * p.q() >= most ||
      std::int64_t(p.k) * (p.c / p.groups) * p.r * p.s >= most)
    return "2^31 elements or more";
  if (filter_gradient(p) && parts_of(p).blocks_y > 65535) return "65536 taps or more";
  return {};
}

double seconds(ConvProblem const& p, DeviceFacts const&) {
  double const slow = vector_of(p) == 1 ? 6 : 1, plain = fast_taps(p) ? 1 : 2.5;
  double const rate = filter_gradient(p) ? 7e12 : 14e12;
  return (filter_gradient(p) ? 9e-6 : 6e-6) + std::max(bytes_of(p.operands()) / 2.5e12, p.operations() * slow * plain / rate);
}
std::size_t filter_bytes(ConvProblem const& p) {
  return filter_gradient(p) ? 0 : (std::size_t(p.k) * (p.c / p.groups) * p.r * p.s * 4 + 255) / 256 * 256;
}
std::size_t prepared(ConvProblem const& p, Config const&) { return filter_bytes(p); }
std::size_t scratch(ConvProblem const& p, Config const&) {
  return filter_gradient(p) ? std::size_t(parts_of(p).parts) * p.k * (p.c / p.groups) * p.r * p.s * 4 : filter_bytes(p);
}

template <class E>
void lay(ConvProblem const& p, E const* w, float* to, cudaStream_t stream) {
  bool const data = p.direction == Direction::bwd_data;
  int const all = p.k * (p.c / p.groups) * p.r * p.s;
  lay_filter<E><<<(all + threads - 1) / threads, threads, 0, stream>>>(w, p.r * p.s, p.c / p.groups, p.k / p.groups, p.groups, data,
                                                                       data && p.stride_h == 1 && p.stride_w == 1, all, to);
}
void prepare(ConvProblem const& p, Config const&, ConvArgs const& args, View to, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  if (p.w_type == DType::f32) lay(p, args.w.as<float>(), to.as<float>(), stream);
  else lay(p, args.w.as<bf16>(), to.as<float>(), stream);
  check_launch("conv grouped (filter)", p, stream);
}

template <class E, int v>
void launch(ConvProblem const& p, ConvArgs const& args, float* memory, cudaStream_t stream) {
  Geometry const g = geometry_of(p);
  int const taps = fast_taps(p);
  if (filter_gradient(p)) {
    auto const parts = parts_of(p);
    int const c_vectors = p.c / p.groups / v;
    auto kernel = grouped_filter<E, v, 0>;
    if constexpr (v > 1) kernel = taps == 3 ? grouped_filter<E, v, 3> : taps == 5 ? grouped_filter<E, v, 5> : kernel;
    kernel<<<dim3(unsigned(parts.blocks_x), unsigned(parts.blocks_y), unsigned(parts.parts)), threads, 0, stream>>>(
        g, p.n, c_vectors, parts.items, parts.rows, args.x.as<E>(), args.y.as<E>(), memory);
    int const elements = p.k * (p.c / p.groups) * p.r * p.s;
    if (p.w_type == DType::f32)
      implicit::add_parts<<<(elements + 31) / 32, dim3(32, 8), 0, stream>>>(memory, parts.parts, elements, args.w.as<float>());
    else implicit::add_parts<<<(elements + 31) / 32, dim3(32, 8), 0, stream>>>(memory, parts.parts, elements, args.w.as<bf16>());
    return;
  }
  bool const data = p.direction == Direction::bwd_data;
  Slots const slots{p.store.affine, p.store.act, p.store.mask, p.store.bias, p.store.residual};
  Pointers<E> const a{(data ? args.y : args.x).as<E>(), args.residual.as<E>(),           args.mask.as<E>(), memory, args.bias.as<float>(),
                      args.store_affine.as<float>(),    (data ? args.x : args.y).as<E>()};
  auto kernel = grouped<E, v, 0, 1, 4>;
  bool const wide = strip_of(p) == 8;
  if constexpr (v > 1) {
    if (taps == 3) kernel = p.stride_h == 2 ? grouped<E, v, 3, 2, 4> : wide ? grouped<E, v, 3, 1, 8> : grouped<E, v, 3, 1, 4>;
    if (taps == 5) kernel = wide ? grouped<E, v, 5, 1, 8> : grouped<E, v, 5, 1, 4>;
  }
  kernel<<<unsigned((g.all + threads - 1) / threads), threads, 0, stream>>>(g, slots, a);
}

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View memory, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  float* to = memory.as<float>();
  if (!filter_gradient(p)) {
    if (args.prepared.data) to = args.prepared.as<float>();
    else prepare(p, config, args, memory, on);
  }
  bool const vectors = vector_of(p) == 4;
  if (p.x_type == DType::f32) vectors ? launch<float, 4>(p, args, to, stream) : launch<float, 1>(p, args, to, stream);
  else vectors ? launch<bf16, 4>(p, args, to, stream) : launch<bf16, 1>(p, args, to, stream);
  check_launch("conv grouped", p, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_grouped{.name = "grouped",
                                               .target = DeviceKind::cuda,
                                               .reject = reject,
                                               .scratch = scratch,
                                               .seconds = seconds,
                                               .run = run,
                                               .prepares = "w",
                                               .prepared = prepared,
                                               .prepare = prepare};

}  // namespace falconet
