// Direct convolution, filter gradient (the algorithm "direct" of direct.cpp):
//
//   dw(k,r,s,c) = sum_{n,p,q} dy(n,p,q,k) x(n, p*stride - pad + r*dilation, q*stride - pad + s*dilation, c),  db(k) = sum dy(n,p,q,k)
//
// A register tile holds sums of dw while the pixels of a band of rows stream past: per pixel an outer product of a vector piece
// of one operand with broadcast scalars of the other. Either vectors run along (s,c) of x, one contiguous run in NHWC, with
// filters broadcast from dy; or, where the run is short (1 or 3 channels), along the filters in dy, with the taps broadcast
// from x. The batch is cut into parts, a function of the problem alone; each part has its own partial sums in scratch, and they
// are added in order: the same bytes for any number of threads.
//   Tile (AVX-512): up to 24 sums, such as 3 vectors x 8 filters: (3 + 8) / 24 loads per multiply-add.
//   Cost: 2 n k p q c r s operations; x and dy are read once per tile of a band, from L2 at worst.
// bf16: x and dy are staged, widened to f32; where the processor has AVX512-BF16, in pairs of pixels (direct_pairs.h) at twice the rate.
// Where dy comes max-pooled, one pixel of each window has a gradient: the winners of a filter are listed, and each adds its
// dy times a window of x, 1/size^2 of the operations.
#include "falconet/ops/conv/cpu/direct.h"

#ifdef FALCONET_ISA

#include "falconet/device/cpu/simd.h"
#include "falconet/ops/conv/cpu/direct_rows.h"
#include "falconet/ops/conv/cpu/direct_pairs.h"

namespace falconet::FALCONET_ISA {
namespace {

constexpr int kLanes = HWY_LANES(float);
constexpr int kRegisters = HWY_TARGET <= HWY_AVX3 ? 32 : 16;
constexpr int kSums = kRegisters == 32 ? 24 : 12;

struct Outer {
  float const *vectors, *scalars;
  long vector_pixel, vector_row, scalar_pixel, scalar_row, scalar_tap;   // floats to the next pixel, row, filter row
  int rows, pixels;
  float* sums;
  long sums_tap, sums_step;                                              // floats to the next filter row, to the next scalar
};

// sums[tap][j][v] += sum over pixels of scalars[tap][j] * vectors[v]
template <class D, int vectors, int taps, int scalars>
void outer(Outer const& a) {
  D const d;
  using V = hn::Vec<D>;
  int const lanes = int(hn::MaxLanes(d));
  V sum[taps * scalars][vectors];
#pragma GCC unroll 32
  for (int j = 0; j < taps * scalars; ++j)
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) sum[j][v] = hn::LoadU(d, a.sums + j / scalars * a.sums_tap + j % scalars * a.sums_step + v * lanes);

  for (int row = 0; row < a.rows; ++row) {
    float const* from = a.vectors + row * a.vector_row;
    float const* x[taps];
#pragma GCC unroll 8
    for (int tap = 0; tap < taps; ++tap) x[tap] = a.scalars + row * a.scalar_row + tap * a.scalar_tap;
    for (int pixel = 0; pixel < a.pixels; ++pixel) {
      V piece[vectors];
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) piece[v] = hn::LoadU(d, from + v * lanes);
#pragma GCC unroll 32
      for (int j = 0; j < taps * scalars; ++j) {
        V const value = hn::Set(d, x[j / scalars][j % scalars]);
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) sum[j][v] = hn::MulAdd(value, piece[v], sum[j][v]);
      }
      from += a.vector_pixel;
#pragma GCC unroll 8
      for (int tap = 0; tap < taps; ++tap) x[tap] += a.scalar_pixel;
    }
  }

#pragma GCC unroll 32
  for (int j = 0; j < taps * scalars; ++j)
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) hn::StoreU(sum[j][v], d, a.sums + j / scalars * a.sums_tap + j % scalars * a.sums_step + v * lanes);
}

