// Matrix product by dot products: where both operands are contiguous along k (y = x * W^T, the linear layer forward), nothing is
// packed. A tile of R x C results keeps R*C vectors of partial sums over k; four of them at a time are then transposed and added
// into four neighbouring results. It wins over the packed product for few rows (prediction: one row reads each weight once)
// and, since nothing is copied, for most sizes with k of at least some 60; below that, adding up lanes costs as much as the products.
//   tiles: AVX-512 6x4, AVX2 3x4, plain 2x4; one row: 1x8
#include "falconet/ops/gemm/cpu/packed.h"

namespace falconet {

struct DotBlock {                         // y[row.., column..] of rows x columns
  void const *a = nullptr, *b = nullptr;  // their first rows, k elements each
  bool is_bf16 = false;
  std::int64_t rows = 0, columns = 0, k = 0;
  GemmStore const* store = nullptr;
  std::int64_t row = 0, column = 0;
};
struct DotKernels {
  void (*multiply)(DotBlock const&);
};
FALCONET_DECLARE_KERNELS(DotKernels, dot_kernels)

}  // namespace falconet

#ifdef FALCONET_ISA
#include "falconet/device/cpu/simd.h"
#include "falconet/ops/gemm/cpu/packing_simd.h"

namespace falconet::FALCONET_ISA {
namespace {

#if HWY_TARGET <= HWY_AVX3
constexpr int tile_rows = 6;
#elif HWY_TARGET <= HWY_AVX2
constexpr int tile_rows = 3;
#else
constexpr int tile_rows = 2;
#endif
constexpr int chunk = 64;  // columns that are finished together

// The sums over the lanes of four vectors.
HWY_INLINE void sums_of_lanes(VF a, VF b, VF c, VF e, float* out) {
#if HWY_TARGET == HWY_SCALAR
  out[0] = hn::GetLane(a), out[1] = hn::GetLane(b), out[2] = hn::GetLane(c), out[3] = hn::GetLane(e);
#else
  hn::Repartition<double, D> const d64;
  auto const ab = hn::BitCast(d64, hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b)));
  auto const ce = hn::BitCast(d64, hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e)));
  VF const blocks = hn::Add(hn::BitCast(d, hn::InterleaveLower(d64, ab, ce)), hn::BitCast(d, hn::InterleaveUpper(d64, ab, ce)));
#if HWY_TARGET <= HWY_AVX3
  hn::Full256<float> const d8;
  auto const half = hn::Add(hn::LowerHalf(d8, blocks), hn::UpperHalf(d8, blocks));
  hn::StoreU(hn::Add(hn::LowerHalf(D4(), half), hn::UpperHalf(D4(), half)), D4(), out);
#elif HWY_TARGET <= HWY_AVX2
  hn::StoreU(hn::Add(hn::LowerHalf(D4(), blocks), hn::UpperHalf(D4(), blocks)), D4(), out);
#else
  hn::StoreU(blocks, d, out);
#endif
#endif
}

// out[i * chunk + j] = sum over l of a[i * k + l] * row_of_b[j][l].
template <int R, int C, class T>
void tile(T const* a, T const* const* b, std::int64_t k, float* out) {
  VF sum[R][C];
  FALCONET_UNROLL for (int i = 0; i < R; ++i) FALCONET_UNROLL for (int j = 0; j < C; ++j) sum[i][j] = hn::Zero(d);
  std::int64_t l = 0;
  for (; l + lanes <= k; l += lanes) {
    VF row[R];
    FALCONET_UNROLL for (int i = 0; i < R; ++i) row[i] = load_vector(a + i * k + l);
    FALCONET_UNROLL for (int j = 0; j < C; ++j) {
      VF const column = load_vector(b[j] + l);
      FALCONET_UNROLL for (int i = 0; i < R; ++i) sum[i][j] = hn::MulAdd(row[i], column, sum[i][j]);
    }
  }
  if (int const left = int(k - l)) {
    VF row[R];
    FALCONET_UNROLL for (int i = 0; i < R; ++i) row[i] = load_some(a + i * k + l, left);
    FALCONET_UNROLL for (int j = 0; j < C; ++j) {
      VF const column = load_some(b[j] + l, left);
      FALCONET_UNROLL for (int i = 0; i < R; ++i) sum[i][j] = hn::MulAdd(row[i], column, sum[i][j]);
    }
  }
  FALCONET_UNROLL for (int i = 0; i < R; ++i) FALCONET_UNROLL for (int j = 0; j < C; j += 4)
      sums_of_lanes(sum[i][j], sum[i][j + 1], sum[i][j + 2], sum[i][j + 3], out + i * chunk + j);
}

// `rows` <= R rows times the columns of a chunk.
template <int R, int C, class T>
void strip(T const* a, int rows, T const* b, int columns, std::int64_t k, float* out) {
  if constexpr (R > 1) {
    if (rows < R) return strip<R - 1, C, T>(a, rows, b, columns, k, out);
  }
  for (int j = 0; j < columns; j += C) {
    T const* row[C];
    for (int c = 0; c < C; ++c) row[c] = b + (j + c < columns ? j + c : columns - 1) * k;
    tile<R, C, T>(a, row, k, out + j);
  }
}

