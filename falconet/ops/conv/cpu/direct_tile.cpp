// The kernels of direct_tile.h, a function for each shape: large code, so direct and pointwise share them.
#ifdef FALCONET_ISA

#include "falconet/ops/conv/cpu/direct_tile.h"

#include "falconet/device/cpu/simd.h"

namespace falconet::FALCONET_ISA {
namespace {

// `group` consecutive floats, repeated over the lanes: what `group` input channels are for each result channel.
template <class D, int group>
inline hn::Vec<D> broadcast(float const* x) {
  D const d;
  if constexpr (group == 1) return hn::Set(d, *x);
  else if constexpr (group == 2) {
    double two;
    __builtin_memcpy(&two, x, sizeof two);
    return hn::BitCast(d, hn::Set(hn::Repartition<double, D>(), two));
  } else return hn::LoadDup128(d, x);
}
// Sums of each `group` neighbouring lanes.
template <class D, int group>
inline hn::Vec<hn::CappedTag<float, hn::MaxLanes(D()) / group>> collect(hn::Vec<D> v) {
#if HWY_TARGET != HWY_SCALAR
  if constexpr (group > 1) {
    v = hn::Add(v, hn::Shuffle2301(v));
    if constexpr (group == 4) v = hn::Add(v, hn::Shuffle1032(v));
    v = hn::ConcatEven(D(), v, v);
    if constexpr (group == 2) return hn::LowerHalf(v);
    else return hn::LowerHalf(hn::LowerHalf(hn::ConcatEven(D(), v, v)));
  } else
#endif
    return v;
}

// What is done with results on their way from `from`: a loop for all shapes of tiles, which unrolled in each were half a megabyte.
template <class D>
HWY_NOINLINE void store_slots(D d, Tile const& a, float const* from, int pixels, int vectors) {
  constexpr int lanes = int(hn::MaxLanes(D()));
  for (int v = 0; v < vectors; ++v) {
    auto const bias = a.bias ? hn::LoadU(d, a.bias + v * lanes) : hn::Zero(d);
    float *out = a.out + v * lanes;
    float const *residual = a.residual ? a.residual + v * lanes : nullptr, *result = from + v * lanes;
    for (int px = 0; px < pixels; ++px, out += a.out_step, result += vectors * lanes) {
      auto value = hn::LoadU(d, result);
      if (a.add) value = hn::Add(value, hn::LoadU(d, out));
      value = hn::Add(value, bias);
      if (residual) value = hn::Add(value, hn::LoadU(d, residual)), residual += a.out_step;
      if (a.relu) value = rectified(d, value, a.relu);
      if (a.stream) hn::Stream(value, d, out);
      else hn::StoreU(value, d, out);
    }
  }
}

// out[px][v] (+)= sum over rows, runs, t of x[px][t] * w[t][v]
template <class D, int vectors, int pixels, int group>
void tile(Tile const& a) {
  D const d;
  using V = hn::Vec<D>;
  constexpr int lanes = int(hn::MaxLanes(D()));
  V sum[pixels][vectors];
#pragma GCC unroll 32
  for (int px = 0; px < pixels; ++px)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sum[px][v] = hn::Zero(d);

  if (a.far)
#pragma GCC unroll 1
    for (int px = 0; px < pixels; ++px)
#pragma GCC unroll 1
      for (int v = 0; v < vectors; ++v) {
        if (!a.stream) __builtin_prefetch(a.out + px * a.out_step + v * lanes / group, 1);
        if (a.residual) __builtin_prefetch(a.residual + px * a.out_step + v * lanes / group);
      }

  long const step = a.pixel_step, ahead_step = a.ahead_step;
  float const *w = a.w, *ahead = a.ahead;
  for (int r = 0; r < a.rows; ++r)
    for (int u = 0; u < a.runs; ++u) {
      // Every third pixel has its own pointer, so that all addresses are pointer + {0,1,2} * step: few registers.
      float const* x[(pixels + 2) / 3];
#pragma GCC unroll 16
      for (int i = 0; i < (pixels + 2) / 3; ++i) x[i] = a.x + r * a.row_step + u * a.run_step + 3 * i * step;
      int t = a.run;
      for (; t >= group; t -= group) {
        V weights[vectors];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) weights[v] = hn::LoadU(d, w + v * lanes);
#pragma GCC unroll 32
        for (int px = 0; px < pixels; ++px) {
          V const value = broadcast<D, group>(x[px / 3] + px % 3 * step);
#pragma GCC unroll 4
          for (int v = 0; v < vectors; ++v) sum[px][v] = hn::MulAdd(value, weights[v], sum[px][v]);
        }
        w += vectors * lanes;
        if constexpr (group == 1 && vectors > 1) {
          __builtin_prefetch(ahead);
          ahead += ahead_step;
        }
#pragma GCC unroll 16
        for (int i = 0; i < (pixels + 2) / 3; ++i) x[i] += group;
      }
      if (group > 1 && t > 0) {                          // the weights beyond the run are zero
        hn::RebindToSigned<D> const ints;
        auto const first = hn::RebindMask(d, hn::Eq(hn::And(hn::Iota(ints, 0), hn::Set(ints, group - 1)), hn::Zero(ints)));
        for (int i = 0; i < t; ++i) {
          V const weights = hn::LoadU(d, w + i * lanes);   // of each group's first lane; the others' are zero, which infinity times would be NaN
#pragma GCC unroll 32
          for (int px = 0; px < pixels; ++px) sum[px][0] = hn::MulAdd(hn::IfThenElseZero(first, hn::Set(d, x[px / 3][px % 3 * step + i])), weights, sum[px][0]);
        }
        w += t * lanes;
      }
    }

