// Convolution by the discrete Fourier transform, tile by tile (Mathieu, Henaff and LeCun, "Fast Training of Convolutional Networks through FFTs", 2014;
// Vasilache et al., "Fast Convolutional Nets With fbfft", 2015), in f32. An N x N tile of x, N = 16 or 32 (config size), overlaps its neighbours by the
// filter's extent less one (overlap-save), so that the cyclic correlation of tile and filter holds (N - r + 1)^2 results that no wrap-around touched:
//   forward          y(tile,k) = F^-1 [ sum over c of F x(tile,c) . conj F w(k,c) ]
//   data gradient    the same of dy, the filter turned by 180 degrees and k and c exchanged
//   filter gradient  dw(k,c) = F^-1 [ sum over tiles of F x(tile,c) . conj F dy(tile,k) ]
// One tile over a whole image is the plain FFT convolution. The transforms are falconet's own (fft_transforms.cuh); each of the N (N/2 + 1) elements is a
// complex product, run as a real one of twice the depth and columns (tile_products.cu). The images go through
// in rounds of `images` (config) where their transforms would take more than 2 GB.
//
// Cost: 8 N (N/2 + 1) / (N - r + 1)^2 operations per result and channel, whatever the filter: 14 for 7x7 and N = 16 (of 98), 9 for 11x11 and N = 32 (of
// 242). Bytes: x and y once, and both transformed, 8 N (N/2 + 1) a tile and channel, written and read; the filter transformed likewise, twice.
// Error: the transforms are unitary but for their scale, so roundings are not amplified in the root mean square; small whole numbers do not stay exact.
// Limits: f32 nhwc, groups 1, stride 1, filters that span at most 27 pixels an axis; activations none, relu, relu6; pooling of 2x2 behind odd
// filters; no sums of results.
#include <algorithm>
#include <cmath>

#include "falconet/base/error.h"
#include "falconet/device/cuda/check.h"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/fft_transforms.cuh"
#include "falconet/ops/conv/cuda/row_sums.cuh"
#include "falconet/ops/conv/cuda/tile_products.h"

