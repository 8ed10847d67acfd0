// Convolution in groups, group by group: each is an independent convolution of c/groups channels with k/groups filters, whose images are
// not contiguous in nhwc. They are dealt into dense images of their own, each group is run by an algorithm without groups, and the results
// are dealt back:
//
//   for all images: x(n,h,w,g,c) -> x_g(n,h,w,c)                     in parallel over image rows
//   for each group: y_g = conv(x_g, w_g)                             in parallel as that algorithm is; w_g lies contiguous as it is
//   for all images: y_g(n,p,q,k) -> y(n,p,q,g,k)                     in parallel over image rows
//
// The groups run by `direct`, or by `winograd` of tile 2 or 4 (config winograd). dw_g is written where it belongs.
// Cost: 2 n k p q (c/groups) r s operations at the rate of the inner algorithm, and one copy of x and y.
// Limits: f32, nhwc, more than one group; slots bias and relu, and db; what the inner algorithm refuses.
#include <algorithm>
#include <cstring>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/conv/algorithms.h"

namespace falconet {
namespace {

using i64 = std::int64_t;

// One group as a problem of its own.
ConvProblem inner_problem(ConvProblem p) {
  p.c /= p.groups, p.k /= p.groups;
  p.groups = 1;
  return p;
}
Algorithm<ConvProblem> const& inner_algorithm(Config const& config) { return config.get("winograd", 0) ? conv_winograd : conv_direct; }
Config inner_config(Config const& config) {
  int const tile = config.get("winograd", 0);
  return tile ? Config{{"tile", tile}} : Config{};
}

struct Sizes {
  i64 x, y, x_group, y_group;  // floats of a dense copy, 64-byte aligned, and of one group in it
  explicit Sizes(ConvProblem const& p) {
    auto const aligned = [](i64 floats) { return (floats + 15) / 16 * 16; };
    x_group = aligned(i64(p.n) * p.h * p.w * (p.c / p.groups));
    y_group = aligned(i64(p.n) * p.p() * p.q() * (p.k / p.groups));
    x = x_group * p.groups, y = y_group * p.groups;
  }
};

// Between an image of pixels [groups][channels] and dense images of `channels`, `group` floats apart.
void deal(float const* image, float* dense, i64 rows, i64 pixels, i64 groups, i64 channels, i64 group, bool back, Stream& stream) {
  stream.threads().run(int(rows), [&](int row) {
    for (i64 g = 0; g < groups; ++g)
      for (i64 pixel = row * pixels; pixel < (row + 1) * pixels; ++pixel) {
        float const* const from = back ? dense + g * group + pixel * channels : image + (pixel * groups + g) * channels;
        float* const to = back ? const_cast<float*>(image) + (pixel * groups + g) * channels : dense + g * group + pixel * channels;
        std::memcpy(to, from, std::size_t(channels) * sizeof(float));
      }
  });
}

std::string reject(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (p.groups == 1) return "needs more than one group";
  if (!p.one_type(DType::f32)) return "needs f32";
  if (p.layout != Layout::nhwc) return "needs nhwc";
  ConvProblem plain = p;
  plain.store.bias = false;
  if (p.direction == Direction::fwd && plain.store.act == Activation::relu) plain.store.act = Activation::none;
  if (!plain.plain()) return "of the slots it has bias, relu and db";
  if (p.direction == Direction::bwd_data && p.store.bias) return "of the slots it has bias, relu and db";
  std::string const inner = conv_direct.reject(inner_problem(p), facts);
  return inner.empty() ? "" : "direct, of a group: " + inner;
}

std::vector<Config> configs(ConvProblem const& p, DeviceFacts const& facts) {
  ConvProblem const inner = inner_problem(p);
  std::vector<Config> out{Config{}};
  if (!conv_winograd.reject(inner, facts).empty()) return out;
  Config const winograd{{"winograd", conv_winograd.configs(inner, facts).front().get("tile", 2)}};
  out.insert(conv_winograd.seconds(inner, facts) < conv_direct.seconds(inner, facts) ? out.begin() : out.end(), winograd);
  return out;
}

std::size_t scratch(ConvProblem const& p, Config const& config) {
  Sizes const s(p);
  return std::size_t(s.x + s.y) * sizeof(float) + inner_algorithm(config).scratch(inner_problem(p), inner_config(config));
}

// Groups of fewer results than a vector has lanes leave the others empty.
double seconds(ConvProblem const& p, DeviceFacts const& facts) {
  ConvProblem const inner = inner_problem(p);
  double const lanes = facts.isa == Isa::avx512 ? 16 : facts.isa == Isa::avx2 ? 8 : 2, wide = p.direction == Direction::bwd_data ? inner.c : inner.k;
  double best = conv_direct.seconds(inner, facts) * std::max(1.0, 0.8 * lanes / wide);
  if (conv_winograd.reject(inner, facts).empty()) best = std::min(best, conv_winograd.seconds(inner, facts));
  Sizes const s(p);
  double const runs = double(s.x) / (p.c / p.groups) + double(s.y) / (p.k / p.groups);
  return p.groups * (best + 4e-6) + (runs * 8 + double(s.x + s.y)) / 3.7e9;
}

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View scratch_view, Stream& stream) {
  Sizes const s(p);
  ConvProblem const inner = inner_problem(p);
  auto const& algorithm = inner_algorithm(config);
  Config const with = inner_config(config);
  float* const x = scratch_view.as<float>();
  float* const y = x + s.x;
  auto const bytes = std::int64_t(algorithm.scratch(inner, with));
  View const memory{y + s.y, {DType::u8, Shape{bytes}, Layout::nchw}};
  bool const data = p.direction == Direction::bwd_data, filter = p.direction == Direction::bwd_filter;
  i64 const x_rows = i64(p.n) * p.h, y_rows = i64(p.n) * p.p();
  if (!data) deal(args.x.as<float>(), x, x_rows, p.w, p.groups, inner.c, s.x_group, false, stream);
  if (data || filter) deal(args.y.as<float>(), y, y_rows, p.q(), p.groups, inner.k, s.y_group, false, stream);

  i64 const filter_floats = i64(inner.k) * p.r * p.s * inner.c;
  TensorType const w_type{DType::f32, Shape{inner.k, inner.c, p.r, p.s}, Layout::nhwc}, vector{DType::f32, Shape{inner.k}, Layout::nchw};
  TensorType const x_type{DType::f32, Shape{p.n, inner.c, p.h, p.w}, Layout::nhwc};
  TensorType const y_type{DType::f32, Shape{p.n, inner.k, p.p(), p.q()}, Layout::nhwc};
  for (int g = 0; g < p.groups; ++g) {
    ConvArgs a;
    a.x = {x + g * s.x_group, x_type};
    a.y = {y + g * s.y_group, y_type};
    a.w = {args.w.as<float>() + g * filter_floats, w_type};
    if (p.store.bias) a.bias = {args.bias.as<float>() + i64(g) * inner.k, vector};
    algorithm.run(inner, with, a, memory, stream);
  }

  if (data) deal(args.x.as<float>(), x, x_rows, p.w, p.groups, inner.c, s.x_group, true, stream);
  if (!data && !filter) deal(args.y.as<float>(), y, y_rows, p.q(), p.groups, inner.k, s.y_group, true, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_grouped{.name = "grouped", .target = DeviceKind::cpu, .reject = reject, .configs = configs,
                                          .scratch = scratch, .seconds = seconds, .run = run};

}  // namespace falconet