using OuterKernel = void (*)(Outer const&);
template <class D, int vectors, int taps, int scalars>
inline OuterKernel outer_of(int wanted) {
  if constexpr (scalars == 1) return outer<D, vectors, taps, 1>;
  else return wanted == scalars ? outer<D, vectors, taps, scalars> : outer_of<D, vectors, taps, scalars - 1>(wanted);
}
template <class D>
OuterKernel outer_for(int vectors, int taps, int scalars) {
  switch (vectors * 8 + taps) {
    case 8 + 2: return outer_of<D, 1, 2, kSums / 2>(scalars);
    case 8 + 3: return outer_of<D, 1, 3, kSums / 3>(scalars);
    case 8 + 4: return outer_of<D, 1, 4, kSums / 4>(scalars);
    case 8 + 5: return outer_of<D, 1, 5, kSums / 5 + (kSums == 24)>(scalars);
    case 16 + 1: return outer_of<D, 2, 1, kSums / 2>(scalars);
    case 24 + 1: return outer_of<D, 3, 1, kSums / 3>(scalars);
    case 32 + 1: return outer_of<D, 4, 1, kSums / 4>(scalars);
    case 40 + 1: return outer_of<D, 5, 1, kSums == 24 ? 5 : 2>(scalars);
    default: return outer_of<D, 1, 1, kSums + (kSums == 24)>(scalars);
  }
}
OuterKernel outer_for(DirectFilter const& f, int vectors, int taps, int scalars) {
  int const lanes = f.lanes;
#if HWY_TARGET <= HWY_AVX3
  if (f.pairs) return pairs_for<Outer>(vectors, taps, scalars);
#endif
  if constexpr (kLanes >= 16)
    if (lanes == 16) return outer_for<hn::CappedTag<float, 16>>(vectors, taps, scalars);
  if constexpr (kLanes >= 8)
    if (lanes == 8) return outer_for<hn::CappedTag<float, 8>>(vectors, taps, scalars);
  return outer_for<hn::CappedTag<float, 4>>(vectors, taps, scalars);
}

// A pixel that won its window: where its taps of x begin, and its dy.
struct Winner {
  int x;
  float dy;
};
constexpr int kWinners = 2048;                           // of one filter in one band

struct Winners {
  Winner const* list;
  int count;
  float const* x;
  long x_tap;                                            // floats to the next filter row
  float* sums;
  long sums_tap;
};

// sums[tap][v] += sum over winners of dy * x[tap][v]
template <class D, int vectors, int taps>
void add_winners(Winners const& a) {
  D const d;
  using V = hn::Vec<D>;
  int const lanes = int(hn::MaxLanes(d));
  V sum[taps][vectors];
#pragma GCC unroll 8
  for (int tap = 0; tap < taps; ++tap)
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) sum[tap][v] = hn::LoadU(d, a.sums + tap * a.sums_tap + v * lanes);
  long const step = a.x_tap;
  for (int i = 0; i < a.count; ++i) {
    float const* const x = a.x + a.list[i].x;
    V const dy = hn::Set(d, a.list[i].dy);
#pragma GCC unroll 8
    for (int tap = 0; tap < taps; ++tap)
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sum[tap][v] = hn::MulAdd(dy, hn::LoadU(d, x + tap * step + v * lanes), sum[tap][v]);
  }
#pragma GCC unroll 8
  for (int tap = 0; tap < taps; ++tap)
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) hn::StoreU(sum[tap][v], d, a.sums + tap * a.sums_tap + v * lanes);
}

constexpr int kWinnerSums = kRegisters == 32 ? 28 : 12;
using WinnersKernel = void (*)(Winners const&);
template <class D, int vectors, int taps>
inline WinnersKernel winners_taps(int wanted) {
  if constexpr (taps == 1) return add_winners<D, vectors, 1>;
  else return wanted == taps ? add_winners<D, vectors, taps> : winners_taps<D, vectors, taps - 1>(wanted);
}
template <class D>
WinnersKernel winners_for(int vectors, int taps) {
  switch (vectors) {
    case 1: return winners_taps<D, 1, 7>(taps);
    case 2: return winners_taps<D, 2, kWinnerSums / 2 < 7 ? kWinnerSums / 2 : 7>(taps);
    case 3: return winners_taps<D, 3, kWinnerSums / 3 < 7 ? kWinnerSums / 3 : 7>(taps);
    case 4: return winners_taps<D, 4, kWinnerSums / 4>(taps);
    case 5: return winners_taps<D, 5, kWinnerSums / 5>(taps);
    default: return winners_taps<D, 6, kWinnerSums / 6>(taps);
  }
}
WinnersKernel winners_for(int lanes, int vectors, int taps) {
  if constexpr (kLanes >= 16)
    if (lanes == 16) return winners_for<hn::CappedTag<float, 16>>(vectors, taps);
  if constexpr (kLanes >= 8)
    if (lanes == 8) return winners_for<hn::CappedTag<float, 8>>(vectors, taps);
  return winners_for<hn::CappedTag<float, 4>>(vectors, taps);
}

