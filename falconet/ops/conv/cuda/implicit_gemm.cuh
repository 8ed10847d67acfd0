// What the implicit-GEMM kernels share, exact (implicit_gemm.cu) and in TF32 (implicit_gemm_tf32.cu): the product's shape, how its sum is cut, where
// operands lie, what happens to a result before it is stored.
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>

#include "falconet/device/cuda/divide.cuh"
#include "falconet/ops/conv/problem.h"

namespace falconet::implicit {

constexpr int threads = 256, depth = 16;   // of a block; of the sum, at a time

struct Geometry {
  int n, c, h, w, k, r, s, p, q, pad_h, pad_w, st_h, st_w, d_h, d_w;
  int m, columns, sum, part;           // of the product; part: depth of one block's share of the sum, a multiple of `depth`
  FastDivide by_c, by_k, by_s, by_image, by_width, by_st_h, by_st_w;   // image, width: of the pixels that are decomposed
};
struct Slots {
  Affine load_x, load_dy, store;
  Activation load_act, act;
  bool bias, residual, mask;
};
template <class E>
struct Pointers {
  E *x, *w, *y, *residual, *mask, *other;
  float *bias, *load_x, *load_dy, *store_affine, *partial;
};

__device__ __forceinline__ float load(float const* p, int i) { return __ldg(p + i); }
__device__ __forceinline__ float load(bf16 const* p, int i) { return to_float(p[i]); }
__device__ __forceinline__ void put(float* p, int i, float v) { p[i] = v; }
__device__ __forceinline__ void put(bf16* p, int i, float v) { p[i] = to_bf16(v); }

struct Pixel {
  int n, row, column;
};
__device__ __forceinline__ Pixel pixel_of(Geometry const& g, int pixel) {
  Pixel at;
  int in_image;
  at.n = g.by_image(pixel, in_image);
  at.row = g.by_width(in_image, at.column);
  return at;
}
struct Tap {
  int r, s, channel;
};
__device__ __forceinline__ Tap tap_of(Geometry const& g, FastDivide const& by_channels, int i) {
  Tap t;
  int const tap = by_channels(i, t.channel);
  t.r = g.by_s(tap, t.s);
  return t;
}

// Called, not written out: 64 copies of every activation do not fit the instruction cache, also where there is none.
static __device__ __noinline__ float activated(Activation act, float v) { return activate(act, v); }

// A result on its way to element `at` = m * columns + n.
template <class E>
__device__ __forceinline__ float stored(Geometry const& g, Slots const& slots, Pointers<E> const& a, float v, int n, int at) {
  if (slots.store == Affine::scale_shift) v = a.store_affine[n] * v + a.store_affine[g.columns + n];
  if (slots.bias) v += a.bias[n];
  if (slots.residual) v += load(a.residual, at);
  if (slots.act != Activation::none) v = activated(slots.act, v);
  if (slots.mask && !(load(a.mask, at) > 0)) v = 0;
  return v;
}

// dw = the parts' sums in order: thread (x, y) adds every eighth part from y on, then the eight are added.
template <class E>
static __global__ void __launch_bounds__(threads) add_parts(float const* partial, int parts, int elements, E* dw) {
  __shared__ float sums[8][32];
  int const element = blockIdx.x * 32 + threadIdx.x;
  float sum = 0;
  if (element < elements)
    for (int i = threadIdx.y; i < parts; i += 8) sum += partial[std::int64_t(i) * elements + element];
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || element >= elements) return;
  for (int i = 1; i < 8; ++i) sum += sums[i][threadIdx.x];
  put(dw, element, sum);
}

struct Tile {
  int m, n;
};

