// Matrix product that does not pack its left operand, for small and skinny sizes, where packing costs as much as the product: elements of A are
// broadcast from where they lie, rows of B are read where they lie if they are whole vectors, and else packed once for all rows.
//   tile: R rows x V vectors of sums in registers; per step of k: V loads of B and R broadcasts of A[i * row_step + l * k_step]
//   (R, V up to 8, 3 with AVX-512, 4, 3 with AVX2)
// Tasks are ranges of rows. The last rows of a range that do not fill a tile are done with rows done already, set back to end with it.
// Limits: f32; B, at most 128 Ki elements, stays in L2. Cost: 2 m n k operations; A read once per 3 vectors of columns, from L1.
#include <cstdint>

#include "falconet/ops/gemm/cpu/packed.h"

namespace falconet {

struct UnpackedProduct {
  float const *a = nullptr, *b = nullptr;
  std::int64_t row_step = 0, k_step = 0, k = 0, n = 0;
  std::int64_t b_stride = 0;      // floats between rows of B; 0: packed
  GemmStore const* store = nullptr;
};
struct UnpackedKernels {
  int lanes;
  void (*rows)(UnpackedProduct const&, std::int64_t begin, std::int64_t end);
};
FALCONET_DECLARE_KERNELS(UnpackedKernels, unpacked_kernels)

}  // namespace falconet

#ifdef FALCONET_ISA
#include "falconet/device/cpu/simd.h"
#include "falconet/ops/gemm/cpu/packing_simd.h"

namespace falconet::FALCONET_ISA {
namespace {

#if HWY_TARGET <= HWY_AVX3
constexpr int most_rows = 8;
#else
constexpr int most_rows = 4;
#endif

template <int R, int V>
void tile(UnpackedProduct const& g, float const* a, float const* b, std::int64_t b_stride, float* out, std::int64_t out_stride) {
  VF sum[R][V];
  FALCONET_UNROLL for (int i = 0; i < R; ++i) FALCONET_UNROLL for (int v = 0; v < V; ++v) sum[i][v] = hn::Zero(d);
  std::int64_t const row = g.row_step, step = g.k_step;
  float const* const half = a + R / 2 * row;       // two bases, so that rows are reached by scaled indices
  std::int64_t at = 0;
  for (std::int64_t l = g.k; l > 0; --l, at += step, b += b_stride) {
    VF column[V];
    FALCONET_UNROLL for (int v = 0; v < V; ++v) column[v] = hn::LoadU(d, b + v * lanes);
    FALCONET_UNROLL for (int i = 0; i < R; ++i) {
      VF const x = hn::Set(d, i < R / 2 ? a[at + i * row] : half[at + (i - R / 2) * row]);
      FALCONET_UNROLL for (int v = 0; v < V; ++v) sum[i][v] = hn::MulAdd(x, column[v], sum[i][v]);
    }
  }
  FALCONET_UNROLL for (int i = 0; i < R; ++i) FALCONET_UNROLL for (int v = 0; v < V; ++v)
      hn::StoreU(sum[i][v], d, out + i * out_stride + v * lanes);
}

template <int R>
void tile_row(UnpackedProduct const& g, std::int64_t row) {
  HWY_ALIGN float buffer[R * 3 * lanes];
  GemmStore const& s = *g.store;
  bool const plain = !(s.y_bf16 || s.bias || s.residual || s.mask || s.act);
  GemmPanels const panels = GemmPanels::of(int((g.n + lanes - 1) / lanes), 3);
  float const* const a = g.a + row * g.row_step;
  for (int panel = 0, v0 = 0; panel < panels.count; v0 += panels.vectors(panel++)) {
    int const v = panels.vectors(panel);
    std::int64_t const column = v0 * lanes, left = g.n - column, stride = g.b_stride ? g.b_stride : v * lanes;
    bool const direct = plain && left >= v * lanes;
    float const* const b = g.b + (g.b_stride ? column : column * g.k);
    float* const out = direct ? static_cast<float*>(s.y) + row * s.stride + column : buffer;
    std::int64_t const out_stride = direct ? s.stride : v * lanes;
    v == 3 ? tile<R, 3>(g, a, b, stride, out, out_stride) : v == 2 ? tile<R, 2>(g, a, b, stride, out, out_stride) : tile<R, 1>(g, a, b, stride, out, out_stride);
    if (direct) continue;
    GemmFinish f;
    f.values = buffer;
    f.stride = v * lanes;
    f.rows = R;
    f.columns = left < v * lanes ? left : v * lanes;
    f.store = &s;
    f.row = row;
    f.column = column;
    gemm_kernels.finish(f);
  }
}

void rows(UnpackedProduct const& g, std::int64_t begin, std::int64_t end) {
  std::int64_t i = begin;
  for (; i + most_rows <= end; i += most_rows) tile_row<most_rows>(g, i);
  if (i == end) return;
  if (end - begin >= most_rows) return tile_row<most_rows>(g, end - most_rows);
  for (; i < end; ++i) tile_row<1>(g, i);
}

}  // namespace

UnpackedKernels const unpacked_kernels = {lanes, rows};

}  // namespace falconet::FALCONET_ISA