// Cuts n into pieces of at most `most`, as even as can be: calls body(first, count).
template <class Body>
inline void pieces(int n, int most, Body const& body) {
  int const count = (n + most - 1) / most;
  for (int i = 0, first = 0; i < count; ++i) {
    int const size = n / count + (i < n % count);
    body(first, size);
    first += size;
  }
}

// Cuts `rows` of q pixels into strips of about 64 pixels, whose operands stay in L1 while they meet each other: calls body(first, pixels).
template <class Body>
inline void strips(int q, int rows, Body const& body) {
  int const most = q / 16 > 1 ? q / 16 : 1, wanted = (rows * q + 63) / 64, count = wanted < most ? wanted : most;
  pieces(q, (q + count - 1) / count, body);
}

// db(k) += sum over rows and pixels of dy, for filters [first, end).
void add_bias(float const* dy, int rows, long row_step, int pixels, long step, int first, int end, float* db) {
  hn::CappedTag<float, 8> const d;
  int const lanes = int(hn::MaxLanes(d));
  for (int k = first; k < end; k += lanes) {
    int const n = end - k < lanes ? end - k : lanes;
    hn::Vec<decltype(d)> sum[4] = {load_first(d, db + k, n), hn::Zero(d), hn::Zero(d), hn::Zero(d)};   // four chains: an addition takes four cycles
    for (int row = 0; row < rows; ++row) {
      float const* from = dy + row * row_step + k;
      int j = 0;
      if (n == lanes)
        for (; j + 4 <= pixels; j += 4, from += 4 * step)
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) sum[i] = hn::Add(sum[i], hn::LoadU(d, from + i * step));
      for (; j < pixels; ++j, from += step) sum[0] = hn::Add(sum[0], load_first(d, from, n));
    }
    store_first(hn::Add(hn::Add(sum[0], sum[1]), hn::Add(sum[2], sum[3])), d, db + k, n);
  }
}

// Rows of a band whose pixels stay in L1 while all taps and filters meet them. The sums are read and written each time: only where L2 holds them.
int rows_together(DirectFilter const& f) {
  bool const near = f.pixels < 64 && f.k_block * long(f.r) * f.runs * f.row_floats <= (100 << 10);
  return near ? (63 + f.pixels) / f.pixels : f.band;
}

