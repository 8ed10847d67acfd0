// The kernels of the packed matrix product: after Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication"
// (ACM TOMS 34(3), 2008), and Van Zee and van de Geijn, "BLIS" (ACM TOMS 41(3), 2015). A tile of R rows x V vectors stays in
// registers over the whole of k: per step V loads and R broadcasts feed R*V fused multiply-adds.
//   AVX-512 (32 registers): 8x3, 12x2, 16x1;  AVX2 (16 registers): 4x3, 6x2, 12x1;  plain: 4x3, 4x2, 8x1 (scalars on x86-64).
// The A panel (R x k) stays in the first-level cache while B panels stream from the second.
// Pairs of bf16 (AVX512-BF16's vdpbf16ps: sum += a0 b0 + a1 b1 in f32, subnormals as zero): the same panels with half the rows and the same loads.
#include "falconet/ops/gemm/cpu/packed.h"

#ifdef FALCONET_ISA
#include "falconet/device/cpu/simd.h"
#include "falconet/ops/elementwise/cpu/vector_math.h"
#include "falconet/ops/gemm/cpu/packing_simd.h"

namespace falconet::FALCONET_ISA {
namespace {

#if HWY_TARGET <= HWY_AVX3
constexpr int max_vectors = 3, tile_rows[4] = {0, 16, 12, 8};
#elif HWY_TARGET <= HWY_AVX2
constexpr int max_vectors = 3, tile_rows[4] = {0, 12, 6, 4};
#else
constexpr int max_vectors = 3, tile_rows[4] = {0, 8, 4, 4};
#endif

HWY_INLINE void store_some(VF v, float* p, int n) {
#if HWY_TARGET <= HWY_AVX2
  hn::BlendedStore(v, hn::FirstN(d, std::size_t(n)), d, p);
#else
  HWY_ALIGN float part[lanes];
  hn::Store(v, d, part);
  for (int i = 0; i < n; ++i) p[i] = part[i];
#endif
}
template <class T>
HWY_INLINE VF load_up_to(T const* p, int n) {
  return n >= lanes ? load_vector(p) : load_some(p, n);
}
HWY_INLINE VF load(void const* p, bool bf16, std::int64_t at, int n) {
  return bf16 ? load_up_to(static_cast<std::uint16_t const*>(p) + at, n) : load_up_to(static_cast<float const*>(p) + at, n);
}
HWY_INLINE void store(VF v, void* p, bool bf16, std::int64_t at, int n) {
  if (!bf16) {
    float* q = static_cast<float*>(p) + at;
    return n >= lanes ? hn::StoreU(v, d, q) : store_some(v, q, n);
  }
  std::uint16_t* q = static_cast<std::uint16_t*>(p) + at;
  if (n >= lanes) return store_f32(v, d, q);
  HWY_ALIGN std::uint16_t part[lanes];
  store_f32(v, d, part);
  for (int i = 0; i < n; ++i) q[i] = part[i];
}
template <class T>
void pack_rows(GemmSource const& s, int rows, std::int64_t k, float* packed) {
  T const* row[gemm_max_rows];
  for (int i = 0; i < rows; ++i) row[i] = static_cast<T const*>(s.data) + i * s.stride;
  transpose_rows(row, rows, k, packed, rows);
}

// A few neighbouring elements, widened.
template <class T>
HWY_INLINE void copy_few(T const* from, int count, float* to) {
#if HWY_TARGET != HWY_SCALAR
  if (count >= 4) {
    for (int i = 0; i + 4 <= count; i += 4) hn::StoreU(load4(from + i), D4(), to + i);
    if (count % 4) hn::StoreU(load4(from + count - 4), D4(), to + count - 4);
    return;
  }
#endif
  for (int i = 0; i < count; ++i) to[i] = widen_element(from + i);
}
// Where rows (of B: columns) are contiguous for each l, so many l at a time go to every panel: few pages, whole cache lines.
constexpr std::int64_t together = 16;

template <class T>
void pack_a_rows(GemmSource const& s, std::int64_t rows, int panel_rows, std::int64_t k, float* packed) {
  for (std::int64_t begin = 0; begin < k; begin += together) {
    std::int64_t const end = k - begin < together ? k : begin + together;
    for (std::int64_t i = 0; i < rows; i += panel_rows) {
      int const count = rows - i < panel_rows ? int(rows - i) : panel_rows;
      T const* const from = static_cast<T const*>(s.data) + i;
      for (std::int64_t l = begin; l < end; ++l) copy_few(from + l * s.k_stride, count, packed + i * k + l * count);
    }
  }
}

void pack_a(GemmSource const& s, std::int64_t rows, int panel_rows, std::int64_t k, float* packed) {
  if (s.stride == 1)
    return s.is_bf16 ? pack_a_rows<std::uint16_t>(s, rows, panel_rows, k, packed) : pack_a_rows<float>(s, rows, panel_rows, k, packed);
  for (std::int64_t i = 0; i < rows; i += panel_rows) {
    int const count = rows - i < panel_rows ? int(rows - i) : panel_rows;
    GemmSource panel = s;
    panel.data = static_cast<char const*>(s.data) + i * s.stride * (s.is_bf16 ? 2 : 4);
    s.is_bf16 ? pack_rows<std::uint16_t>(panel, count, k, packed + i * k) : pack_rows<float>(panel, count, k, packed + i * k);
  }
}

#if HWY_TARGET != HWY_SCALAR
// Elements 0..3 of rows j, 4 + j, 8 + j, 12 + j as far as a vector goes: four of these (j = 0..3) transposed are vectors 0..3 of k.
template <class T>
HWY_INLINE VF gather_blocks(T const* const* row, std::int64_t l, int j) {
#if HWY_TARGET <= HWY_AVX3
  hn::Full256<float> const half;
  return hn::Combine(d, hn::Combine(half, load4(row[12 + j] + l), load4(row[8 + j] + l)),
                     hn::Combine(half, load4(row[4 + j] + l), load4(row[j] + l)));
#elif HWY_TARGET <= HWY_AVX2
  return hn::Combine(d, load4(row[4 + j] + l), load4(row[j] + l));
#else
  return load4(row[j] + l);
#endif
}
#endif

// One vector of columns whose elements lie contiguous along k, to every `step` floats.
template <class T>
void pack_columns(GemmSource const& s, std::int64_t first, std::int64_t columns, std::int64_t k, float* to, int step) {
  T const* row[lanes];
  for (int j = 0; j < lanes; ++j) row[j] = static_cast<T const*>(s.data) + (first + j < columns ? first + j : columns - 1) * s.stride;
  std::int64_t l = 0;
#if HWY_TARGET != HWY_SCALAR
  constexpr int groups = HWY_TARGET <= HWY_AVX3 ? 4 : HWY_TARGET <= HWY_AVX2 ? 2 : 1;  // a cache line of each row at a time
  for (; l + 4 * groups <= k; l += 4 * groups) {
    VF r[groups][4];
    FALCONET_UNROLL for (int j = 0; j < 4; ++j) FALCONET_UNROLL for (int g = 0; g < groups; ++g) r[g][j] = gather_blocks(row, l + 4 * g, j);
    FALCONET_UNROLL for (int g = 0; g < groups; ++g) {
      transpose4(d, r[g]);
      FALCONET_UNROLL for (int j = 0; j < 4; ++j) hn::StoreU(r[g][j], d, to + (l + 4 * g + j) * step);
    }
  }
#endif
  for (; l < k; ++l)
    for (int j = 0; j < lanes; ++j) to[l * step + j] = widen_element(row[j] + l);
}

void pack_b(GemmSource const& s, std::int64_t columns, std::int64_t k, float* packed, std::int64_t block_k, std::int64_t first_k) {
  int const vectors = int((columns + lanes - 1) / lanes);
  GemmPanels const panels = GemmPanels::of(vectors, max_vectors);
  if (s.stride == 1) {
    std::int64_t const whole = columns / lanes;
    int const left = int(columns % lanes);
    for (std::int64_t begin = 0; begin < k; begin += together) {
      std::int64_t const end = k - begin < together ? k : begin + together;
      for (int panel = 0, v0 = 0; panel < panels.count; ++panel) {
        int const v = panels.vectors(panel);
        float* to = packed + (v0 * block_k + (first_k + begin) * v) * lanes;
        for (std::int64_t l = begin; l < end; ++l)
          for (int i = v0; i < v0 + v; ++i, to += lanes)
            hn::StoreU(load(s.data, s.is_bf16, l * s.k_stride + i * lanes, i < whole ? lanes : left), d, to);
        v0 += v;
      }
    }
    return;
  }
  for (int panel = 0, v0 = 0; panel < panels.count; ++panel) {
    int const v = panels.vectors(panel), step = v * lanes;
    float* const to = packed + v0 * lanes * block_k + first_k * step;
    for (int i = 0; i < v; ++i)
      s.is_bf16 ? pack_columns<std::uint16_t>(s, (v0 + i) * lanes, columns, k, to + i * lanes, step)
                : pack_columns<float>(s, (v0 + i) * lanes, columns, k, to + i * lanes, step);
    v0 += v;
  }
}

HWY_INLINE VF activate_any(int act, VF v) {
  VF const slope = hn::Set(d, 0.01f);  // of leaky_relu
  switch (Activation(act)) {
    case Activation::none:
      return v;
    case Activation::relu:
      return activate_vector<Activation::relu>(d, v, slope);
    case Activation::leaky_relu:
      return activate_vector<Activation::leaky_relu>(d, v, slope);
    case Activation::relu6:
      return activate_vector<Activation::relu6>(d, v, slope);
    case Activation::gelu:
      return activate_vector<Activation::gelu>(d, v, slope);
    case Activation::silu:
      return activate_vector<Activation::silu>(d, v, slope);
    case Activation::sigmoid:
      return activate_vector<Activation::sigmoid>(d, v, slope);
    case Activation::tanh:
      return activate_vector<Activation::tanh>(d, v, slope);
  }
  return v;
}

void finish(GemmFinish const& f) {
  for (std::int64_t i = 0; i < f.rows; ++i)
    for (std::int64_t j = 0; j < f.columns; j += lanes) {
      int const n = f.columns - j < lanes ? int(f.columns - j) : lanes;
      float const* value = f.values + i * f.stride + j;
      VF v = load(value, false, 0, n);
      for (int part = 1; part < f.parts; ++part) v = hn::Add(v, load(value += f.part_stride, false, 0, n));
      if (!f.first) v = hn::Add(v, load(f.sums, false, i * f.sums_stride + j, n));
      if (!f.store) {
        store(v, f.sums, false, i * f.sums_stride + j, n);
        continue;
      }
      GemmStore const& s = *f.store;
      std::int64_t const at = (f.row + i) * s.stride + f.column + j;
      if (s.bias) v = hn::Add(v, s.bias_of_rows ? hn::Set(d, s.bias[f.row + i]) : load(s.bias, false, f.column + j, n));
      if (s.residual) v = hn::Add(v, load(s.residual, s.y_bf16, at, n));
      v = activate_any(s.act, v);
      if (s.mask) v = hn::IfThenElseZero(hn::Gt(load(s.mask, s.y_bf16, at, n), hn::Zero(d)), v);
      store(v, s.y, s.y_bf16, at, n);
    }
}

// One tile: out[R][V vectors] = (from ? from : 0) + sum over l of a[l][0..R) * b[l][0..V vectors).
struct Tile {
  std::int64_t k;
  float const *a, *b, *from;
  std::int64_t a_stride, b_stride, from_stride, out_stride;
  float* out;
};

template <int R, int V>
void tile(Tile const& t) {
  VF sum[R][V];
  FALCONET_UNROLL for (int i = 0; i < R; ++i) FALCONET_UNROLL for (int v = 0; v < V; ++v) sum[i][v] = hn::Zero(d);
  if (t.from)   // what the sums are added to is wanted at the end
    FALCONET_UNROLL for (int i = 0; i < R; ++i) FALCONET_UNROLL for (int v = 0; v < V; ++v) __builtin_prefetch(t.from + i * t.from_stride + v * lanes);
  float const *a = t.a, *b = t.b;
  std::int64_t const a_stride = t.a_stride, b_stride = t.b_stride;
  for (std::int64_t l = t.k; l > 0; --l, a += a_stride, b += b_stride) {
    VF column[V];
    FALCONET_UNROLL for (int v = 0; v < V; ++v) column[v] = hn::LoadU(d, b + v * lanes);
    FALCONET_UNROLL for (int i = 0; i < R; ++i) {
      VF const row = hn::Set(d, a[i]);
      FALCONET_UNROLL for (int v = 0; v < V; ++v) sum[i][v] = hn::MulAdd(row, column[v], sum[i][v]);
    }
  }
  if (t.from)
    FALCONET_UNROLL for (int i = 0; i < R; ++i) FALCONET_UNROLL for (int v = 0; v < V; ++v) sum[i][v] =
        hn::Add(sum[i][v], hn::LoadU(d, t.from + i * t.from_stride + v * lanes));
  FALCONET_UNROLL for (int i = 0; i < R; ++i) FALCONET_UNROLL for (int v = 0; v < V; ++v)
      hn::StoreU(sum[i][v], d, t.out + i * t.out_stride + v * lanes);
}

using TileKernel = void (*)(Tile const&);
#define FALCONET_ROWS4(V, R) tile<R, V>, tile<R + 1, V>, tile<R + 2, V>, tile<R + 3, V>
#if HWY_TARGET <= HWY_AVX3
constexpr TileKernel tiles1[] = {FALCONET_ROWS4(1, 1), FALCONET_ROWS4(1, 5), FALCONET_ROWS4(1, 9), FALCONET_ROWS4(1, 13)};
constexpr TileKernel tiles2[] = {FALCONET_ROWS4(2, 1), FALCONET_ROWS4(2, 5), FALCONET_ROWS4(2, 9)};
constexpr TileKernel tiles3[] = {FALCONET_ROWS4(3, 1), FALCONET_ROWS4(3, 5)};
constexpr TileKernel const* tiles[] = {nullptr, tiles1, tiles2, tiles3};
#elif HWY_TARGET <= HWY_AVX2
constexpr TileKernel tiles1[] = {FALCONET_ROWS4(1, 1), FALCONET_ROWS4(1, 5), FALCONET_ROWS4(1, 9)};
constexpr TileKernel tiles2[] = {FALCONET_ROWS4(2, 1), tile<5, 2>, tile<6, 2>};
constexpr TileKernel tiles3[] = {FALCONET_ROWS4(3, 1)};
constexpr TileKernel const* tiles[] = {nullptr, tiles1, tiles2, tiles3};
#else
constexpr TileKernel tiles1[] = {FALCONET_ROWS4(1, 1), FALCONET_ROWS4(1, 5)};
constexpr TileKernel tiles2[] = {FALCONET_ROWS4(2, 1)};
constexpr TileKernel tiles3[] = {FALCONET_ROWS4(3, 1)};
constexpr TileKernel const* tiles[] = {nullptr, tiles1, tiles2, tiles3};
#endif

#if HWY_TARGET <= HWY_AVX3
#define FALCONET_PAIRS __attribute__((target("avx512bf16")))
template <int R, int V>
FALCONET_PAIRS void tile_of_pairs(Tile const& t) {
  __m512 sum[R][V];
  FALCONET_UNROLL for (int i = 0; i < R; ++i) FALCONET_UNROLL for (int v = 0; v < V; ++v) sum[i][v] = _mm512_setzero_ps();
  float const *a = t.a, *b = t.b;
  std::int64_t const a_stride = t.a_stride, b_stride = t.b_stride;
  for (std::int64_t l = t.k; l > 0; --l, a += a_stride, b += b_stride) {
    __m512 column[V];
    FALCONET_UNROLL for (int v = 0; v < V; ++v) column[v] = _mm512_loadu_ps(b + v * lanes);
    FALCONET_UNROLL for (int i = 0; i < R; ++i) {
      __m512 const row = _mm512_set1_ps(a[i]);
      FALCONET_UNROLL for (int v = 0; v < V; ++v) sum[i][v] = _mm512_dpbf16_ps(sum[i][v], (__m512bh)row, (__m512bh)column[v]);
    }
  }
  if (t.from)
    FALCONET_UNROLL for (int i = 0; i < R; ++i) FALCONET_UNROLL for (int v = 0; v < V; ++v) sum[i][v] =
        _mm512_add_ps(sum[i][v], _mm512_loadu_ps(t.from + i * t.from_stride + v * lanes));
  FALCONET_UNROLL for (int i = 0; i < R; ++i) FALCONET_UNROLL for (int v = 0; v < V; ++v)
      _mm512_storeu_ps(t.out + i * t.out_stride + v * lanes, sum[i][v]);
}
constexpr int pair_rows[4] = {0, 8, 8, 8};
// 3 rows run as 4 and 5 to 7 as 8, to keep this small: the rows beyond read what follows the panel (which fills half of its room) and are dropped.
#define FALCONET_PAIRS8(V) tile_of_pairs<1, V>, tile_of_pairs<2, V>, tile_of_pairs<4, V>, tile_of_pairs<4, V>, tile_of_pairs<8, V>, tile_of_pairs<8, V>, tile_of_pairs<8, V>, tile_of_pairs<8, V>
constexpr TileKernel pairs1[] = {FALCONET_PAIRS8(1)}, pairs2[] = {FALCONET_PAIRS8(2)}, pairs3[] = {FALCONET_PAIRS8(3)};
constexpr TileKernel const* pair_tiles[] = {nullptr, pairs1, pairs2, pairs3};

// The upper halves of two rows of f32 (which hold bf16 exactly) side by side. Each result lies at or before what it is made of.
void pair(float* rows, std::int64_t width, std::int64_t k) {
  auto* to = reinterpret_cast<std::uint32_t*>(rows);
  for (std::int64_t l = 0; l < k; l += 2, to += width) {
    auto const* const even = reinterpret_cast<std::uint32_t const*>(rows) + l * width;
    auto const* const odd = l + 1 < k ? even + width : nullptr;
    std::int64_t i = 0;
    __m512i const upper = _mm512_set1_epi32(int(0xffff0000u));
    for (; i + 8 <= width; i += 16) {
      __mmask16 const some = width - i >= 16 ? 0xffff : __mmask16((1u << (width - i)) - 1);
      __m512i const low = _mm512_srli_epi32(_mm512_maskz_loadu_epi32(some, even + i), 16);
      __m512i const high = odd ? _mm512_and_si512(_mm512_maskz_loadu_epi32(some, odd + i), upper) : _mm512_setzero_si512();
      _mm512_mask_storeu_epi32(to + i, some, _mm512_or_si512(low, high));
    }
    for (; i < width; ++i) to[i] = even[i] >> 16 | (odd ? odd[i] & 0xffff0000u : 0);
  }
}
void pair_b(float* block, std::int64_t columns, std::int64_t k) {
  GemmPanels const panels = GemmPanels::of(int((columns + lanes - 1) / lanes), max_vectors);
  for (int panel = 0, v0 = 0; panel < panels.count; v0 += panels.vectors(panel++)) pair(block + v0 * lanes * k, panels.vectors(panel) * lanes, k);
}
#endif

template <bool pairs>
HWY_INLINE TileKernel const* const* table_of_tiles() {
#if HWY_TARGET <= HWY_AVX3
  if (pairs) return pair_tiles;
#endif
  return tiles;
}

template <bool pairs>
void multiply(GemmPanel const& p) {
  int const vectors = int((p.columns + lanes - 1) / lanes);
  GemmPanels const panels = GemmPanels::of(vectors, max_vectors);
  HWY_ALIGN float buffer[gemm_max_rows * 3 * lanes];
  GemmStore const* const s = p.store;
  bool const plain = !s || !(s->y_bf16 || s->bias || s->residual || s->mask || s->act);
  for (int panel = 0, v0 = 0; panel < panels.count; ++panel) {
    int const v = panels.vectors(panel);
    std::int64_t const column = v0 * lanes, left = p.columns - column;
    Tile t;
    t.k = pairs ? (p.k + 1) / 2 : p.k;
    t.a = p.a;
    t.a_stride = p.a_stride;
    t.b = p.b + (p.b_stride ? column : column * p.k);
    t.b_stride = p.b_stride ? p.b_stride : v * lanes;
    t.from = nullptr;
    t.from_stride = p.sums_stride;
    bool const direct = plain && left >= v * lanes && (!pairs || p.rows == 8 || p.rows == 4 || p.rows <= 2);
    if (direct) {
      if (!p.first) t.from = p.sums + column;
      t.out = s ? static_cast<float*>(s->y) + p.row * s->stride + p.column + column : p.sums + column;
      t.out_stride = s ? s->stride : p.sums_stride;
    } else {
      t.out = buffer;
      t.out_stride = v * lanes;
    }
    table_of_tiles<pairs>()[v][p.rows - 1](t);
    if (!direct) {
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
      finish(f);
    }
    v0 += v;
  }
}

}  // namespace

GemmKernels const gemm_kernels = {lanes,    max_vectors, {tile_rows[0], tile_rows[1], tile_rows[2], tile_rows[3]}, pack_a, pack_b,
                                  multiply<false>, finish};
#if HWY_TARGET <= HWY_AVX3
GemmKernels const gemm_pair_kernels = {lanes, max_vectors, {pair_rows[0], pair_rows[1], pair_rows[2], pair_rows[3]}, pack_a, pack_b, multiply<true>, finish, pair, pair_b};
#endif

}  // namespace falconet::FALCONET_ISA

#else

namespace falconet {
GemmKernels const& gemm_kernels_of(Isa isa) { return FALCONET_KERNELS(isa, gemm_kernels); }
GemmKernels const& gemm_bf16_kernels_of(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512 && has_bf16_products()) return avx512::gemm_pair_kernels;
#endif
  return gemm_kernels_of(isa);
}
}  // namespace falconet

#endif
