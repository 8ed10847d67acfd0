// The register tile of direct and pointwise: sums of products of a few result pixels with a few vectors of result channels.
#pragma once
#include "falconet/device/cpu/simd.h"
#include "falconet/ops/conv/cpu/direct.h"

namespace falconet::FALCONET_ISA {

struct Tile {
  float const* x;                       // the first pixel's first tap
  long row_step, run_step, pixel_step;  // floats from tap row to tap row, run to run, pixel to pixel
  int rows, runs, run;                  // taps: rows x runs of `run` floats
  float const* w;                       // rows x runs x ceil(run / group) x vectors x kLanes
  float* out;
  long out_step;                        // floats from pixel to pixel
  int add;                              // to what is there
  float const* bias;                    // added to the result, or null
  float const* residual;                // added then, lies like out; or null
  int relu;                             // 0, 1, or 6 for relu6
  int far;                              // out and residual come from beyond the caches: they are asked for before the sums are made
  int stream;                           // out is written past the caches; its rows and vectors are aligned
  float const* ahead;                   // what later tiles read: of it, a cache line is asked for with each packed vector group of w;
  long ahead_step;                      //   16 floats, or 0 where there is nothing to ask for (ahead is then any address)
};
using TileKernel = void (*)(Tile const&);
// The kernel of so many vectors and pixels, at most kSums together; in pairs of bf16 at most 12 pixels, plain sums without add, bias, residual and relu.
TileKernel tile_for(DirectGather const&, int vectors, int pixels);

namespace {

constexpr int kLanes = HWY_LANES(float);
constexpr int kRegisters = HWY_TARGET <= HWY_AVX3 ? 32 : 16;
constexpr int kSums = kRegisters == 32 ? 24 : 12;        // registers that hold sums
using Wide = hn::CappedTag<float, kLanes>;

// relu and relu6; a NaN stays visible.
template <class D>
inline hn::Vec<D> rectified(D d, hn::Vec<D> v, int relu) {
  v = hn::IfThenZeroElse(hn::Lt(v, hn::Zero(d)), v);
  if (relu == 6) v = hn::IfThenElse(hn::Gt(v, hn::Set(d, 6.0f)), hn::Set(d, 6.0f), v);
  return v;
}

}  // namespace
}  // namespace falconet::FALCONET_ISA