void task(DirectFilter const& f, int number) {
  HWY_ALIGN float stage_x[direct_stage_floats + 64];
  HWY_ALIGN float stage_y[direct_stage_floats / 2 + 64];
  Winner list[kWinners];
  int const part = number / f.k_blocks, k_first = number % f.k_blocks * f.k_block;
  int const k_end = k_first + f.k_block < f.k ? k_first + f.k_block : f.k;
  float* const sums = f.in_place ? f.dw : f.partial + part * f.part_floats;
  float* const db = f.in_place ? f.db : sums + f.part_floats - f.k;
  long const taps_floats = long(f.r) * f.runs * f.row_floats;           // vectors along the run: of one filter
  if (f.lanes_over_k) zero(sums, f.part_floats - f.k);
  else zero(sums + k_first * taps_floats, (k_end - k_first) * taps_floats);
  if (f.bias_on) zero(db + k_first, k_end - k_first);

  long const all = long(f.images) * f.bands;
  for (long b = all * part / f.parts; b < all * (part + 1) / f.parts; ++b) {
    int const image = int(b / f.bands), begin = int(b % f.bands) * f.band, end = begin + f.band < f.p ? begin + f.band : f.p;
    int const unpooled = f.unpool ? f.unpool : 1;                         // rows and columns of the full map to one of dy
    int const low = begin * unpooled * f.stride_h - f.pad_top;           // first row of x that is met
    float const* x = f.x + (long(image) * f.h + low) * f.x_pitch;
    auto const* const x_bf16 = reinterpret_cast<std::uint16_t const*>(f.x);
    if (f.every_h) {
      for (int i = 0; i < end - begin; ++i)
        for (int q = 0; q < f.q; ++q) {
          long const at = ((long(image) * f.image_h + (begin + i) * f.every_h) * f.image_w + q * f.every_w) * f.c;
          float* const to = stage_x + (i * long(f.q) + q) * f.c;
          if (f.pairs) join(x_bf16 + at, q + 1 < f.q ? x_bf16 + at + long(f.every_w) * f.c : nullptr, f.c, reinterpret_cast<std::uint32_t*>(to));
          else f.bf16 ? copy(x_bf16 + at, to, f.c) : copy(f.x + at, to, f.c);
        }
      x = stage_x;
    } else if (f.stage_x) {
      int const columns = (f.q * unpooled - 1) * f.stride_w + (f.s - 1) * f.dilation_w + 1;
      int const rows = ((end - begin) * unpooled - 1) * f.stride_h + (f.r - 1) * f.dilation_h + 1;
      for (int i = 0; i < rows; ++i) {
        float* const to = stage_x + i * f.x_pitch;
        long const at = (long(image) * f.h + low + i) * f.w * f.c;
        if (low + i < 0 || low + i >= f.h) zero(to, f.x_pitch);
        else if (f.pairs) join_columns(x_bf16 + at, f.w, f.c, -f.pad_left, columns, f.stride_w, reinterpret_cast<std::uint32_t*>(to));
        else if (f.bf16) copy_row(x_bf16 + at, f.w, f.c, -f.pad_left, columns, to);
        else copy_row(f.x + at, f.w, f.c, -f.pad_left, columns, to);
      }
      x = stage_x;
    }
    float const* dy = f.dy + (long(image) * f.p + begin) * f.y_pitch;
    if (f.stage_y) {
      auto const* const dy_bf16 = reinterpret_cast<std::uint16_t const*>(f.dy);
      int const count = k_end - k_first, each = f.pairs ? 2 : 1;
      for (int p = begin; p < end; ++p)
        for (int q = 0; q < f.q; q += each) {
          float* const to = stage_y + (p - begin) * f.y_pitch + q / each * f.y_step;
          long const at = ((long(image) * f.p + p) * f.q + q) * f.k + k_first;
          if (f.pairs) join(dy_bf16 + at, q + 1 < f.q ? dy_bf16 + at + f.k : nullptr, count, reinterpret_cast<std::uint32_t*>(to));
          else f.bf16 ? copy(dy_bf16 + at, to, count) : copy(f.dy + at, to, count);
          zero(to + count, f.y_step - count);
        }
      dy = stage_y - k_first;
    }
    if (f.unpool) {
      std::uint8_t const* const winner = f.winner + (long(image) * f.p + begin) * f.y_pitch;
      auto const* const pooled = reinterpret_cast<std::uint16_t const*>(f.dy) + (long(image) * f.p + begin) * f.y_pitch;
      int offset[256] = {};                                              // of a window's pixels in x
      for (int i = 0; i < f.unpool * f.unpool; ++i) offset[i] = int(i / f.unpool * f.stride_h * f.x_pitch) + i % f.unpool * f.stride_w * f.c;
      for (int k = k_first; k < k_end; ++k) {
        int count = 0;
        for (int p = 0; p < end - begin; ++p) {
          long at = p * f.y_pitch + k;
          int place = int(p * f.unpool * f.stride_h * f.x_pitch);
          for (int q = 0; q < f.q; ++q, at += f.y_step, place += f.unpool * f.stride_w * f.c) {
            list[count] = {place + offset[winner[at]], f.bf16 ? to_float(bf16{pooled[at]}) : dy[at]};
            count += winner[at] < f.unpool * f.unpool;                   // overwritten where no one won: no branch to predict
          }
        }
        float total = 0;
        for (int i = 0; i < count; ++i) total += list[i].dy;
        if (f.bias_on) db[k] += total;
        pieces(f.r, f.max_scalars, [&](int r, int taps) {
          for (int u = 0; u < f.runs; ++u)
            pieces(int(f.row_floats / f.lanes), f.max_vectors, [&](int v, int vectors) {
              winners_for(f.lanes, vectors, taps)({list, count, x + r * f.dilation_h * f.x_pitch + u * f.dilation_w * f.c + v * f.lanes, f.dilation_h * f.x_pitch,
                                                   sums + k * taps_floats + (long(r) * f.runs + u) * f.row_floats + v * f.lanes, f.runs * f.row_floats});
            });
        });
      }
      continue;
    }
    if (f.bias_on) (f.pairs ? add_bias_of_pairs : add_bias)(dy, end - begin, f.y_pitch, f.pixels, f.y_step, k_first, k_end, db);

    if (f.lanes_over_k) {
      int const all_vectors = int(f.y_step + f.lanes - 1) / f.lanes;
      strips(f.pixels, end - begin, [&](int q0, int pixels) {
        float const* const from = x + q0 * f.x_step;
        int const most_taps = f.pairs ? 4 : 5;
        pieces(f.r, f.max_scalars / f.run > 0 ? (f.max_scalars / f.run < most_taps ? f.max_scalars / f.run : most_taps) : 1, [&](int r, int taps) {
          for (int u = 0; u < f.runs; ++u)
            pieces(f.run, f.max_scalars / taps, [&](int t, int scalars) {
              pieces(all_vectors, taps > 1 ? 1 : f.max_vectors, [&](int v, int vectors) {
                outer_for(f, vectors, taps, scalars)({dy + q0 * f.y_step + v * f.lanes, from + r * f.dilation_h * f.x_pitch + u * f.dilation_w * f.c + t, f.y_step,
                                                            f.y_pitch, f.x_step, f.stride_h * f.x_pitch, f.dilation_h * f.x_pitch, end - begin, pixels,
                                                            sums + ((long(r) * f.runs + u) * f.run + t) * f.row_floats + v * f.lanes, f.runs * f.run * f.row_floats,
                                                            f.row_floats});
              });
            });
        });
      });
      continue;
    }
    int const together = rows_together(f);
    for (int chunk = begin; chunk < end; chunk += together)
      for (int r = 0; r < f.r; ++r) {
        // Rows of y whose row of x at this filter row exists.
        int const up = f.pad_top - r * f.dilation_h;
        int from = up > 0 ? (up + f.stride_h - 1) / f.stride_h : 0, to = f.h - 1 + up < 0 ? 0 : (f.h - 1 + up) / f.stride_h + 1;
        int const chunk_end = chunk + together < end ? chunk + together : end;
        from = from < chunk ? chunk : from, to = to > chunk_end ? chunk_end : to;
        if (from >= to) continue;
        for (int u = 0; u < f.runs; ++u) {
          float const* const row = x + (long(from) * f.stride_h - up - low) * f.x_pitch + u * f.dilation_w * f.c;
          strips(f.pixels, to - from, [&](int q0, int pixels) {
            // 1x1: what the next strip reads comes from memory, a few pixels with each tile of this one.
            int const tiles = ((int(f.row_floats / f.lanes) + f.max_vectors - 1) / f.max_vectors) * ((k_end - k_first + f.max_scalars - 1) / f.max_scalars);
            int const ahead = f.r == 1 && f.runs == 1 && !f.every_h && !f.bf16 ? pixels * (to - from) : 0;
            float const* const next_x = row + long(q0 + ahead) * f.c;
            float const* const next_dy = dy + (from - begin) * f.y_pitch + (q0 + ahead) * f.y_step + k_first;
            int tile = 0;
            pieces(int(f.row_floats / f.lanes), f.max_vectors, [&](int v, int vectors) {
              pieces(k_end - k_first, f.max_scalars, [&](int k, int scalars) {
                for (int i = int(long(ahead) * tile / tiles), end_ahead = int(long(ahead) * (tile + 1) / tiles); i < end_ahead; ++i) {
                  for (int at = 0; at < f.run; at += 16) __builtin_prefetch(next_x + long(i) * f.c + at, 0, 2);
                  for (int at = 0; at < k_end - k_first; at += 16) __builtin_prefetch(next_dy + i * f.y_step + at, 0, 2);
                }
                ++tile;
                outer_for(f, vectors, 1, scalars)({row + q0 * f.x_step + v * f.lanes, dy + (from - begin) * f.y_pitch + q0 * f.y_step + k_first + k,
                                                         f.x_step, f.stride_h * f.x_pitch, f.y_step, f.y_pitch, 0, to - from, pixels,
                                                         sums + (k_first + k) * taps_floats + (long(r) * f.runs + u) * f.row_floats + v * f.lanes, 0, taps_floats});
              });
            });
          });
        }
      }
  }
}