#else
#include <algorithm>

#include "falconet/ops/gemm/algorithms.h"

namespace falconet {
namespace {

constexpr std::int64_t most_b = 128 << 10;           // elements
constexpr double task_operations = 2e6;
constexpr int max_tasks = 32;

std::int64_t padded(std::int64_t n) { return (n + gemm_max_lanes - 1) / gemm_max_lanes * gemm_max_lanes; }
bool packs_b(GemmProblem const& p) { return p.trans_b || p.n % gemm_max_lanes != 0; }
int tasks_of(GemmProblem const& p) { return int(std::clamp<std::int64_t>(std::int64_t(p.operations() / task_operations), 1, std::min<std::int64_t>(max_tasks, std::max<std::int64_t>(1, p.m / 16)))); }

std::string reject(GemmProblem const& p, DeviceFacts const&) {
  if (p.image.which != GemmImage::none) return "an operand that lies as images";
  if (p.a_type != DType::f32 || p.b_type != DType::f32) return "needs f32 operands";
  if (padded(p.n) * p.k > most_b) return "needs a B that stays in L2: at most 128 Ki elements";
  return {};
}

std::size_t scratch(GemmProblem const& p, Config const&) { return packs_b(p) ? std::size_t(padded(p.n) * p.k) * sizeof(float) : 0; }

double seconds(GemmProblem const& p, DeviceFacts const& facts) {
  int const lanes = facts.isa == Isa::avx512 ? 16 : facts.isa == Isa::avx2 ? 8 : 1;
  double const per_cycle = facts.isa == Isa::plain ? 1.5 : facts.isa == Isa::avx2 ? 26 : 28;   // operations, as blocked counts them
  double const columns = double((p.n + lanes - 1) / lanes * lanes), rows = p.m < 8 ? 4.0 * double(p.m) : double((p.m + 7) / 8 * 8);
  // Columns of A that lie a large power of two apart meet in few sets of L1.
  double const pack = packs_b(p) ? double(p.n) * double(p.k) * (p.trans_b ? 0.5 : 0.4) : 0;
  return (2 * rows * columns * double(p.k) / per_cycle + pack + 150 + 0.3 * double(p.m) * columns) / 3.7e9;
}

void run(GemmProblem const& p, Config const&, GemmArgs const& args, View scratch_view, Stream& stream) {
  GemmStore const store = gemm_store_of(p, args);
  UnpackedProduct g;
  g.a = args.a.as<float const>();
  g.b = args.b.as<float const>();
  g.row_step = p.trans_a ? 1 : p.k, g.k_step = p.trans_a ? p.m : 1;
  g.k = p.k, g.n = p.n;
  g.b_stride = p.n;
  g.store = &store;
  if (packs_b(p)) {
    std::int64_t const parts = p.n * p.k >= 1 << 14 && p.k >= 128 ? 4 : 1, part = (p.k + 4 * parts - 1) / (4 * parts) * 4;   // of k
    auto const pack = gemm_kernels_of(stream.isa()).pack_b;
    stream.threads().run(int(parts), [&](int task) {
      std::int64_t const first = task * part, count = std::min(part, p.k - first);
      if (count > 0) pack({g.b + (p.trans_b ? first : first * p.n), false, p.trans_b ? 1 : p.n, p.trans_b ? p.k : 1}, p.n, count, scratch_view.as<float>(), p.k, first);
    });
    g.b = scratch_view.as<float const>();
    g.b_stride = 0;
  }
  int const tasks = tasks_of(p);
  auto const kernel = FALCONET_KERNELS(stream.isa(), unpacked_kernels).rows;
  stream.threads().run(tasks, [&](int task) { kernel(g, p.m * task / tasks, p.m * (task + 1) / tasks); });
}

}  // namespace

Algorithm<GemmProblem> gemm_unpacked() { return {.name = "unpacked", .target = DeviceKind::cpu, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run}; }

}  // namespace falconet

#endif
