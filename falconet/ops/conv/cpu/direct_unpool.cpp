// Direct convolution, data gradient from a max-pooled dy (the algorithm "direct" of direct.cpp, where the map is small):
//
//   dx(n, p*size + i + r - pad, q*size + j + s - pad, c) += dy(n,p,q,k) w(k,r,s,c)   for the winner (i,j) of window (p,q)
//
// One pixel of each window has a gradient, so 1/size^2 of the dense operations are left. The window's gradient falls on a field
// of (r + size - 1) x (s + size - 1) pixels of dx, whichever element won. A register tile holds a piece of that field, and each
// filter adds its dy times the filter, shifted to where it won: a table holds each filter once per column shift, with rows of
// zeros above and below, so that a shift is an address. Fields overlap: dx gathers in a padded image on the stack of the
// thread; the store slots are applied as it is copied out. One task is one image.
//   Tile (AVX-512): up to 24 vectors of the field; per filter one load of the table per multiply-add.
//   Cost: 2 n k pooled_p pooled_q (r + size - 1) (s + size - 1) c operations; pays while the table of some filters stays in L1.
// bf16: dy and the filter are widened as they are read, rows of dx are rounded as they are copied out.
// Limits: stride and dilation 1; the padded image and a filter's table must be small (see fits).
#include "falconet/ops/conv/cpu/direct.h"

#ifdef FALCONET_ISA

#include "falconet/device/cpu/simd.h"
#include "falconet/ops/conv/cpu/direct_rows.h"

namespace falconet::FALCONET_ISA {
namespace {

constexpr int kLanes = HWY_LANES(float);
constexpr int kSums = HWY_TARGET <= HWY_AVX3 ? 24 : 12;

struct Share {
  int table;                            // where the filter lies in the table, shifted to its winner
  float dy;
};
struct Field {
  Share const* shares;
  int count;
  float const* table;
  long table_row;
  float* dx;
  long dx_row;
};

// dx[row][v] += sum over shares of dy * table[row][v]
template <class D, int rows, int vectors>
void add_field(Field const& a) {
  D const d;
  using V = hn::Vec<D>;
  int const lanes = int(hn::MaxLanes(d));
  long const step = a.table_row, dx_step = a.dx_row;
  float* const dx = a.dx;
  V sum[rows][vectors];
#pragma GCC unroll 16
  for (int row = 0; row < rows; ++row)
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) sum[row][v] = hn::LoadU(d, dx + row * dx_step + v * lanes);
  for (int i = 0; i < a.count; ++i) {
    V const dy = hn::Set(d, a.shares[i].dy);
    float const* w = a.table + a.shares[i].table;
#pragma GCC unroll 16
    for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sum[row][v] = hn::MulAdd(dy, hn::LoadU(d, w + v * lanes), sum[row][v]);
      w += step;
      __asm__("" : "+r"(w));              // one pointer that moves, instead of an address worked out for every load
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < rows; ++row)
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) hn::StoreU(sum[row][v], d, dx + row * dx_step + v * lanes);
}

using FieldKernel = void (*)(Field const&);
template <class D, int vectors, int rows>
inline FieldKernel field_rows(int wanted) {
  if constexpr (rows == 1) return add_field<D, 1, vectors>;
  else return wanted == rows ? add_field<D, rows, vectors> : field_rows<D, vectors, rows - 1>(wanted);
}
template <class D>
FieldKernel field_for(int vectors, int rows) {
  switch (vectors) {
    case 1: return field_rows<D, 1, 8>(rows);
    case 2: return field_rows<D, 2, kSums / 2 < 8 ? kSums / 2 : 8>(rows);
    case 3: return field_rows<D, 3, kSums / 3>(rows);
    default: return field_rows<D, 4, kSums / 4>(rows);
  }
}
FieldKernel field_for(int lanes, int vectors, int rows) {
  if constexpr (kLanes >= 16)
    if (lanes == 16) return field_for<hn::CappedTag<float, 16>>(vectors, rows);
  if constexpr (kLanes >= 8)
    if (lanes == 8) return field_for<hn::CappedTag<float, 8>>(vectors, rows);
  return field_for<hn::CappedTag<float, 4>>(vectors, rows);
}

// The table of one filter: [column shift][size - 1 zero rows, r rows, size - 1 zero rows][row_floats].
void pack(DirectUnpool const& g, int k) {
  float* to = g.table + k * g.filter_floats;
  zero(to, g.filter_floats);
  long const row = long(g.s) * g.c;
  for (int shift = 0; shift < g.size; ++shift)
    for (int r = 0; r < g.r; ++r) {
      float* const at = to + (long(shift) * (g.r + 2 * g.size - 2) + g.size - 1 + r) * g.row_floats + shift * g.c;
      long const from = (long(k) * g.r + r) * row;
      if (g.bf16) copy(static_cast<std::uint16_t const*>(g.filter) + from, at, row);
      else copy(static_cast<float const*>(g.filter) + from, at, row);
    }
}