void sum(DirectFilter const& f, int k) {
  long const taps = long(f.r) * f.runs;
  for (long tap = 0; tap < taps; ++tap) {
    float* const dw = f.dw + (k * taps + tap) * f.run;
    float const* const from = f.lanes_over_k ? f.partial + tap * f.run * f.row_floats + k : f.partial + (k * taps + tap) * f.row_floats;
    long const step = f.lanes_over_k ? f.row_floats : 1;
    if (f.dw_bf16) {
      auto* const rounded = reinterpret_cast<bf16*>(f.dw) + (k * taps + tap) * f.run;
      for (int t = 0; t < f.run; ++t) {
        float v = 0;
        for (int part = 0; part < f.parts; ++part) v += from[part * f.part_floats + t * step];
        rounded[t] = to_bf16(v);
      }
      continue;
    }
    for (int t = 0; t < f.run; ++t) dw[t] = from[t * step];
    for (int part = 1; part < f.parts; ++part) {
      float const* const more = from + part * f.part_floats;
      if (f.lanes_over_k)
        for (int t = 0; t < f.run; ++t) dw[t] += more[t * f.row_floats];
      else
        for (int t = 0; t < f.run; ++t) dw[t] += more[t];
    }
  }
  if (!f.bias_on) return;
  float db = 0;
  for (int part = 0; part < f.parts; ++part) db += f.partial[(part + 1) * f.part_floats - f.k + k];
  f.db[k] = db;
}

}  // namespace