namespace falconet {
namespace {

using namespace fft;

constexpr std::int64_t most_span = 27, most_span_of_16 = 11, most_filter_floats = 64 << 20;
constexpr double most_scratch = 2e9;     // bytes of a round's transforms

int rounded(int v, int to) { return (v + to - 1) / to * to; }
int span(ConvProblem const& p) { return int(std::max(p.span_h(), p.span_w())); }
bool filter_gradient(ConvProblem const& p) { return p.direction == Direction::bwd_filter; }

struct Form {
  int size, images, block = 0;         // block: of the products, 0: as they see fit
  int domain() const { return size * (size / 2 + 1); }
};
struct Extents {
  int in, out, in_row, out_row;        // channels of source and result; floats of their rows, two a channel
  Tiles tiles, round;
  std::size_t filter, source, sums, bias;   // floats; of a filter gradient: its parts' sums, x, dy, and between the sums of db
  int parts, part;
};
Extents extents_of(ConvProblem const& p, Form const& f) {
  bool const data = p.direction == Direction::bwd_data;
  Extents x{};
  x.in = data ? p.k : p.c, x.out = data ? p.c : p.k;
  x.in_row = rounded(2 * x.in, 4), x.out_row = rounded(2 * x.out, 4);
  int const rows = data ? p.h : p.p(), columns = data ? p.w : p.q(), step = f.size - span(p) + 1;
  int const top = data ? int(p.span_h()) - 1 - p.pad_top : p.pad_top, left = data ? int(p.span_w()) - 1 - p.pad_left : p.pad_left;
  x.tiles = tiles_of(p.n, rows, columns, step, top, left);
  x.round = tiles_of(std::min(f.images, p.n), rows, columns, step, top, left);
  std::size_t const domain = std::size_t(f.domain());
  x.parts = 1;
  if (filter_gradient(p)) {
    std::int64_t const slabs = (2 * x.tiles.all + 31) / 32, wanted = tile_products::parts_for(p.k, 2 * p.c, 2 * x.tiles.all, f.domain());
    x.part = int((slabs + wanted - 1) / wanted * 32), x.parts = (2 * x.tiles.all + x.part - 1) / x.part;
    x.filter = std::size_t(x.parts) * domain * p.k * x.in_row;
    x.source = domain * 2 * x.tiles.all * x.in_row, x.sums = domain * 2 * x.tiles.all * rounded(p.k, 4);
    x.bias = p.store.bias ? row_sums_floats(x.tiles.all, p.k) : 0;
  } else {
    x.filter = domain * 2 * p.k * rounded(2 * p.c, 4);
    x.source = domain * x.round.all * x.in_row, x.sums = domain * x.round.all * x.out_row;
  }
  x.filter = (x.filter + 31) / 32 * 32, x.source = (x.source + 31) / 32 * 32;
  return x;
}
double floats_of_filter(ConvProblem const& p, int size) { return double(size) * (size / 2 + 1) * 4 * p.k * p.c; }
bool fits(ConvProblem const& p, int size) {
  return span(p) <= (size == 16 ? most_span_of_16 : most_span) && floats_of_filter(p, size) <= double(most_filter_floats);
}

std::string reject(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (facts.compute_capability < 80) return "TF32 needs compute capability 8.0";
  if (facts.shared_memory_bytes < tile_products::most_shared) return "its products need 136 KiB of shared memory a block";
  if (p.stride_h != 1 || p.stride_w != 1) return "a stride would throw most results of a tile away";
  if (!p.one_type(DType::f32)) return "f32 only";
  if (p.layout != Layout::nhwc) return "nhwc only";
  if (p.groups != 1) return "groups";
  if (p.span_h() > most_span || p.span_w() > most_span) return "a filter spans at most 27 of a transform's 32 points";
  int const size = span(p) <= most_span_of_16 ? 16 : 32, step = size - span(p) + 1;
  if (!fits(p, size)) return "its transformed filter exceeds 256 MiB";
  if (8.0 * size * (size / 2 + 1) >= 2.0 * p.r * p.s * step * step)
    return "with so few taps its products are more operations than the sum they replace";
  auto const clips = [](Activation a) { return a == Activation::none || a == Activation::relu || a == Activation::relu6; };
  auto const& s = p.store;
  if (!clips(s.act) || !clips(p.load_x.act) || !clips(p.load_dy.act)) return "activations other than relu and relu6";
  if (s.stats != Stats::none) return "statistics of the result";
  if (s.pool.kind != PoolSlot::none && (s.pool.size != 2 || span(p) % 2 == 0)) return "pooling windows that lie across tiles";
  if (s.affine == Affine::two_operand || p.load_x.affine == Affine::two_operand || p.load_dy.affine == Affine::scale_shift)
    return "an affine that makes no sense here";
  if (p.load_x.unpool.kind != PoolSlot::none) return "an unpooled x";
  if (p.load_dy.unpool.kind != PoolSlot::none && (p.load_dy.affine != Affine::none || p.load_dy.act != Activation::none))
    return "unpooling beside other slots of dy";
  if (filter_gradient(p) && (s.residual || s.act != Activation::none || s.affine != Affine::none || s.mask != Mask::none)) return "slots of the filter gradient but the bias";
  double const tiles = double(p.n) * (std::max(p.h, p.p()) / 6.0 + 1) * (std::max(p.w, p.q()) / 6.0 + 1), channels = std::max(p.c, p.k) + 4.0;
  if (tiles * channels * 2 >= 2147483647.0) return "2^31 elements or more";
  return {};
}

double seconds_with(ConvProblem const& p, Form const& f) {
  Extents const x = extents_of(p, f);
  double const source = 4.0 * double(p.n) * p.h * p.w * p.c, result = 4.0 * double(p.n) * p.p() * p.q() * p.k;
  double const filter = 4 * (floats_of_filter(p, f.size) + double(p.k) * p.c * p.r * p.s);
  // Places of a pooled dy are found by divisions.
  double const slots = p.load_dy.unpool.kind == PoolSlot::none ? 0 : double(x.tiles.all) * p.k * f.size * f.size * 3.5e-12;
  if (filter_gradient(p))
    return 14e-6 + slots + (source + result + filter * x.parts * 1.5 + 8.0 * double(x.source + x.sums)) / 2.6e12 +
           tile_products::seconds(p.k, 2 * p.c, 2 * x.tiles.all, f.domain(), x.parts, true);
  double const rounds = std::ceil(double(p.n) / f.images), moved = 8.0 * double(x.source + x.sums);
  return 6e-6 + slots + filter / 2e12 + (source + result) / 2.6e12 +
         rounds * (8e-6 + moved / (moved < 72e6 ? 4e12 : 2.6e12) +
                   tile_products::seconds(x.round.all, 2 * x.out, 2 * x.in, f.domain(), 1, p.direction == Direction::bwd_data));
}
std::vector<Form> forms(ConvProblem const& p) {
  std::vector<Form> out;
  for (int size : {16, 32}) {
    if (!fits(p, size)) continue;
    Extents const one = extents_of(p, {size, 1});
    int const rounds = filter_gradient(p) ? 1 : std::clamp(int(4.0 * double(one.source + one.sums) * p.n / most_scratch), 0, p.n - 1) + 1;
    out.push_back({size, (p.n + rounds - 1) / rounds});
  }
  std::stable_sort(out.begin(), out.end(), [&](Form const& a, Form const& b) { return seconds_with(p, a) < seconds_with(p, b); });
  return out;
}
std::vector<Config> configs(ConvProblem const& p, DeviceFacts const&) {
  std::vector<Config> out;
  for (Form const& f : forms(p)) out.push_back(f.images < p.n ? Config{{"size", f.size}, {"images", f.images}} : Config{{"size", f.size}});
  return out;
}
std::vector<LaunchRange> ranges(ConvProblem const& p, DeviceFacts const&) {
  return {{"size", fits(p, 16) ? 16 : 32, fits(p, 32) ? 32 : 16, true}, {"images", 1, p.n, false}, {"block", 64, 64, false}, {"block", 96, 96, false}, {"block", 128, 128, false}};
}
Form form_of(ConvProblem const& p, Config const& c) {
  return {c.get("size", span(p) <= most_span_of_16 ? 16 : 32), std::clamp(c.get("images", p.n), 1, p.n), c.get("block", 0)};
}
double seconds(ConvProblem const& p, DeviceFacts const&) { return seconds_with(p, forms(p).front()); }

std::size_t prepared(ConvProblem const& p, Config const& c) { return filter_gradient(p) ? 0 : extents_of(p, form_of(p, c)).filter * 4; }
std::size_t scratch(ConvProblem const& p, Config const& c) {
  Extents const x = extents_of(p, form_of(p, c));
  return (x.filter + x.source + x.sums + x.bias) * 4;
}

template <int N, Laid laid, class Reader>
void forward_of(Reader const& reader, int units, int row, std::int64_t element, float* to, cudaStream_t stream) {
  constexpr int bytes = int(sizeof(float2)) * N * pitch<N>;
  int const groups = (row / (laid == Laid::planes ? 1 : 2) + channels_each<N> - 1) / channels_each<N>;
  allow_shared_memory(forward<N, laid, Reader>, bytes);
  forward<N, laid, Reader><<<unsigned(units * groups), threads_of<N>, bytes, stream>>>(reader, groups, row, element, to);
}
template <int N, Laid laid>
void tiles_forward(Source const& s, Tiles const& tiles, int first, int count, int size, int row, std::int64_t element, float* to,
                   cudaStream_t stream) {
  if (s.plain()) forward_of<N, laid>(TileReader<true>{s, tiles, first, size}, count, row, element, to, stream);
  else forward_of<N, laid>(TileReader<false>{s, tiles, first, size}, count, row, element, to, stream);
}
template <int N, class Writer>
void backward_of(Writer const& writer, int channels, int units, int row, std::int64_t element, int parts, float const* sums, cudaStream_t stream) {
  constexpr int bytes = int(sizeof(float2)) * N * pitch<N>;
  int const groups = (channels + channels_each<N> - 1) / channels_each<N>;
  allow_shared_memory(backward<N, Writer>, bytes);
  backward<N, Writer><<<unsigned(units * groups), threads_of<N>, bytes, stream>>>(writer, groups, row, element, parts, sums);
}

template <int N>
void prepare_with(ConvProblem const& p, float const* w, float* filters, cudaStream_t stream) {
  bool const data = p.direction == Direction::bwd_data;
  int const row = rounded(2 * p.c, 4);
  std::int64_t const element = std::int64_t(2) * p.k * row;
  FilterReader const reader{w, p.r, p.s, p.c, FastDivide(p.dilation_h), FastDivide(p.dilation_w), data};
  if (data) forward_of<N, Laid::turned>(reader, p.k, row, element, filters, stream);
  else forward_of<N, Laid::filter>(reader, p.k, row, element, filters, stream);
}
void prepare(ConvProblem const& p, Config const& config, ConvArgs const& args, View to, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  if (form_of(p, config).size == 16) prepare_with<16>(p, args.w.as<float>(), to.as<float>(), stream);
  else prepare_with<32>(p, args.w.as<float>(), to.as<float>(), stream);
  check_launch("conv fft (filter)", p, stream);
}

template <int N>
void run_with(ConvProblem const& p, Form const& f, ConvArgs const& args, float* memory, cudaStream_t stream) {
  Extents const x = extents_of(p, f);
  bool const data = p.direction == Direction::bwd_data;
  int const domain = f.domain(), c_row = rounded(2 * p.c, 4);
  if (filter_gradient(p)) {
    float *const sums = memory, *const xs = sums + x.filter, *const dys = xs + x.source;
    int const k_row = rounded(p.k, 4);
    Tiles dy = x.tiles;
    dy.pad_top = dy.pad_left = 0;
    std::int64_t const x_element = std::int64_t(2) * x.tiles.all * c_row, dy_element = std::int64_t(2) * x.tiles.all * k_row,
                       element = std::int64_t(p.k) * c_row;
    tiles_forward<N, Laid::other_factor>(source_of(p, args, false), x.tiles, 0, x.tiles.all, N, c_row, x_element, xs, stream);
    tiles_forward<N, Laid::planes>(source_of(p, args, true), dy, 0, dy.all, dy.step, k_row, dy_element, dys, stream);
    tile_products::multiply({.a = dys,
                             .b = xs,
                             .sums = sums,
                             .m = p.k,
                             .n = 2 * p.c,
                             .sum = 2 * x.tiles.all,
                             .elements = domain,
                             .a_across = true,
                             .b_across = true,
                             .a_row = k_row,
                             .b_row = c_row,
                             .sums_row = c_row,
                             .a_element = dy_element,
                             .b_element = x_element,
                             .sums_element = element,
                             .part = x.part,
                             .parts = x.parts,
                             .tile = tile_products::tile_of(f.block)},
                            stream);
    backward_of<N>(FilterWriter{args.w.as<float>(), p.r, p.s, p.c, FastDivide(p.dilation_h), FastDivide(p.dilation_w)}, p.c, p.k, c_row, element,
                   x.parts, sums, stream);
    if (p.store.bias) add_all_rows(dys, x.tiles.all, 2 * k_row, p.k, dys + x.sums, args.bias.as<float>(), stream);   // element (0,0) is the sum of a tile
    return;
  }
  float* filters = args.prepared.as<float>();
  if (!filters) {
    filters = memory, memory += x.filter;
    prepare_with<N>(p, args.w.as<float>(), filters, stream);
  }
  Source const source = source_of(p, args, data);
  Result const result = result_of(p, args);
  float *const tiles = memory, *const sums = tiles + x.source;
  for (int first = 0; first < x.tiles.all; first += x.round.all) {
    int const count = std::min(x.round.all, x.tiles.all - first);
    std::int64_t const in_element = std::int64_t(count) * x.in_row, out_element = std::int64_t(count) * x.out_row;
    tiles_forward<N, Laid::tile>(source, x.tiles, first, count, N, x.in_row, in_element, tiles, stream);
    tile_products::multiply({.a = tiles,
                             .b = filters,
                             .sums = sums,
                             .m = count,
                             .n = 2 * x.out,
                             .sum = 2 * x.in,
                             .elements = domain,
                             .a_across = false,
                             .b_across = data,
                             .a_row = x.in_row,
                             .b_row = c_row,
                             .sums_row = x.out_row,
                             .a_element = in_element,
                             .b_element = std::int64_t(2) * p.k * c_row,
                             .sums_element = out_element,
                             .tile = tile_products::tile_of(f.block)},
                            stream);
    backward_of<N>(TileWriter{result, x.tiles, first}, x.out, count, x.out_row, out_element, 1, sums, stream);
  }
}

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View memory, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  Form const f = form_of(p, config);
  if (f.size == 16) run_with<16>(p, f, args, memory.as<float>(), stream);
  else run_with<32>(p, f, args, memory.as<float>(), stream);
  check_launch("conv fft", p, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_fft{.name = "fft",
                                           .target = DeviceKind::cuda,
                                           .reject = reject,
                                           .configs = configs,
                                           .scratch = scratch,
                                           .seconds = seconds,
                                           .run = run,
                                           .ranges = ranges,
                                           .prepares = "w",
                                           .prepared = prepared,
                                           .prepare = prepare};

}  // namespace falconet
