// The filter gradient as matrix operations: one contraction over the pixels for each tap,
//
//   dw(:,r,s,:) = sum over n,p,q of  dy(n,p,q,:)^T x(n, p*stride - pad + r*dilation, q*stride - pad + s*dilation, :)
//
// For one column s of the filter the columns of x that are met are copied side by side, row by row, zero where there is no pixel: all filter
// rows r then read these copies, each moved by some rows, and the sum runs over the pixels of a whole band of dy.
//
//   for each task = (part of the bands of the batch, block of filters)                in parallel; each part has its own sums
//     for each block of channels and band: copy the columns of x                      stays in the second-level cache
//       for each panel of filters: pack dy
//         for each tap: sums(tap) += dy^T x(tap)                                       ops/gemm/cpu/packed.h
//   for each filter: dw, db = sums of the parts in order                              in parallel
#include <algorithm>
#include <cstring>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/conv/cpu/matrix_plan.h"
#include "falconet/ops/gemm/cpu/packed.h"

namespace falconet::matrix {
namespace {

using i64 = std::int64_t;
constexpr i64 max_width = 96;             // channels of a block
constexpr i64 stage_floats = 128 << 10;   // of the copies for a band, unless a single row needs more
constexpr i64 max_piece = 384;            // pixels
constexpr i64 most_sums = 4 << 20;        // floats of all parts together, unless one part needs more
constexpr i64 wanted_tasks = 32;

struct Split {
  i64 groups, kg, cg, width, wide;        // wide: channels of a group in whole blocks of 16
  int phases, shifts;                     // rows of x fall into phases modulo the stride; the most rows that a tap is moved by
  int band, bands;
  i64 bands_in_all, parts, k_block, k_blocks;
  i64 staged, sums;                       // floats: copies of a task; sums of one part
  explicit Split(ConvProblem const& p) {
    groups = p.groups, kg = p.k / p.groups, cg = p.c / p.groups;
    i64 const sixteens = divide_up(cg, 16);
    width = divide_up(sixteens, divide_up(sixteens, max_width / 16)) * 16;
    wide = sixteens * 16;
    phases = std::min(p.stride_h, (p.r - 1) * p.dilation_h + 1);
    shifts = (p.r - 1) * p.dilation_h / p.stride_h;
    i64 const row = i64(p.s) * phases * p.q() * width;
    band = int(std::clamp<i64>(stage_floats / row - shifts, 1, p.p()));
    bands = int(divide_up(p.p(), band));
    bands_in_all = i64(p.n) * bands;
    sums = i64(p.k) * p.r * p.s * wide;
    k_block = std::max<i64>(16, round_up(divide_up(kg, 4), 16));
    k_blocks = divide_up(kg, k_block);
    parts = std::clamp(std::min(wanted_tasks / k_blocks, most_sums / sums), i64(1), bands_in_all);
    staged = (band + shifts) * row;
  }
  i64 task_floats() const { return staged + gemm_max_rows * max_piece; }
};

// Copies [filter column][phase][row of the band][q][width] of the channels from `first` on.
void stage(ConvProblem const& p, Split const& s, float const* x, i64 image, int begin, int rows, i64 first, i64 count, i64 whole, float* to) {
  for (int f = 0; f < p.s; ++f)
    for (int phase = 0; phase < s.phases; ++phase)
      for (int i = 0; i < rows + s.shifts; ++i) {
        int const h = (begin + i) * p.stride_h - p.pad_top + phase;
        for (int q = 0; q < p.q(); ++q, to += whole) {
          int const w = q * p.stride_w - p.pad_left + f * p.dilation_w;
          if (h < 0 || h >= p.h || w < 0 || w >= p.w) {
            std::memset(to, 0, std::size_t(whole) * sizeof(float));
            continue;
          }
          std::memcpy(to, x + ((image * p.h + h) * p.w + w) * p.c + first, std::size_t(count) * sizeof(float));
          std::memset(to + count, 0, std::size_t(whole - count) * sizeof(float));
        }
      }
}

}  // namespace

std::size_t filter_scratch(ConvProblem const& p) {
  Split const s(p);
  return sizeof(float) * std::size_t(s.parts * (s.sums + p.k) + s.parts * s.k_blocks * s.task_floats());
}

void filter_run(ConvProblem const& p, ConvArgs const& args, View scratch, Stream& stream) {
  Split const s(p);
  GemmKernels const& gemm = gemm_kernels_of(stream.isa());
  float* const partial = scratch.as<float>();
  float* const db = partial + s.parts * s.sums;
  float* const task_memory = db + s.parts * p.k;
  float const *const x = args.x.as<float const>(), *const dy = args.y.as<float const>();
  i64 const taps = i64(p.r) * p.s, q = p.q();

  stream.threads().run(int(s.parts * s.k_blocks), [&](int task) {
    i64 const part = task / s.k_blocks, k0 = task % s.k_blocks * s.k_block, k1 = std::min(s.kg, k0 + s.k_block);
    i64 const begin_band = s.bands_in_all * part / s.parts, end_band = s.bands_in_all * (part + 1) / s.parts;
    float* const copies = task_memory + task * s.task_floats();
    float* const panel = copies + s.staged;
    for (i64 group = 0; group < s.groups; ++group) {
      float* const group_sums = partial + part * s.sums + group * s.kg * taps * s.wide;   // [k][tap][c]
      float* const group_db = db + part * p.k + group * s.kg;
      if (p.store.bias) std::fill(group_db + k0, group_db + k1, 0.0f);
      for (i64 j = 0; j < s.cg; j += s.width) {
        i64 const count = std::min(s.width, s.cg - j), whole = round_up(count, 16);
        int const most = gemm.rows[GemmPanels::of(int(whole / gemm.lanes), gemm.max_vectors).widest()];
        for (i64 at = begin_band; at < end_band; ++at) {
          i64 const image = at / s.bands;
          int const begin = int(at % s.bands) * s.band, rows = std::min(s.band, p.p() - begin);
          float const* const band = dy + ((image * p.p() + begin) * q) * p.k + group * s.kg;
          stage(p, s, x, image, begin, rows, group * s.cg + j, count, whole, copies);
          if (p.store.bias && j == 0)
            for (i64 pixel = 0; pixel < rows * q; ++pixel)
              for (i64 k = k0; k < k1; ++k) group_db[k] += band[pixel * p.k + k];
          i64 const pixels = rows * q, piece = divide_up(pixels, divide_up(pixels, max_piece));
          i64 const copy = (rows + s.shifts) * q * whole;   // floats of one filter column and phase
          for (i64 l = 0; l < pixels; l += piece) {
            GemmPanel g;
            g.k = std::min(piece, pixels - l);
            g.columns = whole;
            g.b_stride = whole;
            g.first = at == begin_band && l == 0;
            g.sums_stride = taps * s.wide;
            for (i64 k = k0; k < k1; k += g.rows) {
              g.rows = int(std::min<i64>(most, k1 - k));
              gemm.pack_a({band + l * p.k + k, false, p.k, 1}, g.rows, g.rows, g.k, panel);
              g.a = panel;
              g.a_stride = g.rows;
              for (int r = 0; r < p.r; ++r)
                for (int f = 0; f < p.s; ++f) {
                  int const phase = r * p.dilation_h % p.stride_h, shift = r * p.dilation_h / p.stride_h;
                  g.b = copies + (f * s.phases + phase) * copy + (l + shift * q) * whole;
                  g.sums = group_sums + (k * taps + i64(r) * p.s + f) * s.wide + j;
                  gemm.multiply(g);
                }
            }
          }
        }
      }
    }
  });

  stream.threads().run(p.k, [&](int k) {
    float* const dw = args.w.as<float>() + i64(k) * taps * s.cg;
    for (i64 tap = 0; tap < taps; ++tap)
      for (i64 c = 0; c < s.cg; ++c) {
        float sum = 0;
        for (i64 part = 0; part < s.parts; ++part) sum += partial[part * s.sums + (k * taps + tap) * s.wide + c];
        dw[tap * s.cg + c] = sum;
      }
    if (!p.store.bias) return;
    float sum = 0;
    for (i64 part = 0; part < s.parts; ++part) sum += db[part * p.k + k];
    args.bias.as<float>()[k] = sum;
  });
}

}  // namespace falconet::matrix
