// Convolution by Winograd's minimal filtering (Winograd, "Arithmetic Complexity of Computations", 1980; Lavin and Gray, "Fast Algorithms
// for Convolutional Neural Networks", arXiv:1509.09308): F(m x m, 3 x 3), m = 2 or 4 (config tile). Images are cut into tiles of m x m
// results that overlap by two pixels of input; with a = m + 2
//
//   y(tile) = A^T [ sum over c of (G w(k,c) G^T) . (B^T x(tile,c) B) ] A                   "." element by element
//
// so that each of the a^2 elements of the domain is one matrix product [tiles, channels] x [channels, filters]: 2 a^2/m^2 operations per
// result and channel in place of 18: 8 for m = 2, 4.5 for m = 4.
//
// The products are driven by tile_products.cpp, the filter gradient by tile_products_filter.cpp:
//   dw = G^T [ sum over tiles of (A dy A^T) . (B^T x B) ] G
//
// Memory: the transformed filter is a^2/9 times the filter, made once in inference (prepare), read once per round; x and y pass once; their transforms, a^2/m^2 times as
// large, stay in the cache.
// Error: the transforms amplify rounding errors, in the root mean square over the results of a tile by 1.7 (m = 2) and 10.8 (m = 4),
// for its worst result by 1.7 and 31.5 (README.md derives it). For m = 2 sums of small whole numbers stay exact.
// bf16: tiles and filters are widened as they are transformed, everything between the transforms is of f32, results are rounded as they are stored.
// Limits: f32, or bf16 with dw in f32, nhwc, groups 1, 3x3 filters, stride and dilation 1; slots bias, residual, relu and mask, and db.
#include "falconet/ops/conv/algorithms.h"
#include "falconet/ops/conv/cpu/tile_plan.h"

namespace falconet {
namespace {

TileKernels const& kernels(Isa isa) { return FALCONET_KERNELS(isa, winograd_kernels); }
tiles::Domain domain(int m) { return {m, (m + 2) * (m + 2), 1, m, m, m + 2, m + 2, kernels}; }
tiles::Domain domain(Config const& config) { return domain(config.get("tile", 2) == 4 ? 4 : 2); }

std::string reject(ConvProblem const& p, DeviceFacts const&) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (p.r != 3 || p.s != 3) return "its transforms are those of 3x3 filters";
  if (p.dilation_h != 1 || p.dilation_w != 1) return "neighbouring results share products only with dilation 1";
  bool const filter_of_bf16 = p.direction == Direction::bwd_filter && p.x_type == DType::bf16 && p.y_type == DType::bf16 && p.w_type == DType::f32;
  if (!p.one_type(DType::f32) && !filter_of_bf16 && (p.direction == Direction::bwd_filter || !p.one_type(DType::bf16))) return "needs f32, or bf16 with a filter gradient in f32";
  return tiles::reject(p);
}

double cycles(ConvProblem const& p, DeviceFacts const& facts, int m) { return tiles::cycles(p, domain(m), facts, 12); }
int best_tile(ConvProblem const& p, DeviceFacts const& facts) { return cycles(p, facts, 4) < 0.9 * cycles(p, facts, 2) ? 4 : 2; }
// An eighth on top: where another is about as fast, its smaller errors are preferred.
// bf16 is widened through a buffer, which costs a fifth.
double seconds(ConvProblem const& p, DeviceFacts const& facts) {
  return (p.x_type == DType::bf16 && p.direction != Direction::bwd_filter ? 1.35 : 1.125) * cycles(p, facts, best_tile(p, facts)) / 3.7e9;
}

std::vector<Config> configs(ConvProblem const& p, DeviceFacts const& facts) {
  int const best = best_tile(p, facts);
  return {Config{{"tile", best}}, Config{{"tile", 6 - best}}};
}

std::size_t scratch(ConvProblem const& p, Config const& config) { return tiles::scratch(p, domain(config)); }
void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View scratch, Stream& stream) {
  tiles::run(p, domain(config), args, scratch, stream);
}

std::size_t prepared(ConvProblem const& p, Config const& config) { return tiles::prepared(p, domain(config)); }
void prepare(ConvProblem const& p, Config const& config, ConvArgs const& args, View to, Stream& stream) { tiles::prepare(p, domain(config), args, to, stream); }

}  // namespace

Algorithm<ConvProblem> const conv_winograd{.name = "winograd", .target = DeviceKind::cpu, .reject = reject, .configs = configs,
                                           .scratch = scratch, .seconds = seconds, .run = run, .prepares = "w", .prepared = prepared, .prepare = prepare};

}  // namespace falconet