struct Shape3 {
  std::int64_t m, n, sum;
};
inline Shape3 product_of(ConvProblem const& p) {
  if (p.direction == Direction::fwd) return {std::int64_t(p.n) * p.p() * p.q(), p.k, std::int64_t(p.c) * p.r * p.s};
  if (p.direction == Direction::bwd_data) return {std::int64_t(p.n) * p.h * p.w, p.c, std::int64_t(p.k) * p.r * p.s};
  return {p.k, std::int64_t(p.c) * p.r * p.s, std::int64_t(p.n) * p.p() * p.q()};
}
// Depth of one block's share of the sum, and the number of shares.
inline std::pair<int, int> parts_of(ConvProblem const& p, Tile t) {
  Shape3 const s = product_of(p);
  if (p.direction != Direction::bwd_filter) return {int(s.sum), 1};
  std::int64_t const tiles = ((s.m + t.m - 1) / t.m) * ((s.n + t.n - 1) / t.n), slabs = (s.sum + depth - 1) / depth;
  std::int64_t const wanted = std::clamp<std::int64_t>(264 / tiles, 1, std::max<std::int64_t>(1, slabs / 4));
  std::int64_t const part = (slabs + wanted - 1) / wanted * depth;
  return {int(part), int((s.sum + part - 1) / part)};
}

inline std::size_t scratch_of(ConvProblem const& p, Tile tile) {
  auto const parts = parts_of(p, tile).second;
  return parts > 1 ? std::size_t(parts) * p.k * p.c * p.r * p.s * sizeof(float) : 0;
}

// What both refuse, element types aside.
inline std::string reject_form(ConvProblem const& p) {
  if (p.layout != Layout::nhwc) return "nhwc only";
  if (p.groups != 1) return "groups";
  if (p.store.mask == Mask::relu6) return "a mask of relu6";
  auto const& s = p.store;
  if (p.load_x.unpool.kind != PoolSlot::none || p.load_dy.unpool.kind != PoolSlot::none || s.pool.kind != PoolSlot::none) return "pooling";
  if (s.stats != Stats::none) return "statistics";
  if (p.load_x.affine == Affine::two_operand || s.affine == Affine::two_operand || p.load_dy.affine == Affine::scale_shift || p.load_dy.act != Activation::none)
    return "slots that make no sense here";
  if (p.direction == Direction::fwd && p.load_dy != OnLoad{}) return "forward reads no dy";
  if (p.direction == Direction::bwd_data && (p.load_x != OnLoad{} || s.bias)) return "the data gradient reads no x and no bias";
  if (p.direction == Direction::bwd_filter && !(s == OnStore{})) return "slots of the filter gradient";
  constexpr std::int64_t most = std::int64_t(1) << 31;
  if (std::int64_t(p.n) * p.c * p.h * p.w >= most || std::int64_t(p.n) * p.k * p.p() * p.q() >= most || std::int64_t(p.k) * p.c * p.r * p.s >= most)
    return "2^31 elements or more";
  return {};
}

inline Geometry geometry_of(ConvProblem const& p, int part) {
  bool const data = p.direction == Direction::bwd_data;
  Shape3 const s = product_of(p);
  int const width = data ? p.w : p.q(), image = width * (data ? p.h : p.p());
  return {p.n, p.c, p.h, p.w, p.k, p.r, p.s, p.p(), p.q(), p.pad_top, p.pad_left, p.stride_h, p.stride_w, p.dilation_h, p.dilation_w,
          int(s.m), int(s.n), int(s.sum), part,
          FastDivide(p.c), FastDivide(p.k), FastDivide(p.s), FastDivide(image), FastDivide(width), FastDivide(p.stride_h), FastDivide(p.stride_w)};
}
inline Slots slots_of(ConvProblem const& p) {
  return {p.load_x.affine, p.load_dy.affine, p.store.affine, p.load_x.act, p.store.act, p.store.bias, p.store.residual, p.store.mask != Mask::none};
}
// partial: where a filter gradient's sums go, if not straight into dw as E.
template <class E>
Pointers<E> pointers_of(ConvArgs const& args, float* partial) {
  return {args.x.as<E>(), args.w.as<E>(), args.y.as<E>(), args.residual.as<E>(), args.mask.as<E>(), args.load_dy_other.as<E>(),
          args.bias.as<float>(), args.load_x.as<float>(), args.load_dy.as<float>(), args.store_affine.as<float>(), partial};
}

template <int v>
using number = std::integral_constant<int, v>;

}  // namespace falconet::implicit
