// The blocked, packed matrix product in f32 (operands f32 or bf16, converted while they are packed).
//
//   for each task = (block of rows, block of columns, part of k)             in parallel, a fixed decomposition
//     for each piece of k of at most max_piece
//       pack B[piece, columns]                                               stays in the second-level cache
//       for each panel of R rows
//         pack A[R, piece]                                                   stays in the first-level cache
//         for each B panel: tile                                             registers
//
// A block of A or B is packed once per block of the other dimension; the split doubles the number of blocks along the dimension
// whose partner is cheaper to pack again. Products with few results and a long k are split along k too: the parts are summed
// in order, so results depend on the problem and the instruction set alone.
//
// Large products: every block of B would be packed once per block of rows, and A once per block of columns, 16 % of the time at 2048^3. There all
// of B is packed first, once, and tasks are bands of rows that pack their part of A once:
//   pack B                                                                   in parallel, blocks of columns and pieces of k
//   for each task = band of rows, for each piece of k                        in parallel over bands
//     pack A[band, piece]; for each block of B, each panel of A, each panel of B: tile
#include <algorithm>

#include "falconet/ops/gemm/algorithms.h"
#include "falconet/ops/gemm/cpu/blocked.h"
#include "falconet/ops/gemm/cpu/packed.h"

namespace falconet {
namespace {

constexpr std::int64_t max_piece = 384;         // of k: an A panel is at most 16 x 384 x 4 B = 24 KiB
constexpr std::int64_t max_b_block = 96 << 10;  // elements: 384 KiB
constexpr double task_operations = 2e6;         // at least so much work in a task: about 20 us; half of that for two tasks
constexpr std::int64_t max_tasks = 16;
constexpr std::int64_t group_rows = 64;  // of a transposed A, packed together: whole cache lines are read

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::int64_t round_up(std::int64_t a, std::int64_t b) { return divide_up(a, b) * b; }

struct Split {
  std::int64_t units;                  // 16 columns each: what blocks of columns are made of
  std::int64_t rows, columns, part_k;  // of one task, at most
  std::int64_t row_blocks, column_blocks, parts;
  std::int64_t piece, b_columns;           // of one packed B block
  bool direct_b;                           // few rows: B is read where it lies
  bool scratch_sums;                       // partial sums do not fit into y
  std::int64_t a_size, b_size, sums_size;  // floats of scratch memory per task
  std::int64_t tasks() const { return row_blocks * column_blocks * parts; }
  std::int64_t task_size() const { return a_size + b_size + sums_size; }
};

// A function of the problem alone, for any instruction set.
Split split_of(GemmProblem const& p) {
  Split s;
  auto const wanted =
      std::clamp(std::int64_t(p.operations() / task_operations), std::int64_t(p.operations() >= task_operations / 2 ? 2 : 1), max_tasks);
  auto const units = s.units = divide_up(p.n, gemm_max_lanes);
  // Packing a transposed operand costs about twice as much per element.
  double const again_a = double(p.m) * (p.trans_a ? 1 : 2), again_b = double(p.n) * (p.trans_b ? 2 : 1);
  s.row_blocks = s.column_blocks = s.parts = 1;
  while (s.row_blocks * s.column_blocks * 2 <= wanted) {
    bool const one = s.tasks() == 1;
    bool const columns = units / (2 * s.column_blocks) >= (one ? 4 : 8), rows = p.m / (2 * s.row_blocks) >= (one ? 32 : 64);
    if (!columns && !rows) break;
    if (columns && (!rows || again_a * double(s.column_blocks) <= again_b * double(s.row_blocks)))
      s.column_blocks *= 2;
    else
      s.row_blocks *= 2;
  }
  while (s.tasks() * 2 <= wanted && p.k / (2 * s.parts) >= 256) s.parts *= 2;
  s.rows = divide_up(p.m, s.row_blocks);
  s.columns = divide_up(units, s.column_blocks) * gemm_max_lanes;
  s.part_k = divide_up(p.k, s.parts);
  s.piece = divide_up(s.part_k, divide_up(s.part_k, max_piece));
  s.b_columns = std::min(s.columns, round_up(max_b_block / s.piece, 48));
  s.direct_b = !p.trans_b && p.b_type == DType::f32 && p.n % gemm_max_lanes == 0 && s.rows <= 16;
  s.scratch_sums = s.parts > 1 || (p.y_type == DType::bf16 && s.piece < p.k);
  s.a_size = (p.trans_a ? group_rows : gemm_max_rows) * round_up(s.piece, 16);
  s.b_size = s.direct_b ? 0 : s.piece * s.b_columns;
  s.sums_size = s.scratch_sums && s.parts == 1 ? s.rows * s.columns : 0;
  return s;
}

// Large products: see the top.
struct Bands {
  std::int64_t piece, pieces, b_columns, blocks, columns;   // of k; of B; columns: of all of B, padded
  std::int64_t rows, bands;                                 // of a task; tasks
  std::int64_t a_size;                                      // floats for a band's part of A
  bool sums;                                                // y cannot hold partial sums
  std::int64_t k_of(std::int64_t k, std::int64_t l) const { return std::min(piece, k - l * piece); }
};
constexpr double large_operations = 5e8;
constexpr std::int64_t most_packed = 8 << 20;   // floats of B

bool by_bands(GemmProblem const& p) {
  return p.operations() >= large_operations && p.m >= 256 && p.n >= 192 && p.k >= 192 && round_up(p.n, gemm_max_lanes) * p.k <= most_packed;
}
Bands bands_of(GemmProblem const& p) {
  Bands s;
  s.piece = divide_up(p.k, divide_up(p.k, max_piece));
  s.pieces = divide_up(p.k, s.piece);
  s.b_columns = max_b_block / s.piece / 48 * 48;
  s.columns = round_up(p.n, gemm_max_lanes);
  s.blocks = divide_up(s.columns, s.b_columns);
  s.rows = std::max<std::int64_t>(64, round_up(divide_up(p.m, 16), 16));
  s.bands = divide_up(p.m, s.rows);
  s.a_size = s.rows * round_up(s.piece, 16);
  s.sums = p.y_type == DType::bf16 && s.pieces > 1;
  return s;
}

std::string reject(GemmProblem const& p, DeviceFacts const&) {
  if (p.image.which != GemmImage::none) return "an operand that lies as images";
  if (p.a_type == DType::f64) return "needs f32 or bf16";
  return {};
}

std::size_t scratch(GemmProblem const& p, Config const&) {
  if (by_bands(p)) {
    Bands const b = bands_of(p);
    return std::size_t(b.columns * p.k + b.bands * b.a_size + (b.sums ? p.m * p.n : 0)) * sizeof(float);
  }
  Split const s = split_of(p);
  return std::size_t(s.tasks() * s.task_size() + (s.parts > 1 ? s.parts * p.m * p.n : 0)) * sizeof(float);
}

double seconds(GemmProblem const& p, DeviceFacts const& facts) {
  Split const s = split_of(p);
  int const lanes = facts.isa == Isa::avx512 ? 16 : facts.isa == Isa::avx2 ? 8 : 1;
  double const per_cycle = facts.isa == Isa::plain ? 2 : facts.isa == Isa::avx2 ? 28 : 30;  // operations
  bool const once = by_bands(p);
  double const pack = once ? 0.5 * double(p.m + p.n) * double(p.k) : (double(p.m) * double(s.column_blocks) * (p.trans_a ? 0.2 : 0.35) +
                       (s.direct_b ? 0 : double(p.n) * double(s.row_blocks) * (p.trans_b ? 0.35 : 0.2))) *
                      double(p.k);
  double const tile = p.m < 4 ? 4 / double(p.m) : 1;  // with fewer sums than the latency of an addition
  double const cycles = 2.0 * tile * double(p.m * round_up(p.n, lanes)) * double(p.k) / per_cycle + pack +
                        0.25 * double(p.m * p.n) * double(divide_up(p.k, s.piece)) + 500;
  return cycles / 3.7e9;
}

void const* element(View const& v, DType type, std::int64_t i) { return v.as<char const>() + i * (type == DType::bf16 ? 2 : 4); }

void run_bands(GemmProblem const& p, GemmArgs const& args, float* const packed, Stream& stream) {
  Bands const s = bands_of(p);
  bool const both_bf16 = p.a_type == DType::bf16 && p.b_type == DType::bf16;
  GemmKernels const& kernels = both_bf16 ? gemm_bf16_kernels_of(stream.isa()) : gemm_kernels_of(stream.isa());
  GemmStore const store = gemm_store_of(p, args);
  float* const a_blocks = packed + s.columns * p.k;
  float* const sums = s.sums ? a_blocks + s.bands * s.a_size : p.y_type == DType::f32 ? args.y.as<float>() : nullptr;
  stream.threads().run(int(s.pieces * s.blocks), [&](int task) {
    std::int64_t const l = task % s.pieces, k = s.k_of(p.k, l), j = task / s.pieces * s.b_columns;
    GemmSource const b{element(args.b, p.b_type, p.trans_b ? j * p.k + l * s.piece : l * s.piece * p.n + j), p.b_type == DType::bf16, p.trans_b ? 1 : p.n, p.trans_b ? p.k : 1};
    float* const block = packed + l * s.piece * s.columns + j * k;
    kernels.pack_b(b, std::min(s.b_columns, p.n - j), k, block, k, 0);
    if (kernels.pair) kernels.pair_b(block, std::min(s.b_columns, p.n - j), k);
  });
  stream.threads().run(int(s.bands), [&](int band) {
    std::int64_t const row0 = band * s.rows, rows = std::min(s.rows, p.m - row0), panel = divide_up(rows, divide_up(rows, kernels.rows[kernels.max_vectors]));
    float* const a_block = a_blocks + band * s.a_size;
    for (std::int64_t l = 0; l < s.pieces; ++l) {
      GemmPanel g;
      g.k = s.k_of(p.k, l);
      g.first = l == 0;
      g.store = l + 1 == s.pieces ? &store : nullptr;
      g.sums_stride = p.n;
      GemmSource const a{element(args.a, p.a_type, p.trans_a ? l * s.piece * p.m + row0 : row0 * p.k + l * s.piece), p.a_type == DType::bf16, p.trans_a ? p.m : 1, p.trans_a ? 1 : p.k};
      kernels.pack_a(a, rows, int(panel), g.k, a_block);
      if (kernels.pair)
        for (std::int64_t i = 0; i < rows; i += panel) kernels.pair(a_block + i * g.k, std::min(panel, rows - i), g.k);
      for (std::int64_t j = 0; j < p.n; j += s.b_columns) {
        g.columns = std::min(s.b_columns, p.n - j);
        g.column = j;
        g.b = packed + l * s.piece * s.columns + j * g.k;
        for (std::int64_t i = 0; i < rows; i += g.rows) {
          g.rows = int(std::min(panel, rows - i));
          g.a = a_block + i * g.k;
          g.a_stride = g.rows;
          g.row = row0 + i;
          g.sums = sums ? sums + g.row * p.n + j : nullptr;
          kernels.multiply(g);
        }
      }
    }
  });
}

void run(GemmProblem const& p, Config const&, GemmArgs const& args, View scratch_view, Stream& stream) {
  if (by_bands(p)) return run_bands(p, args, scratch_view.as<float>(), stream);
  Split const s = split_of(p);
  bool const both_bf16 = p.a_type == DType::bf16 && p.b_type == DType::bf16;
  GemmKernels const& kernels = both_bf16 ? gemm_bf16_kernels_of(stream.isa()) : gemm_kernels_of(stream.isa());
  float* const scratch = scratch_view.as<float>();
  float* const partials = scratch + s.tasks() * s.task_size();
  GemmStore const store = gemm_store_of(p, args);

  bool const a_bf16 = p.a_type == DType::bf16, b_bf16 = p.b_type == DType::bf16;
  auto const at = [](View const& v, bool is_bf16, std::int64_t i) -> void const* { return v.as<char const>() + i * (is_bf16 ? 2 : 4); };

  stream.threads().run(int(s.tasks()), [&](int task) {
    std::int64_t const part = task % s.parts, row_block = task / s.parts % s.row_blocks, column_block = task / s.parts / s.row_blocks;
    std::int64_t const row0 = p.m * row_block / s.row_blocks, rows = p.m * (row_block + 1) / s.row_blocks - row0;
    std::int64_t const column0 = s.units * column_block / s.column_blocks * gemm_max_lanes;
    std::int64_t const columns = std::min(p.n, s.units * (column_block + 1) / s.column_blocks * gemm_max_lanes) - column0;
    std::int64_t const k0 = part * s.part_k, k1 = std::min(p.k, k0 + s.part_k);
    float* const a_panel = scratch + task * s.task_size();
    float* const b_block = a_panel + s.a_size;
    float* sums = b_block + s.b_size;
    std::int64_t sums_stride = s.columns;
    if (s.parts > 1)
      sums = partials + part * p.m * p.n + row0 * p.n + column0, sums_stride = p.n;
    else if (!s.scratch_sums)
      sums = p.y_type == DType::f32 ? args.y.as<float>() + row0 * p.n + column0 : nullptr, sums_stride = p.n;

    for (std::int64_t j = 0; j < columns; j += s.b_columns) {
      std::int64_t const width = std::min(s.b_columns, columns - j);
      auto const panels = GemmPanels::of(int(divide_up(width, kernels.lanes)), kernels.max_vectors);
      std::int64_t const tile_rows = kernels.rows[panels.widest()], even = divide_up(rows, divide_up(rows, tile_rows));
      std::int64_t const group = p.trans_a ? group_rows / even * even : even;  // rows packed together
      for (std::int64_t l = k0; l < k1; l += s.piece) {
        GemmPanel g;
        g.k = std::min(s.piece, k1 - l);
        g.columns = width;
        GemmSource const b{at(args.b, b_bf16, p.trans_b ? (column0 + j) * p.k + l : l * p.n + column0 + j), b_bf16, p.trans_b ? 1 : p.n,
                           p.trans_b ? p.k : 1};
        if (s.direct_b)
          g.b = static_cast<float const*>(b.data), g.b_stride = p.n;
        else {
          kernels.pack_b(b, width, g.k, b_block, g.k, 0), g.b = b_block;
          if (kernels.pair) kernels.pair_b(b_block, width, g.k);
        }
        g.first = l == k0;
        g.store = l + g.k == k1 && s.parts == 1 ? &store : nullptr;
        g.sums_stride = sums_stride;
        g.column = column0 + j;
        bool const direct_a = p.trans_a && !a_bf16 && panels.count <= 2;
        for (std::int64_t i = 0; i < rows; i += g.rows) {
          g.rows = int(std::min(even, rows - i));
          GemmSource const a{at(args.a, a_bf16, p.trans_a ? l * p.m + row0 + i : (row0 + i) * p.k + l), a_bf16, p.trans_a ? p.m : 1,
                             p.trans_a ? 1 : p.k};
          if (direct_a) {
            g.a = static_cast<float const*>(a.data);
            g.a_stride = p.m;
          } else {
            std::int64_t const in_group = i % group;
            if (in_group == 0) kernels.pack_a(a, std::min(group, rows - i), int(even), g.k, a_panel);
            if (kernels.pair) kernels.pair(a_panel + in_group * g.k, g.rows, g.k);
            g.a = a_panel + in_group * g.k;
            g.a_stride = g.rows;
          }
          g.sums = sums ? sums + i * sums_stride + j : nullptr;
          g.row = row0 + i;
          kernels.multiply(g);
        }
      }
    }
  });
  if (s.parts == 1) return;

  std::int64_t const rows = std::max<std::int64_t>(1, (1 << 14) / p.n);
  stream.threads().run(int(divide_up(p.m, rows)), [&](int task) {
    std::int64_t const row = task * rows;
    GemmFinish f;
    f.values = partials + row * p.n;
    f.stride = p.n;
    f.part_stride = p.m * p.n;
    f.parts = int(s.parts);
    f.rows = std::min(rows, p.m - row);
    f.columns = p.n;
    f.store = &store;
    f.row = row;
    kernels.finish(f);
  });
}

GemmProblem problem_of(BlockedProduct const& b) {
  GemmProblem p;
  p.m = b.m, p.n = b.n, p.k = b.k, p.trans_a = b.trans_a, p.trans_b = b.trans_b;
  p.a_type = b.a_type, p.b_type = b.b_type, p.y_type = b.y_type;
  return p;
}

}  // namespace

std::size_t blocked_product_scratch(BlockedProduct const& b) { return scratch(problem_of(b), {}); }
double blocked_product_seconds(BlockedProduct const& b, DeviceFacts const& facts) { return seconds(problem_of(b), facts); }
void blocked_product(BlockedProduct const& b, void const* a, void const* by, void* y, View scratch, Stream& stream) {
  GemmArgs args;
  args.a.data = const_cast<void*>(a), args.b.data = const_cast<void*>(by), args.y.data = y;
  run(problem_of(b), {}, args, scratch, stream);
}

GemmStore gemm_store_of(GemmProblem const& p, GemmArgs const& args) {
  return {.y = args.y.data,
          .stride = p.n,
          .y_bf16 = p.y_type == DType::bf16,
          .bias = args.bias.as<float const>(),
          .residual = args.residual.data,
          .mask = args.mask.data,
          .act = int(p.store.act)};
}

Algorithm<GemmProblem> gemm_blocked() {
  return {.name = "blocked", .target = DeviceKind::cpu, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run};
}

}  // namespace falconet
