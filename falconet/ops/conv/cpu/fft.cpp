// Convolution by the discrete Fourier transform, tile by tile (Mathieu, Henaff and LeCun, "Fast Training of Convolutional Networks through
// FFTs", 2014; Vasilache et al., "Fast Convolutional Nets With fbfft", 2015; in tiles: Highlander and Rodriguez, 2015). An N x N tile of x,
// N = 16 or 32 (config size), overlaps its neighbours by the filter's extent less one (overlap-save), so that the cyclic correlation of tile
// and filter holds (N - r + 1) x (N - s + 1) results that no wrap-around has touched:
//
//   y(tile,k) = F^-1 [ sum over c of F x(tile,c) . conj F w(k,c) ]            dw(k,c) = F^-1 [ sum over tiles of F x(tile,c) . conj F dy(tile,k) ]
//
// The transforms of real tiles have N (N/2 + 1) complex elements that count, each of which is one matrix product; the data gradient is the
// forward of dy with the filter flipped. The transforms are in fft_transforms.cpp, the products in tile_products.cpp and
// tile_products_filter.cpp.
// Cost: 8 N (N/2 + 1) operations per tile, channel and filter, whatever the filter's size: for 5x5 8 a result (of 50), for 11x11 and N = 32
// 9 (of 242). The transformed filter has 4 N (N/2 + 1) floats a weight plane: 2304 or 8704 bytes, written once and read once per round.
// Error: the transforms are unitary but for their scale, so rounding errors are not amplified in the root mean square; small whole numbers
// do not stay exact.
// Limits: f32, nhwc, groups 1, stride 1, filters that span at most 27 pixels an axis; slots bias, residual, relu and mask, and db.
#include <algorithm>

#include "falconet/ops/conv/algorithms.h"
#include "falconet/ops/conv/cpu/tile_plan.h"

namespace falconet {
namespace {

constexpr std::int64_t most_span = 27, most_span_of_16 = 11;
constexpr std::int64_t most_filter_floats = 16 << 20;   // of a transformed filter: 64 MiB

TileKernels const& kernels(Isa isa) { return FALCONET_KERNELS(isa, fft_kernels); }
std::int64_t span(ConvProblem const& p) { return std::max(p.span_h(), p.span_w()); }
tiles::Domain domain(ConvProblem const& p, int size) {
  return {size, size * (size / 2 + 1), 2, size - int(p.span_h()) + 1, size - int(p.span_w()) + 1, size, size, kernels};
}
tiles::Domain domain(ConvProblem const& p, Config const& config) { return domain(p, config.get("size", span(p) <= most_span_of_16 ? 16 : 32)); }
bool fits(ConvProblem const& p, int size) {
  return span(p) <= (size == 16 ? most_span_of_16 : most_span) && tiles::GatherSplit(p, domain(p, size)).filter_floats() <= most_filter_floats;
}

std::string reject(ConvProblem const& p, DeviceFacts const&) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (!p.one_type(DType::f32)) return "needs f32";
  if (auto why = tiles::reject(p); !why.empty()) return why;
  if (span(p) > most_span) return "a filter spans at most 27 of a transform's 32 points";
  if (!fits(p, span(p) <= most_span_of_16 ? 16 : 32)) return "its transformed filter exceeds 64 MiB";
  int const size = span(p) <= most_span_of_16 ? 16 : 32;
  tiles::Domain const d = domain(p, size);
  if (8.0 * d.elements >= 2.0 * p.r * p.s * d.step_h * d.step_w) return "with so few taps its products are more operations than the sum they replace";
  return {};
}

// Vector operations for an element, of the forward and the inverse together.
double cycles(ConvProblem const& p, DeviceFacts const& facts, int size) { return tiles::cycles(p, domain(p, size), facts, size == 16 ? 25 : 40); }
int best_size(ConvProblem const& p, DeviceFacts const& facts) {
  if (!fits(p, 16)) return 32;
  return fits(p, 32) && cycles(p, facts, 32) < cycles(p, facts, 16) ? 32 : 16;
}
// Half on top: the transformed filter passes through memory where it exceeds the caches.
double seconds(ConvProblem const& p, DeviceFacts const& facts) { return 1.5 * cycles(p, facts, best_size(p, facts)) / 3.7e9; }

std::vector<Config> configs(ConvProblem const& p, DeviceFacts const& facts) {
  int const best = best_size(p, facts);
  std::vector<Config> out{Config{{"size", best}}};
  if (fits(p, 48 - best)) out.push_back(Config{{"size", 48 - best}});
  return out;
}

std::size_t scratch(ConvProblem const& p, Config const& config) { return tiles::scratch(p, domain(p, config)); }
void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View scratch, Stream& stream) {
  tiles::run(p, domain(p, config), args, scratch, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_fft{.name = "fft", .target = DeviceKind::cpu, .reject = reject, .configs = configs, .scratch = scratch,
                                      .seconds = seconds, .run = run};

}  // namespace falconet