extern DirectFilterKernels const direct_filter{kLanes, kRegisters, task, sum};
}  // namespace falconet::FALCONET_ISA

#else

#include <algorithm>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/conv/cpu/direct_plan.h"

namespace falconet {
namespace {

long rounded(long n, long to) { return (n + to - 1) / to * to; }

DirectFilter plan_of(ConvProblem const& problem, Isa isa) {
  ConvProblem p = flattened(problem);
  DirectFilter f{};
  if (p.r == 1 && p.s == 1 && (p.stride_h > 1 || p.stride_w > 1) && !p.pad_top && !p.pad_left && p.load_dy.unpool.kind == PoolSlot::none &&
      long(p.q()) * p.c <= long(direct_stage_floats)) {
    f.every_h = p.stride_h, f.every_w = p.stride_w, f.image_h = p.h, f.image_w = p.w;
    int const rows = p.p(), columns = p.q();
    p.h = rows, p.w = columns;
    p.pad_bottom = p.pad_right = 0;
    p.stride_h = p.stride_w = 1;
  }
  auto const& kernels = FALCONET_KERNELS(isa, direct_filter);
  int const V = kernels.vector_lanes, sums = kernels.registers == 32 ? 24 : 12;
  f.images = p.n, f.h = p.h, f.w = p.w, f.c = p.c, f.p = p.p(), f.q = p.q(), f.k = p.k, f.r = p.r, f.s = p.s;
  int const columns = (f.q - 1) * p.stride_w + (f.s - 1) * p.dilation_w + 1;   // of x that are met
  f.stride_h = p.stride_h, f.stride_w = p.stride_w, f.dilation_h = p.dilation_h, f.dilation_w = p.dilation_w;
  f.pad_top = p.pad_top, f.pad_left = p.pad_left;
  f.unpool = p.load_dy.unpool.kind == PoolSlot::max ? p.load_dy.unpool.size : 0;
  if (f.unpool) f.p = p.stored_p(), f.q = p.stored_q();                  // dy as it lies in memory; windows leave out the rest
  f.bias_on = p.store.bias;
  f.bf16 = p.x_type == DType::bf16, f.dw_bf16 = p.w_type == DType::bf16;
  f.pairs = f.bf16 && !f.unpool && in_pairs(isa, 2);
  f.pixels = f.pairs ? (f.q + 1) / 2 : f.q;
  f.x_step = (f.pairs ? 2L : 1L) * f.stride_w * f.c;
  bool const joined = p.dilation_w == 1 || p.s == 1;
  f.runs = joined ? 1 : p.s;
  f.run = joined ? p.s * p.c : p.c;

  // Which operand lies across the lanes: the one that fills them better; half vectors where those are filled much better.
  auto const use = [](long n, long lanes) { return double(n) / double(rounded(n, lanes)); };
  auto const lanes_for = [&](long n) { return V > 4 && !f.pairs && use(n, V / 2) > 1.15 * use(n, V) ? V / 2 : V; };
  // Of a 1x1 layer from few channels to many, too: a tile of one vector of x would have a broadcast for each multiply-add.
  bool const thin = !f.unpool && f.r * f.s == 1 && 2 * f.run <= 3 * V && f.k % V == 0 && f.k >= 3 * V;
  f.lanes_over_k = thin || (!f.unpool && use(f.k, lanes_for(f.k)) > 1.1 * use(f.run, lanes_for(f.run)));
  f.lanes = lanes_for(f.lanes_over_k ? f.k : f.run);
  int const vectors = int(rounded(f.lanes_over_k ? f.k : f.run, f.lanes) / f.lanes);
  if (f.unpool) {                                                         // scalars: filter rows of one tile
    int const winner_sums = sums == 24 ? 28 : 12;
    f.max_vectors = std::min(vectors, sums == 24 ? 6 : 4);
    f.max_scalars = std::min(7, winner_sums / f.max_vectors);
  } else if (thin && f.run >= 8) {
    f.max_vectors = vectors % 3 == 0 || vectors % 4 ? 3 : 4;
    f.max_scalars = sums / f.max_vectors;
  } else if (f.lanes_over_k) {
    f.max_vectors = std::min(vectors, 2);
    f.max_scalars = f.max_vectors == 1 ? (sums == 24 ? 25 : sums) : sums / 2;
    if (f.run * 2 <= f.max_scalars) f.max_vectors = 1, f.max_scalars = sums == 24 ? 25 : sums;
  } else {
    f.max_vectors = vectors <= 4 ? vectors : vectors == 5 && f.k <= 10 ? 5 : vectors % 3 == 0 ? 3 : vectors % 4 == 0 || sums == 24 ? 4 : 3;
    if (sums == 12 && f.max_vectors > 3) f.max_vectors = vectors == 4 ? 2 : 3;
    f.max_scalars = f.max_vectors == 5 ? 5 : sums / f.max_vectors;
  }

  if (f.pairs) {                                                          // as many shapes of tiles as pairs_for has
    if (f.max_vectors > 4) f.max_vectors = 4, f.max_scalars = 6;
    if (f.max_vectors == 1) f.max_scalars = 12;
  }
  f.row_floats = rounded(f.lanes_over_k ? f.k : f.run, f.lanes);
  f.k_block = f.lanes_over_k || f.k <= 32 ? f.k : f.k <= 64 ? 32 : 64;
  // 1x1: x comes from memory once if the sums of all filters stay in L2.
  bool const together = f.r * f.s == 1 && !f.lanes_over_k && !f.unpool && !f.bf16 && f.k * f.row_floats <= (64 << 10);
  if (together) f.k_block = f.k;
  f.stage_y = f.bf16 ? !f.unpool : f.lanes_over_k && f.row_floats != f.k;
  f.y_step = f.lanes_over_k ? f.row_floats : f.bf16 && f.stage_y ? f.k_block : f.k;
  f.y_pitch = f.y_step * f.pixels;
  bool const reads_beyond = !f.lanes_over_k && f.row_floats != f.run;
  f.stage_x = f.bf16 || f.every_h || f.pad_left || columns > f.w || reads_beyond || ((f.lanes_over_k || f.unpool) && (f.pad_top || p.pad_bottom));
  f.x_pitch = long(f.stage_x ? columns : f.w) * f.c;

  auto const x_rows = [&](int band) { return (band * std::max(1, f.unpool) - 1) * f.stride_h + (f.r - 1) * f.dilation_h + 1; };
  // The sums of a task are read and written for each band: where rows have few pixels, bands are as large as L2 and the stage allow.
  bool const short_rows = f.q < 48 && (f.bf16 || !f.stage_y) && !f.unpool;
  long const limit = long(direct_stage_floats) / 4, x_limit = short_rows ? long(direct_stage_floats) * 7 / 8 : limit;
  long const y_floats = short_rows && !f.bf16 ? long(f.q) * f.k_block : f.y_pitch;
  f.band = f.p;
  while (f.band > 1 && (x_rows(f.band) * f.x_pitch > x_limit || f.band * y_floats > limit || (f.unpool && f.band * f.q > 1024) || (f.images == 1 && f.p / f.band < 4))) f.band = (f.band + 1) / 2;
  f.bands = (f.p + f.band - 1) / f.band;
  f.x_rows = x_rows(f.band);

  f.k_blocks = (f.k + f.k_block - 1) / f.k_block;
  f.part_floats = (f.lanes_over_k ? long(f.r) * f.runs * f.run : long(f.k) * f.r * f.runs) * f.row_floats + f.k;
  long const by_memory = std::max<long>(1, (8 << 20) / (4 * f.part_floats));
  f.parts = int(std::min<long>({long(f.images) * f.bands, by_memory, std::max(1, (together && f.k * f.row_floats > 4096 ? 16 : 32) / f.k_blocks)}));
  f.in_place = f.parts == 1 && !f.dw_bf16 && !f.lanes_over_k && f.row_floats == f.run;
  return f;
}

}  // namespace

std::string direct_filter_reject(ConvProblem const& p, Isa here) {
  if (p.load_dy.affine != Affine::none || p.load_dy.act != Activation::none || p.load_x != OnLoad{}) return "of the load slots it has max_unpool";
  for (Isa isa : {Isa::plain, Isa::avx2, Isa::avx512}) {
    if (p.x_type == DType::bf16 && isa != here) continue;
    DirectFilter const f = plan_of(p, isa);
    if (f.stage_x && f.x_rows * f.x_pitch > long(direct_stage_floats)) return "input rows of one result row exceed its buffer of 256 KiB";
    if (f.unpool && f.band * f.q > 2048) return "a row of windows exceeds 2048";
    if (f.unpool && f.x_rows * f.x_pitch > 1 << 30) return "rows are too long";
    if (f.stage_y && f.band * f.y_pitch > long(direct_stage_floats) / 2) return "a row of dy exceeds its buffer of 128 KiB";
  }
  return {};
}

std::size_t direct_filter_scratch(ConvProblem const& p) {
  std::size_t most = 0;
  for (Isa isa : {Isa::plain, Isa::avx2, Isa::avx512}) {
    DirectFilter const f = plan_of(p, isa);
    if (!f.in_place) most = std::max(most, sizeof(float) * std::size_t(f.parts) * std::size_t(f.part_floats));
  }
  return most;
}

void direct_filter_run(ConvProblem const& p, ConvArgs const& args, View scratch, Stream& stream) {
  auto const& kernels = FALCONET_KERNELS(stream.isa(), direct_filter);
  DirectFilter f = plan_of(p, stream.isa());
  f.x = args.x.as<float const>();
  f.dy = args.y.as<float const>();
  f.winner = args.winner.as<std::uint8_t const>();
  f.dw = args.w.as<float>();
  f.db = args.bias.as<float>();
  f.partial = scratch.as<float>();
  stream.threads().run(f.parts * f.k_blocks, [&](int task) { kernels.task(f, task); });
  if (!f.in_place) stream.threads().run(f.k, [&](int k) { kernels.sum(f, k); });
}

}  // namespace falconet

#endif
