// Convolution by Winograd's minimal filtering (Winograd, "Arithmetic Complexity of Computations", 1980; Lavin and Gray, "Fast Algorithms for
// Convolutional Neural Networks", arXiv:1509.09308): F(m x m, 3 x 3), m = 2 or 4 (config tile), in f32. Images are cut into tiles of m x m results
// that overlap by two pixels of input; with a = m + 2
//   forward          y(tile,k) = A^T [ sum over c of (G w(k,c) G^T) . (B^T x(tile,c) B) ] A            "." element by element
//   data gradient    the same of dy, the filter turned by 180 degrees and k and c exchanged
//   filter gradient  dw(k,c) = G^T [ sum over tiles of (A dy(tile,k) A^T) . (B^T x(tile,c) B) ] G
// so that each of the a^2 elements of the domain is a matrix product of its own.
//
// Unfused (fused:0): a launch transforms the filter, one the tiles, one multiplies (tile_products.cu), one transforms back. The images go through in
// rounds of `images` (config) where their transforms would take more than 2 GB. Fused (fused:1, winograd_fused.cu; forward and data
// gradient): tiles are transformed, multiplied and transformed back in one kernel, and no transformed tile meets memory.
// The filter gradient's sum over tiles is cut into parts, added in order by the last transform.
//
// Cost: 2 a^2/m^2 operations per result and channel in place of 18: 8 for m = 2, 4.5 for m = 4, each by three TF32 products. Bytes, unfused: x and y
// once, and both transformed, a^2/m^2 times as large (4 or 2.25), written and read; the filter transformed, a^2/9 times as large.
// Error: the transforms amplify roundings, in the root mean square by 1.7 (m = 2) and 10.8 (m = 4), at the worst result by 1.7 and 31.5 (README.md).
// Limits: f32 nhwc, groups 1, 3x3 filters, stride and dilation 1; activations none, relu, relu6; pooling of 2x2; no sums of results.
#include <algorithm>
#include <cmath>

#include "falconet/base/error.h"
#include "falconet/device/cuda/check.h"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/row_sums.cuh"
#include "falconet/ops/conv/cuda/tile_products.h"
#include "falconet/ops/conv/cuda/winograd.cuh"
#include "falconet/ops/conv/cuda/winograd_fused.h"