template <class T>
void multiply_as(DotBlock const& p) {
  HWY_ALIGN float results[tile_rows * chunk];
  std::int64_t const tiles = (p.rows + tile_rows - 1) / tile_rows;
  for (std::int64_t t = 0, i = 0; t < tiles; ++t) {
    int const rows = int(p.rows / tiles + (t < p.rows % tiles));
    for (std::int64_t j = 0; j < p.columns; j += chunk) {
      int const columns = p.columns - j < chunk ? int(p.columns - j) : chunk;
      T const *a = static_cast<T const*>(p.a) + i * p.k, *b = static_cast<T const*>(p.b) + j * p.k;
      rows == 1 ? strip<1, 8, T>(a, 1, b, columns, p.k, results) : strip<tile_rows, 4, T>(a, rows, b, columns, p.k, results);
      GemmFinish f;
      f.values = results;
      f.stride = chunk;
      f.rows = rows;
      f.columns = columns;
      f.store = p.store;
      f.row = p.row + i;
      f.column = p.column + j;
      gemm_kernels.finish(f);
    }
    i += rows;
  }
}
void multiply(DotBlock const& p) { p.is_bf16 ? multiply_as<std::uint16_t>(p) : multiply_as<float>(p); }

}  // namespace

DotKernels const dot_kernels = {multiply};

}  // namespace falconet::FALCONET_ISA

#else
#include <algorithm>

#include "falconet/ops/gemm/algorithms.h"

namespace falconet {
namespace {

constexpr double task_operations = 1e6, task_bytes = 192 << 10;  // about so much in a task: 10 us of arithmetic, 3 us of reading
constexpr std::int64_t max_tasks = 16;

std::string reject(GemmProblem const& p, DeviceFacts const&) {
  if (p.image.which != GemmImage::none) return "an operand that lies as images";
  if (!(p.a_type == p.b_type && (p.a_type == DType::f32 || p.a_type == DType::bf16))) return "needs operands of one type, f32 or bf16";
  if ((p.trans_a && p.m > 1 && p.k > 1) || (!p.trans_b && p.n > 1 && p.k > 1)) return "needs both operands contiguous along k";
  return {};
}

double seconds(GemmProblem const& p, DeviceFacts const& facts) {
  double const m = double(p.m), n = double(p.n), k = double(p.k), lanes = facts.isa == Isa::avx512 ? 16 : facts.isa == Isa::avx2 ? 8 : 1;
  double const per_cycle = facts.isa == Isa::plain ? 2 : facts.isa == Isa::avx2 ? 30 : 31;  // operations
  double const columns = double((p.n + 3) / 4 * 4), whole = double(std::int64_t((k + lanes - 1) / lanes)) * lanes;
  // Rows of A and B stream from the second-level cache where they leave the first; W is read at 30 bytes a cycle at best.
  double const rate = k > 4096 ? 0.8 : 1;
  double const arithmetic = 2 * m * columns * whole / (per_cycle * rate), reading = n * k * double(size_of(p.b_type)) / 30;
  return (std::max(arithmetic, reading) + m * columns * (p.store.act > Activation::relu6 ? 4.5 : 3) + 300) / 3.7e9;
}

void run(GemmProblem const& p, Config const&, GemmArgs const& args, View, Stream& stream) {
  DotKernels const& kernels = FALCONET_KERNELS(stream.isa(), dot_kernels);
  GemmStore const store = gemm_store_of(p, args);

  bool const by_columns = p.n >= p.m;
  std::int64_t const extent = by_columns ? p.n : p.m, element = std::int64_t(size_of(p.a_type));
  double const bytes = double(extent * p.k * element);
  double const wanted = std::max(p.operations() / task_operations, bytes / task_bytes);
  std::int64_t tasks = 1;
  while (tasks < max_tasks && double(tasks * 2) <= wanted) tasks *= 2;  // an even split for two threads, too
  std::int64_t const share = ((extent + tasks - 1) / tasks + 7) / 8 * 8;
  stream.threads().run(int((extent + share - 1) / share), [&](int task) {
    std::int64_t const begin = task * share, count = std::min(share, extent - begin);
    DotBlock block;
    block.is_bf16 = p.a_type == DType::bf16;
    block.k = p.k;
    block.store = &store;
    block.row = by_columns ? 0 : begin;
    block.column = by_columns ? begin : 0;
    block.rows = by_columns ? p.m : count;
    block.columns = by_columns ? count : p.n;
    block.a = args.a.as<char const>() + block.row * p.k * element;
    block.b = args.b.as<char const>() + block.column * p.k * element;
    kernels.multiply(block);
  });
}

}  // namespace

Algorithm<GemmProblem> gemm_dot() { return {.name = "dot", .target = DeviceKind::cpu, .reject = reject, .seconds = seconds, .run = run}; }

}  // namespace falconet

#endif