  hn::CappedTag<float, lanes / group> const part;
  HWY_ALIGN float buffer[pixels * vectors * lanes / group];
  bool const plain = !a.add && !a.bias && !a.residual && !a.relu && !a.stream;
  float* const to = plain ? a.out : buffer;
  long const to_step = plain ? a.out_step : vectors * lanes / group;
#pragma GCC unroll 32
  for (int px = 0; px < pixels; ++px)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) hn::StoreU(collect<D, group>(sum[px][v]), part, to + px * to_step + v * lanes / group);
  if (!plain) store_slots(part, a, buffer, pixels, vectors);
}

#if HWY_TARGET <= HWY_AVX3
// The same of pairs of bf16, as plain sums of f32: x and w hold a pair where they otherwise hold a float.
template <int vectors, int pixels>
__attribute__((target("avx512bf16"))) void tile_of_pairs(Tile const& a) {
  __m512 sum[pixels][vectors];
#pragma GCC unroll 32
  for (int px = 0; px < pixels; ++px)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sum[px][v] = _mm512_setzero_ps();
  long const step = a.pixel_step, ahead_step = a.ahead_step;
  float const *w = a.w, *ahead = a.ahead;
  for (int r = 0; r < a.rows; ++r)
    for (int u = 0; u < a.runs; ++u) {
      float const* x[(pixels + 2) / 3];
#pragma GCC unroll 16
      for (int i = 0; i < (pixels + 2) / 3; ++i) x[i] = a.x + r * a.row_step + u * a.run_step + 3 * i * step;
      for (int t = a.run; t > 0; --t, w += vectors * kLanes) {
        __m512 weights[vectors];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) weights[v] = _mm512_loadu_ps(w + v * kLanes);
#pragma GCC unroll 32
        for (int px = 0; px < pixels; ++px) {
          __m512 const value = _mm512_set1_ps(x[px / 3][px % 3 * step]);
#pragma GCC unroll 4
          for (int v = 0; v < vectors; ++v) sum[px][v] = _mm512_dpbf16_ps(sum[px][v], (__m512bh)weights[v], (__m512bh)value);
        }
        if constexpr (vectors > 1) {
          __builtin_prefetch(ahead);
          ahead += ahead_step;
        }
#pragma GCC unroll 16
        for (int i = 0; i < (pixels + 2) / 3; ++i) ++x[i];
      }
    }
#pragma GCC unroll 32
  for (int px = 0; px < pixels; ++px)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) _mm512_storeu_ps(a.out + px * a.out_step + v * kLanes, sum[px][v]);
}
template <int vectors, int pixels = vectors == 1 ? 12 : kSums / vectors>
inline TileKernel pairs_of(int wanted) {
  if constexpr (pixels == 1) return tile_of_pairs<vectors, 1>;
  else return wanted == pixels ? tile_of_pairs<vectors, pixels> : pairs_of<vectors, pixels - 1>(wanted);
}
#endif

template <class D, int vectors, int group, int pixels = kSums / vectors>
inline TileKernel tile_of(int wanted) {
  if constexpr (pixels == 1) return tile<D, vectors, 1, group>;
  else return wanted == pixels ? tile<D, vectors, pixels, group> : tile_of<D, vectors, group, pixels - 1>(wanted);
}

}  // namespace

TileKernel tile_for(DirectGather const& g, int vectors, int pixels) {
#if HWY_TARGET <= HWY_AVX3
  if (g.pairs) return vectors == 1 ? pairs_of<1>(pixels) : vectors == 2 ? pairs_of<2>(pixels) : vectors == 3 ? pairs_of<3>(pixels) : pairs_of<4>(pixels);
#endif
  if constexpr (kLanes >= 8)
    if (g.group == 2) return tile_of<Wide, 1, 2>(pixels);
  if constexpr (kLanes >= 16) {
    if (g.group == 4) return tile_of<Wide, 1, 4>(pixels);
    if (g.lanes == 8) return tile_of<hn::CappedTag<float, 8>, 1, 1>(pixels);
  }
  switch (vectors) {
    case 1: return tile_of<Wide, 1, 1>(pixels);
    case 2: return tile_of<Wide, 2, 1>(pixels);
    case 3: return tile_of<Wide, 3, 1>(pixels);
    default: return tile_of<Wide, 4, 1>(pixels);
  }
}

}  // namespace falconet::FALCONET_ISA

#endif
