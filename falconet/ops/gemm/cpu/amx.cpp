// The packed product on tiles of AMX (device/cpu/amx.h). B blocks in pairs are what TDPBF16PS reads as they lie: rows of pairs along k, 16 columns of
// 4 bytes, one load a tile. An A panel of up to 16 rows has its pairs along the rows; it is turned once and then meets every panel of B.
//
//   turn A[k][rows] -> a[k / 32][rows][16 pairs]
//   for each panel of B, up to 3 tiles wide
//     sums: tiles 0, 1, 2 = 0 or what is there
//     for each 32 of k: load a (tile 3);  for each tile of the panel: load b (tile 4), sums += a b          and what is left of k on tiles 5 and 6, which are smaller
//     store the sums, or finish them through their slots
//
// Cost: 16 cycles a product of 16 x 16 x 32 (16 KFLOP), 4/3 loads each. Moves: B once per 16 rows.
#include "falconet/ops/gemm/cpu/amx.h"

#include "falconet/device/cpu/amx.h"
#include "falconet/tensor/bf16.h"

namespace falconet {
namespace {

using std::int64_t;
constexpr int lanes = 16, max_vectors = 3, max_rows = 16;
constexpr int64_t most_pairs = 256;                      // of a panel; the drivers' pieces of k are 384 at most, 192 pairs

float element(GemmSource const& s, int64_t l, int64_t j) {
  int64_t const at = l * s.k_stride + j * s.stride;
  return s.is_bf16 ? to_float(static_cast<bf16 const*>(s.data)[at]) : static_cast<float const*>(s.data)[at];
}
void pack_a(GemmSource const& s, int64_t rows, int panel_rows, int64_t k, float* packed) {
  for (int64_t i = 0; i < rows; i += panel_rows) {
    int64_t const count = rows - i < panel_rows ? rows - i : panel_rows;
    for (int64_t l = 0; l < k; ++l)
      for (int64_t row = 0; row < count; ++row) packed[i * k + l * count + row] = element(s, l, i + row);
  }
}
void pack_b(GemmSource const& s, int64_t columns, int64_t k, float* packed, int64_t block_k, int64_t first_k) {
  GemmPanels const panels = GemmPanels::of(int((columns + lanes - 1) / lanes), max_vectors);
  for (int panel = 0, v0 = 0; panel < panels.count; v0 += panels.vectors(panel++)) {
    int64_t const width = panels.vectors(panel) * lanes, first = v0 * lanes;
    for (int64_t l = 0; l < k; ++l)
      for (int64_t c = 0; c < width; ++c) packed[first * block_k + (first_k + l) * width + c] = first + c < columns ? element(s, l, first + c) : 0.0f;
  }
}
void pair(float* rows, int64_t width, int64_t k) {
  auto* const at = reinterpret_cast<std::uint32_t*>(rows);
  for (int64_t l = 0; l < k; l += 2)
    for (int64_t i = 0; i < width; ++i) at[l / 2 * width + i] = at[l * width + i] >> 16 | (l + 1 < k ? at[(l + 1) * width + i] & 0xffff0000u : 0);
}
void pair_b(float* block, int64_t columns, int64_t k) {
  GemmPanels const panels = GemmPanels::of(int((columns + lanes - 1) / lanes), max_vectors);
  for (int panel = 0, v0 = 0; panel < panels.count; v0 += panels.vectors(panel++)) pair(block + v0 * lanes * k, panels.vectors(panel) * lanes, k);
}

// to[k / 16][row][k % 16] = from[k][row], pairs of 4 bytes: four by four where rows are whole fours.
void turn(float const* from, int64_t stride, int rows, int64_t pairs, float* to) {
  for (int64_t k = 0; k < pairs; k += 16) {
    int const deep = pairs - k < 16 ? int(pairs - k) : 16;
    float* const block = to + k * max_rows;
    float const* const source = from + k * stride;
    int i = 0;
#if defined(__SSE2__)
    using Four = float __attribute__((vector_size(16), aligned(4)));
    for (; deep == 16 && i + 4 <= rows; i += 4)
      for (int l = 0; l < 16; l += 4) {
        float const* const at = source + l * stride + i;
        auto const a = *reinterpret_cast<Four const*>(at), b = *reinterpret_cast<Four const*>(at + stride);
        auto const c = *reinterpret_cast<Four const*>(at + 2 * stride), e = *reinterpret_cast<Four const*>(at + 3 * stride);
        Four const ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), ce = __builtin_shufflevector(c, e, 0, 4, 1, 5);
        Four const high_ab = __builtin_shufflevector(a, b, 2, 6, 3, 7), high_ce = __builtin_shufflevector(c, e, 2, 6, 3, 7);
        float* const out = block + i * 16 + l;
        *reinterpret_cast<Four*>(out) = __builtin_shufflevector(ab, ce, 0, 1, 4, 5);
        *reinterpret_cast<Four*>(out + 16) = __builtin_shufflevector(ab, ce, 2, 3, 6, 7);
        *reinterpret_cast<Four*>(out + 32) = __builtin_shufflevector(high_ab, high_ce, 0, 1, 4, 5);
        *reinterpret_cast<Four*>(out + 48) = __builtin_shufflevector(high_ab, high_ce, 2, 3, 6, 7);
      }
#endif
    for (; i < rows; ++i)
      for (int l = 0; l < deep; ++l) __builtin_memcpy(block + i * 16 + l, source + l * stride + i, 4);   // bits, which need not be a number
  }
}

struct PanelProduct {
  float const *a, *b;                                    // turned; pairs
  int64_t pairs, b_stride;                               // of k; floats from one pair of rows of B to the next
  float const* from;                                     // null: sums begin with zero
  float* out;
  int64_t from_stride, out_stride;
};

// A panel of `vectors` tiles.
template <class Tiles, int vectors>
void panel_product(Tiles& tiles, PanelProduct const& p) {
  auto const begin = [&]<int v>() {
    if constexpr (v < vectors) p.from ? tiles.template load<v>(p.from + v * lanes, p.from_stride * 4) : tiles.template zero<v>();
  };
  begin.template operator()<0>(), begin.template operator()<1>(), begin.template operator()<2>();
  int64_t k = 0;
  for (; k + 16 <= p.pairs; k += 16) {
    tiles.template load<3>(p.a + k * max_rows, 64);
    auto const add = [&]<int v>() {
      if constexpr (v < vectors) tiles.template load<4>(p.b + k * p.b_stride + v * lanes, p.b_stride * 4), tiles.template multiply<v, 3, 4>();
    };
    add.template operator()<0>(), add.template operator()<1>(), add.template operator()<2>();
  }
  if (k < p.pairs) {
    tiles.template load<5>(p.a + k * max_rows, 64);
    auto const add = [&]<int v>() {
      if constexpr (v < vectors) tiles.template load<6>(p.b + k * p.b_stride + v * lanes, p.b_stride * 4), tiles.template multiply<v, 5, 6>();
    };
    add.template operator()<0>(), add.template operator()<1>(), add.template operator()<2>();
  }
  auto const store = [&]<int v>() {
    if constexpr (v < vectors) tiles.template store<v>(p.out + v * lanes, p.out_stride * 4);
  };
  store.template operator()<0>(), store.template operator()<1>(), store.template operator()<2>();
}

template <class Tiles, Isa isa>
void multiply(GemmPanel const& p) {
  alignas(64) float turned[most_pairs * max_rows];
  alignas(64) float buffer[max_rows * max_vectors * lanes];
  int64_t const pairs = (p.k + 1) / 2;
  turn(p.a, p.a_stride, p.rows, pairs, turned);
  amx::TileConfig config;
  int const left_over = int(pairs % 16);
  for (int tile : {0, 1, 2, 3}) config.set(tile, p.rows, 64);
  config.set(4, 16, 64);
  if (left_over) config.set(5, p.rows, 4 * left_over), config.set(6, left_over, 64);
  Tiles tiles;
  tiles.configure(config);

  GemmPanels const panels = GemmPanels::of(int((p.columns + lanes - 1) / lanes), max_vectors);
  GemmStore const* const s = p.store;
  bool const plain = !s || !(s->y_bf16 || s->bias || s->residual || s->mask || s->act);
  for (int panel = 0, v0 = 0; panel < panels.count; v0 += panels.vectors(panel++)) {
    int const v = panels.vectors(panel);
    int64_t const column = v0 * lanes, left = p.columns - column;
    bool const direct = plain && left >= v * lanes;
    PanelProduct product{turned, p.b + (p.b_stride ? column : column * p.k), pairs, p.b_stride ? p.b_stride : v * lanes, nullptr, buffer, p.sums_stride, v * lanes};
    if (direct) {
      if (!p.first) product.from = p.sums + column;
      product.out = s ? static_cast<float*>(s->y) + p.row * s->stride + p.column + column : p.sums + column;
      product.out_stride = s ? s->stride : p.sums_stride;
    }
    v == 3 ? panel_product<Tiles, 3>(tiles, product) : v == 2 ? panel_product<Tiles, 2>(tiles, product) : panel_product<Tiles, 1>(tiles, product);
    if (direct) continue;
    GemmFinish f;
    f.values = buffer;
    f.stride = v * lanes;
    f.rows = p.rows;
    f.columns = left < v * lanes ? left : v * lanes;
    f.sums = p.sums + column;
    f.sums_stride = p.sums_stride;
    f.first = p.first;
    f.store = s;
    f.row = p.row;
    f.column = p.column + column;
    gemm_kernels_of(isa).finish(f);
  }
  tiles.release();
}

template <class Tiles, Isa isa>
GemmKernels const& kernels() {
  GemmKernels const& own = gemm_kernels_of(isa);
  static GemmKernels const table = own.lanes == lanes && own.max_vectors == max_vectors
                                       ? GemmKernels{lanes, max_vectors, {0, max_rows, max_rows, max_rows}, own.pack_a, own.pack_b, multiply<Tiles, isa>, own.finish, pair, pair_b}
                                       : GemmKernels{lanes, max_vectors, {0, max_rows, max_rows, max_rows}, pack_a, pack_b, multiply<Tiles, isa>, own.finish, pair, pair_b};
  return table;
}

}  // namespace

GemmKernels const& gemm_amx_kernels_of(Isa isa, bool emulated) {
#if defined(__x86_64__)
  if (!emulated) {
    static GemmKernels const table = [] {
      GemmKernels t = kernels<amx::HardwareTiles, Isa::avx512>();
      t.pair = avx512::gemm_pair_kernels.pair, t.pair_b = avx512::gemm_pair_kernels.pair_b;
      return t;
    }();
    return table;
  }
  if (isa == Isa::avx512) return kernels<amx::EmulatedTiles, Isa::avx512>();
  if (isa == Isa::avx2) return kernels<amx::EmulatedTiles, Isa::avx2>();
#endif
  return kernels<amx::EmulatedTiles, Isa::plain>();
}

}  // namespace falconet