// One row of dx: its floats through residual and mask, which lie like dx at `at`.
template <class T>
void store_row(DirectUnpool const& g, float const* from, long at, long floats) {
  hn::CappedTag<float, kLanes> const d;
  int const lanes = int(hn::MaxLanes(d));
  auto const none = hn::Zero(d);
  T* const to = static_cast<T*>(g.dx) + at;
  auto const *const residual = static_cast<T const*>(g.residual), *const mask = static_cast<T const*>(g.mask);
  for (long i = 0; i < floats; i += lanes) {
    int const n = floats - i < lanes ? int(floats - i) : lanes;
    auto z = load_first(d, from + i, n);
    if (residual) z = hn::Add(z, load_first(d, residual + at + i, n));
    if (mask) z = hn::IfThenElseZero(hn::Gt(load_first(d, mask + at + i, n), none), z);
    n == lanes ? store_f32(z, d, to + i) : store_first(z, d, to + i, n);
  }
}

void task(DirectUnpool const& g, int image) {
  HWY_ALIGN float padded[direct_stage_floats];
  int const rows = g.p * g.size + g.r - 1, field_rows = g.r + g.size - 1;
  zero(padded, rows * g.pitch);
  int offset[256] = {};
  for (int i = 0; i < g.size * g.size; ++i)
    offset[i] = int(((i % g.size) * (g.r + 2L * g.size - 2) + g.size - 1 - i / g.size) * g.row_floats);
  // The register tiles of a field.
  struct Piece {
    FieldKernel add;
    long table, dx;
  } piece[direct_max_pieces];
  int const vectors = int(g.row_floats / g.lanes);
  int const row_tiles = (field_rows + g.tile_rows - 1) / g.tile_rows, vector_tiles = (vectors + g.tile_vectors - 1) / g.tile_vectors;
  for (int i = 0, row = 0; i < row_tiles; ++i) {
    int const tile_rows = field_rows / row_tiles + (i < field_rows % row_tiles);
    for (int j = 0, v = 0; j < vector_tiles; ++j) {
      int const tile_vectors = vectors / vector_tiles + (j < vectors % vector_tiles);
      piece[i * vector_tiles + j] = {field_for(g.lanes, tile_vectors, tile_rows), row * g.row_floats + v * g.lanes, row * g.pitch + v * g.lanes};
      v += tile_vectors;
    }
    row += tile_rows;
  }

  Share shares[direct_max_shares];
  int const in_window = g.size * g.size;
  for (int first = 0; first < g.k; first += g.k_chunk) {
    int const chunk = g.k - first < g.k_chunk ? g.k - first : g.k_chunk;
    float const* const table = g.table + first * g.filter_floats;
    for (int p = 0; p < g.p; ++p)
      for (int q = 0; q < g.q; ++q) {
        long const at = ((long(image) * g.p + p) * g.q + q) * g.k + first;
        std::uint8_t const* const winner = g.winner + at;
        auto const* const dy = static_cast<float const*>(g.dy) + at;
        auto const* const dy_bf16 = static_cast<std::uint16_t const*>(g.dy) + at;
        int count = 0, filter = 0;
        for (int k = 0; k < chunk; ++k, filter += int(g.filter_floats)) {
          shares[count] = {filter + offset[winner[k]], g.bf16 ? to_float(bf16{dy_bf16[k]}) : dy[k]};
          count += winner[k] < in_window;                                // overwritten where no one won: no branch to predict
        }
        float* const dx = padded + p * g.size * g.pitch + long(q) * g.size * g.c;
        for (int i = 0; i < row_tiles * vector_tiles; ++i)
          piece[i].add({shares, count, table + piece[i].table, g.row_floats, dx + piece[i].dx, g.pitch});
      }
  }

  HWY_ALIGN float row_sums[direct_row_floats];           // where dx cannot take them
  for (int h = 0; h < g.h; ++h) {
    long const at = (long(image) * g.h + h) * g.w * g.c, floats = long(g.w) * g.c;
    float* const to = g.bf16 ? row_sums : static_cast<float*>(g.dx) + at;
    int const row = h + g.pad_top, columns = g.q * g.size + g.s - 1;
    if (row < rows) copy_row(padded + row * g.pitch, columns, g.c, g.pad_left, g.w, to);
    else zero(to, floats);
    if (g.bf16) store_row<std::uint16_t>(g, to, at, floats);
    else if (g.residual || g.mask) store_row<float>(g, to, at, floats);
  }
}

}  // namespace