namespace falconet {
namespace {

using namespace winograd;

constexpr int threads = 256;
constexpr double most_scratch = 2e9;     // bytes of a round's transforms
int rounded(int v, int to) { return (v + to - 1) / to * to; }

// filters(e,k,c) = G w G^T, or of the filter turned by 180 degrees. Rows of `row` floats, zeros behind the channels.
template <int m>
__global__ void __launch_bounds__(threads)
    transform_filter(float const* w, int channels, int row, FastDivide by_row, int all, bool turned, float* filters) {
  constexpr int a = m + 2;
  int const i = blockIdx.x * threads + threadIdx.x;
  if (i >= all) return;
  int c;
  int const k = by_row(i, c);
  float g[3][3], u[a][a];
#pragma unroll
  for (int tap = 0; tap < 9; ++tap) {
    float const v = c < channels ? __ldg(w + (std::int64_t(k) * 9 + tap) * channels + c) : 0;
    if (turned) g[(8 - tap) / 3][(8 - tap) % 3] = v;
    else g[tap / 3][tap % 3] = v;
  }
  transform<typename Matrices<m>::Filter>(g, u);
#pragma unroll
  for (int e = 0; e < a * a; ++e) filters[std::int64_t(e) * all + i] = u[e / a][e % a];
}

// How a tile is read: as it lies, place by place through the slots, or by windows of a pooled map, from a window's first row and column on or from its second.
enum class Read { plain, slots, windows, odd_windows };

// tiles(e,t,c) = B^T x B, or A dy A^T, of the tiles from `first` on. Rows of `row` floats, zeros behind the channels.
template <class T, Read how>
__global__ void __launch_bounds__(threads)
    transform_tiles(Source const s, Tiles const tiles, int first, int row, FastDivide by_row, int all, std::int64_t element, float* to) {
  int const i = blockIdx.x * threads + threadIdx.x;
  if (i >= all) return;
  int c;
  Place const p = place_in(tiles, first + by_row(i, c));
  float x[T::in][T::in] = {}, v[T::out][T::out];
  if (c < s.map.channels) {
    int const row = p.row - tiles.pad_top, column = p.column - tiles.pad_left;
    if constexpr (how == Read::windows || how == Read::odd_windows) read_tile_of_windows<T::in, how == Read::odd_windows>(s, p.n, row, column, c, x);
    else read_tile<T::in, how == Read::plain>(s, p.n, row, column, c, x);
  }
  transform<T>(x, v);
#pragma unroll
  for (int e = 0; e < T::out * T::out; ++e) to[e * element + i] = v[e / T::out][e % T::out];
}

// y = A^T sums A and the store slots.
template <int m>
__global__ void __launch_bounds__(threads)
    transform_back(Result const r, Tiles const tiles, int first, FastDivide by_channels, int all, int row, std::int64_t element, float const* sums) {
  constexpr int a = m + 2;
  int const i = blockIdx.x * threads + threadIdx.x;
  if (i >= all) return;
  int k;
  int const tile = by_channels(i, k);
  float s[a][a], y[m][m];
  float const* const from = sums + std::int64_t(tile) * row + k;
#pragma unroll
  for (int e = 0; e < a * a; ++e) s[e / a][e % a] = __ldg(from + e * element);
  transform<typename Matrices<m>::Output>(s, y);
  store_tile<m>(r, place_in(tiles, first + tile), k, y);
}

// dw = G^T sums G, the parts' sums added in order.
template <int m>
__global__ void __launch_bounds__(threads)
    transform_back_filter(float const* sums, int parts, int row, std::int64_t element, int channels, FastDivide by_channels, int all, float* dw) {
  constexpr int a = m + 2;
  int const i = blockIdx.x * threads + threadIdx.x;
  if (i >= all) return;
  int c;
  int const k = by_channels(i, c);
  float s[a][a] = {}, g[3][3];
  float const* from = sums + std::int64_t(k) * row + c;
  for (int part = 0; part < parts; ++part, from += a * a * element)
#pragma unroll
    for (int e = 0; e < a * a; ++e) s[e / a][e % a] += __ldg(from + e * element);
  transform<typename Matrices<m>::FilterGradient>(s, g);
#pragma unroll
  for (int tap = 0; tap < 9; ++tap) dw[(std::int64_t(k) * 9 + tap) * channels + c] = g[tap / 3][tap % 3];
}

struct Form {
  int m, images;
  bool fused;
  int block = 0;                       // of the products, 0: as they see fit
  int domain() const { return (m + 2) * (m + 2); }
};
bool filter_gradient(ConvProblem const& p) { return p.direction == Direction::bwd_filter; }

// Memory: the filter in the domain, the tiles of a round, their sums.
struct Extents {
  int in, out, in_row, out_row;        // channels of source and result, and their rows' floats
  Tiles tiles, round;                  // of all images, of one round
  std::size_t filter, source, sums, bias;   // floats; bias: between the sums of db
  int parts, part;
};
Extents extents_of(ConvProblem const& p, Form const& f) {
  bool const data = p.direction == Direction::bwd_data;
  Extents x{};
  x.in = data ? p.k : p.c, x.out = data ? p.c : p.k;
  x.in_row = rounded(x.in, 4), x.out_row = rounded(x.out, 4);
  int const rows = data ? p.h : p.p(), columns = data ? p.w : p.q(), top = data ? 2 - p.pad_top : p.pad_top,
            left = data ? 2 - p.pad_left : p.pad_left;
  x.tiles = tiles_of(p.n, rows, columns, f.m, top, left);
  x.round = tiles_of(std::min(f.images, p.n), rows, columns, f.m, top, left);
  std::size_t const domain = std::size_t(f.domain());
  x.parts = 1, x.part = 0;
  if (filter_gradient(p)) {
    std::int64_t const slabs = (x.tiles.all + 31) / 32, wanted = tile_products::parts_for(p.k, p.c, x.tiles.all, f.domain());
    x.part = int((slabs + wanted - 1) / wanted * 32), x.parts = (x.tiles.all + x.part - 1) / x.part;
    x.filter = std::size_t(x.parts) * domain * p.k * x.in_row;             // sums
    x.source = domain * x.tiles.all * x.in_row, x.sums = domain * x.tiles.all * x.out_row;   // both operands
    x.bias = p.store.bias ? row_sums_floats(x.tiles.all, p.k) : 0;
  } else if (f.fused) {
    x.filter = fused_filter_floats(f.m, x.in, x.out);
  } else {
    x.filter = domain * p.k * rounded(p.c, 4);
    x.source = domain * x.round.all * x.in_row, x.sums = domain * x.round.all * x.out_row;
  }
  x.filter = (x.filter + 31) / 32 * 32, x.source = (x.source + 31) / 32 * 32;
  return x;
}

std::string reject(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (facts.compute_capability < 80) return "TF32 needs compute capability 8.0";
  if (facts.shared_memory_bytes < tile_products::most_shared) return "its products need 136 KiB of shared memory a block";
  if (p.r != 3 || p.s != 3) return "its transforms are those of 3x3 filters";
  if (p.stride_h != 1 || p.stride_w != 1) return "neighbouring tiles share no products with a stride";
  if (p.dilation_h != 1 || p.dilation_w != 1) return "neighbouring results share products only with dilation 1";
  if (!p.one_type(DType::f32)) return "f32 only";
  if (p.layout != Layout::nhwc) return "nhwc only";
  if (p.groups != 1) return "groups";
  auto const clips = [](Activation a) { return a == Activation::none || a == Activation::relu || a == Activation::relu6; };
  auto const& s = p.store;
  if (!clips(s.act) || !clips(p.load_x.act) || !clips(p.load_dy.act)) return "activations other than relu and relu6";
  if (s.stats != Stats::none) return "statistics";
  if (s.affine == Affine::two_operand || p.load_x.affine == Affine::two_operand || p.load_dy.affine == Affine::scale_shift)
    return "an affine that makes no sense here";
  if (p.load_x.unpool.kind != PoolSlot::none || (s.pool.kind != PoolSlot::none && s.pool.size != 2))
    return "pooling windows other than 2x2 of the result";
  if (p.load_dy.unpool.kind != PoolSlot::none && (p.load_dy.affine != Affine::none || p.load_dy.act != Activation::none))
    return "unpooling beside other slots of dy";
  if (filter_gradient(p) && (s.residual || s.act != Activation::none || s.affine != Affine::none || s.mask != Mask::none))
    return "slots of the filter gradient";
  constexpr double most = 2147483647.0;
  double const tiles = double(p.n) * (std::max(p.h, p.p()) / 2.0 + 2) * (std::max(p.w, p.q()) / 2.0 + 2), channels = std::max(p.c, p.k) + 4.0;
  if (tiles * channels >= most || double(p.k) * p.c * 40 >= most || double(p.h) * p.w * channels >= most) return "2^31 elements or more";
  return {};
}

// Fitted to bench/results/h200/2026-11-21_winograd_fft.md.
double seconds_with(ConvProblem const& p, Form const& f) {
  Extents const x = extents_of(p, f);
  constexpr double mb = 1e-6, rate = 4.5e6, domain_rate = 6e6;   // megabytes a second: transforms lie partly in L2
  double const maps = 4 * mb * p.n * (double(p.p()) * p.q() * p.k + double(p.h) * p.w * p.c), domain = 8 * mb * double(x.source + x.sums);
  double const filter = 4 * mb * p.k * p.c * (9 + 2 * f.domain());
  // A place read through its slots: a pooled dy by windows of 2x2 takes no longer than a map, others are found by divisions, an affine needs arithmetic
  // alone (its rate is a guess).
  double const places = double(x.tiles.all) * x.in_row * f.domain();
  double const slots = p.load_dy.unpool.size > 2 ? places * 2.5e-12 : p.load_x == OnLoad{} && (p.load_dy == OnLoad{} || p.load_dy.unpool.size == 2) ? 0 : places * 1e-12;
  if (filter_gradient(p))
    return 12e-6 + slots / 6 + (maps + filter * x.parts) / rate + domain / domain_rate + x.parts * 0.8e-6 + tile_products::seconds(p.k, p.c, x.tiles.all, f.domain(), x.parts, true);
  if (f.fused) return 4e-6 + filter / rate + fused_seconds(f.m, x.tiles.all, x.in, x.out);
  double const rounds = std::ceil(double(p.n) / f.images);
  return 4e-6 + slots + (filter + maps) / rate +
         rounds * (8e-6 + domain / domain_rate + tile_products::seconds(x.round.all, x.out, x.in, f.domain(), 1, p.direction == Direction::bwd_data));
}

// Images in one round unless memory is short: rounds whose transforms stay in L2 lost more by their launches and by products that do not fill the card.
std::vector<Form> forms(ConvProblem const& p) {
  std::vector<Form> out;
  for (int m : {4, 2}) {
    double const each = 4.0 * double(extents_of(p, {m, 1, false}).source + extents_of(p, {m, 1, false}).sums);   // bytes of an image
    int const rounds = filter_gradient(p) ? 1 : std::clamp(int(each * p.n / most_scratch), 0, p.n - 1) + 1;
    out.push_back({m, (p.n + rounds - 1) / rounds, false});
    if (fused_accepts(p)) out.push_back({m, p.n, true});
  }
  // A seventh on top for m = 4: where m = 2 is about as fast, its smaller errors are preferred.
  auto const cost = [&](Form const& f) { return seconds_with(p, f) * (f.m == 4 ? 1.15 : 1); };
  std::stable_sort(out.begin(), out.end(), [&](Form const& a, Form const& b) { return cost(a) < cost(b); });
  return out;
}
std::vector<Config> configs(ConvProblem const& p, DeviceFacts const& facts) {
  std::vector<Config> out;
  auto const add = [&](Form const& f, int block) {
    std::vector<std::pair<char const*, int>> values{{"tile", f.m}};
    if (f.fused) values.push_back({"fused", 1});
    if (f.images < p.n) values.push_back({"images", f.images});
    if (block) values.push_back({"block", block});
    Config c = values.size() == 1 ? Config{values[0]} : values.size() == 2 ? Config{values[0], values[1]} : Config{values[0], values[1], values[2]};
    out.push_back(std::move(c));
  };
  auto all = forms(p);
  std::erase_if(all, [&](Form const& f) { return f.fused && fused_shared_bytes(f.m) > facts.shared_memory_bytes; });
  for (Form const& f : all) add(f, 0);
  for (Form const& f : all)
    if (!f.fused)
      for (int block : {128, 96, 64}) add(f, block);
  return out;
}
std::vector<LaunchRange> ranges(ConvProblem const& p, DeviceFacts const& facts) {
  bool const fused = fused_accepts(p) && std::max(fused_shared_bytes(2), fused_shared_bytes(4)) <= facts.shared_memory_bytes;
  return {{"tile", 2, 4, true}, {"images", 1, p.n, false}, {"fused", 0, fused, false}, {"block", 64, 64, false}, {"block", 96, 96, false}, {"block", 128, 128, false}};
}
Form form_of(ConvProblem const& p, Config const& c) {
  return {c.get("tile", 2) == 4 ? 4 : 2, std::clamp(c.get("images", p.n), 1, p.n), c.get("fused", 0) == 1 && fused_accepts(p), c.get("block", 0)};
}
double seconds(ConvProblem const& p, DeviceFacts const& facts) { return seconds_with(p, form_of(p, configs(p, facts).front())); }

std::size_t prepared(ConvProblem const& p, Config const& c) { return filter_gradient(p) ? 0 : extents_of(p, form_of(p, c)).filter * 4; }
std::size_t scratch(ConvProblem const& p, Config const& c) {
  Extents const x = extents_of(p, form_of(p, c));
  return (x.filter + x.source + x.sums + x.bias) * 4;
}

template <class Count>
unsigned blocks_for(Count all) { return unsigned((std::int64_t(all) + threads - 1) / threads); }

template <int m>
void prepare_with(ConvProblem const& p, Form const& f, float const* w, float* filters, cudaStream_t stream) {
  bool const data = p.direction == Direction::bwd_data;
  if (f.fused) {
    transform_filter_fused(m, w, p.c, p.k, data, filters, stream);
  } else {
    int const row = rounded(p.c, 4), all = p.k * row;
    transform_filter<m><<<blocks_for(all), threads, 0, stream>>>(w, p.c, row, FastDivide(row), all, data, filters);
  }
}
void prepare(ConvProblem const& p, Config const& config, ConvArgs const& args, View to, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  Form const f = form_of(p, config);
  if (f.m == 4) prepare_with<4>(p, f, args.w.as<float>(), to.as<float>(), stream);
  else prepare_with<2>(p, f, args.w.as<float>(), to.as<float>(), stream);
  check_launch("conv winograd (filter)", p, stream);
}

template <class T>
void cut_tiles(Source const& s, Tiles const& tiles, int first, int count, int row, float* to, cudaStream_t stream) {
  int const all = count * row, odd = tiles.pad_top & 1;   // tiles begin at even places, less the padding
  bool const windows = s.unpool != PoolSlot::none && s.map.pool == 2 && s.affine == Affine::none && s.act == Activation::none && odd == (tiles.pad_left & 1);
  auto const kernel = s.plain()     ? transform_tiles<T, Read::plain>
                      : !windows    ? transform_tiles<T, Read::slots>
                      : odd         ? transform_tiles<T, Read::odd_windows>
                                    : transform_tiles<T, Read::windows>;
  kernel<<<blocks_for(all), threads, 0, stream>>>(s, tiles, first, row, FastDivide(row), all, all, to);
}

template <int m>
void run_with(ConvProblem const& p, Form const& f, ConvArgs const& args, float* memory, cudaStream_t stream) {
  constexpr int domain = (m + 2) * (m + 2);
  Extents const x = extents_of(p, f);
  bool const data = p.direction == Direction::bwd_data;
  using M = Matrices<m>;
  if (filter_gradient(p)) {
    float *const sums = memory, *const xs = sums + x.filter, *const dys = xs + x.source;
    cut_tiles<typename M::Input>(source_of(p, args, false), x.tiles, 0, x.tiles.all, x.in_row, xs, stream);
    Tiles dy = x.tiles;
    dy.pad_top = dy.pad_left = 0;
    cut_tiles<typename M::OutputGradient>(source_of(p, args, true), dy, 0, dy.all, x.out_row, dys, stream);
    std::int64_t const element = std::int64_t(p.k) * x.in_row;
    tile_products::multiply({.a = dys,
                             .b = xs,
                             .sums = sums,
                             .m = p.k,
                             .n = p.c,
                             .sum = x.tiles.all,
                             .elements = domain,
                             .a_across = true,
                             .b_across = true,
                             .a_row = x.out_row,
                             .b_row = x.in_row,
                             .sums_row = x.in_row,
                             .a_element = std::int64_t(x.tiles.all) * x.out_row,
                             .b_element = std::int64_t(x.tiles.all) * x.in_row,
                             .sums_element = element,
                             .part = x.part,
                             .parts = x.parts,
                             .tile = tile_products::tile_of(f.block)},
                            stream);
    transform_back_filter<m>
        <<<blocks_for(p.k * p.c), threads, 0, stream>>>(sums, x.parts, x.in_row, element, p.c, FastDivide(p.c), p.k * p.c, args.w.as<float>());
    if (p.store.bias)   // element (1,1) of A dy A^T is the sum of a tile, because A's second row is all ones
      add_all_rows(dys + std::int64_t(m + 3) * x.tiles.all * x.out_row, x.tiles.all, x.out_row, p.k, dys + x.sums, args.bias.as<float>(), stream);
    return;
  }
  float* filters = args.prepared.as<float>();
  if (!filters) {
    filters = memory, memory += x.filter;
    prepare_with<m>(p, f, args.w.as<float>(), filters, stream);
  }
  Source const source = source_of(p, args, data);
  Result const result = result_of(p, args);
  if (f.fused) return run_fused(m, source, result, x.tiles, filters, stream);
  float *const tiles = memory, *const sums = tiles + x.source;
  int const c_row = rounded(p.c, 4);
  for (int first = 0; first < x.tiles.all; first += x.round.all) {
    int const count = std::min(x.round.all, x.tiles.all - first);
    cut_tiles<typename M::Input>(source, x.tiles, first, count, x.in_row, tiles, stream);
    tile_products::multiply({.a = tiles,
                             .b = filters,
                             .sums = sums,
                             .m = count,
                             .n = x.out,
                             .sum = x.in,
                             .elements = domain,
                             .a_across = false,
                             .b_across = data,
                             .a_row = x.in_row,
                             .b_row = c_row,
                             .sums_row = x.out_row,
                             .a_element = std::int64_t(count) * x.in_row,
                             .b_element = std::int64_t(p.k) * c_row,
                             .sums_element = std::int64_t(count) * x.out_row,
                             .tile = tile_products::tile_of(f.block)},
                            stream);
    transform_back<m><<<blocks_for(count * x.out), threads, 0, stream>>>(result, x.tiles, first, FastDivide(x.out), count * x.out, x.out_row,
                                                                         std::int64_t(count) * x.out_row, sums);
  }
}

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View memory, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  Form const f = form_of(p, config);
  if (f.m == 4) run_with<4>(p, f, args, memory.as<float>(), stream);
  else run_with<2>(p, f, args, memory.as<float>(), stream);
  check_launch("conv winograd", p, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_winograd{.name = "winograd",
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