extern DirectUnpoolKernels const direct_unpool{kLanes, kSums, pack, task};
}  // namespace falconet::FALCONET_ISA

#else

#include <algorithm>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/conv/cpu/direct_plan.h"

namespace falconet {
namespace {

DirectUnpool plan_of(ConvProblem const& p, Isa isa) {
  auto const& kernels = FALCONET_KERNELS(isa, direct_unpool);
  DirectUnpool g{};
  g.images = p.n, g.h = p.h, g.w = p.w, g.c = p.c, g.k = p.k, g.r = p.r, g.s = p.s;
  g.pad_top = p.pad_top, g.pad_left = p.pad_left;
  g.size = p.load_dy.unpool.size, g.p = p.stored_p(), g.q = p.stored_q();
  g.bf16 = p.x_type == DType::bf16;
  int const floats = (g.s + g.size - 1) * g.c, V = kernels.vector_lanes;
  auto const rounded = [&](int lanes) { return (floats + lanes - 1) / lanes * lanes; };
  // Half vectors where whole ones would be filled much worse: a few empty lanes cost less.
  g.lanes = V > 4 && rounded(V) * 10 >= rounded(V / 2) * 13 ? V / 2 : V;
  g.row_floats = rounded(g.lanes);
  g.filter_floats = g.size * (g.r + 2L * g.size - 2) * g.row_floats;
  g.pitch = long(g.q * g.size + g.s - 1) * g.c + g.row_floats - floats;

  int const vectors = int(g.row_floats / g.lanes), field_rows = g.r + g.size - 1;
  g.tile_vectors = std::min(vectors, 4);
  if (vectors % 3 == 0 && vectors != 3) g.tile_vectors = 3;
  g.tile_rows = std::clamp(kernels.sums / g.tile_vectors, 1, g.tile_vectors == 1 ? 8 : 24);
  g.tile_rows = std::min({g.tile_rows, field_rows, 8});
  int const most = int(std::clamp<long>((24 << 10) / (4 * g.filter_floats), 1, direct_max_shares)), chunks = (g.k + most - 1) / most;
  g.k_chunk = (g.k + chunks - 1) / chunks;
  return g;
}

bool fits(ConvProblem const& p, Isa isa) {
  DirectUnpool const g = plan_of(p, isa);
  int const pieces = ((g.r + g.size - 2) / g.tile_rows + 1) * int((g.row_floats / g.lanes - 1) / g.tile_vectors + 1);
  return pieces <= direct_max_pieces && (g.p * g.size + g.r - 1L) * g.pitch + g.row_floats <= long(direct_stage_floats) && g.filter_floats * 4 <= 4 << 10;
}

}  // namespace

bool direct_unpool_accepts(ConvProblem const& p) {
  return p.direction == Direction::bwd_data && p.load_dy.unpool.kind == PoolSlot::max && p.stride_h == 1 && p.stride_w == 1 && p.dilation_h == 1 &&
         p.dilation_w == 1 && !p.store.bias && p.store.act == Activation::none && p.store.stats == Stats::none && p.store.mask != Mask::relu6 &&
         (p.x_type == DType::f32 || double(p.w) * p.c <= double(direct_row_floats)) && fits(p, Isa::plain) && fits(p, Isa::avx2) && fits(p, Isa::avx512);
}

std::size_t direct_unpool_scratch(ConvProblem const& p) {
  long most = 0;
  for (Isa isa : {Isa::plain, Isa::avx2, Isa::avx512}) most = std::max(most, plan_of(p, isa).filter_floats);
  return sizeof(float) * std::size_t(most) * std::size_t(p.k);
}

void direct_unpool_run(ConvProblem const& p, ConvArgs const& args, View scratch, Stream& stream) {
  auto const& kernels = FALCONET_KERNELS(stream.isa(), direct_unpool);
  DirectUnpool g = plan_of(p, stream.isa());
  g.dy = args.y.data;
  g.winner = args.winner.as<std::uint8_t const>();
  g.filter = args.w.data;
  g.residual = args.residual.data;
  g.mask = p.store.mask != Mask::none ? args.mask.data : nullptr;
  g.table = scratch.as<float>();
  g.dx = args.x.data;
  stream.threads().run(g.k, [&](int k) { kernels.pack(g, k); });
  stream.threads().run(g.images, [&](int image) { kernels.task(g, image); });
}

}  // namespace falconet

#endif
