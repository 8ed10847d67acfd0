// Depthwise convolutions (every channel its own filter, groups = c = k), 3x3 and 5x5, stride 1 and 2, channels-last, in bf16 and f32 with sums in f32. There is
// no reuse but R*R taps of an element, so memory is the limit: every direction reads its operands and writes its result about once. depthwise.cuh says how
// work is cut; forward and data gradient of stride 1 are depthwise_forward.cu, the strided data gradient depthwise_data.cu, the filter gradient
// depthwise_filter.cu. Channel sums and filter gradients leave one set of sums per block, which are added here in a fixed order.
// Limits: equal filter sides, equal strides, no dilation; on load scale and shift with relu or relu6, on store everything but pooling.
#include <algorithm>
#include <climits>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/block_sums.cuh"
#include "falconet/ops/conv/cuda/depthwise.cuh"

namespace falconet {
namespace depthwise {

// out[i] = sum over the blocks of partial[block][i], in f64, 32 shares of the blocks first. i = set * channels + c; with taps > 0 out is [c][taps], and the sets
// behind the taps are `rest`: db, or sums of channels.
template <class Out>
__global__ void __launch_bounds__(1024) add_blocks(float const* partial, int blocks, int elements, int channels, int taps, Out* out, float* rest) {
  add_over_blocks(partial, blocks, elements, [&](int i, double total) {
    int const set = i / channels, c = i - set * channels;
    if (taps == 0) put(out[i], total);
    else if (set < taps) put(out[c * taps + set], total);
    else rest[(set - taps) * channels + c] = float(total);
  });
}

void add_partial_sums(float const* partial, int blocks, int sets, int channels, int taps, float* out, float* rest, cudaStream_t stream) {
  int const elements = sets * channels;
  launch_ahead(add_blocks<float>, dim3(unsigned((elements + 31) / 32)), dim3(32, 32), 0, 1, stream, partial, blocks, elements, channels, taps, out, rest);
}

// Blocks that run at once on the H100 and H200; fixed, so that results do not depend on the card.
constexpr int resident = 132 * 2;

int sets_of(ConvProblem const& p) {
  if (p.direction == Direction::bwd_filter) return p.r * p.s + p.store.bias;
  return p.store.stats == Stats::none ? 0 : 2;
}

namespace {

// most: blocks at most, of all groups of channels together.
Walk walk_within(ConvProblem const& p, Way const& way, int most) {
  if (p.direction != Direction::bwd_data) return walk_of(p.n, p.c, way.v, way.t, 0, p.p(), 0, p.q(), way.band, most);
  int const row = p.pad_top / p.stride_h, column = p.pad_left / p.stride_w;   // places of the stride's grid that hold pixels of dx
  int const rows = (p.h - 1 + p.pad_top) / p.stride_h - row + 1, columns = (p.w - 1 + p.pad_left) / p.stride_w - column + 1;
  return p.stride_h == 1 ? walk_of(p.n, p.c, way.v, way.t, 0, p.h, 0, p.w, way.band, most)
                         : walk_of(p.n, p.c, way.v, way.t, row, rows, column, columns, way.band, most);
}

}  // namespace

Walk walk_of(ConvProblem const& p, Way const& way) {
  return walk_within(p, way, p.direction == Direction::bwd_filter ? resident : sets_of(p) ? 6 * resident : INT_MAX);
}

namespace {

bool strided_data(ConvProblem const& p) { return p.direction == Direction::bwd_data && p.stride_h == 2; }
int vector_of(ConvProblem const& p) { return p.c % 4 == 0 ? 4 : 1; }
// Columns that the kernels have.
std::vector<int> columns_of(ConvProblem const& p) {
  if (p.direction == Direction::bwd_filter) return p.r == 5 ? std::vector<int>{2} : vector_of(p) == 4 ? std::vector<int>{4, 2} : std::vector<int>{4};
  if (strided_data(p)) return {2};
  bool const simple = form_of(p) != Form::slots && p.r == 3 && vector_of(p) == 4;
  return simple && p.x_type == DType::bf16 && p.stride_h == 1 ? std::vector<int>{7, 4} : std::vector<int>{4};
}
Way way_of(ConvProblem const& p, int t, int band) { return {vector_of(p), t, band}; }

// Relative time of a launch: turns of the blocks that run at once, times the instructions of a strip. Measured: a row costs 63 per column and 52 besides,
// a strip as much as 3 rows before its first.
double cost_of(ConvProblem const& p, Way const& way) {
  Walk const w = walk_within(p, way, INT_MAX);
  double const turns = double(w.blocks) * w.groups / resident;
  return (turns + 0.5 * (std::ceil(turns) - turns)) * (w.band + 3) * (63 * way.t + 52);
}
// Ways to cut the work, the best guess first: all columns that there are, and bands from a whole image down to an eighth. A strided data gradient
// writes four times what it reads and was faster in short bands.
std::vector<Way> ways_of(ConvProblem const& p) {
  std::vector<std::pair<double, Way>> ways;
  for (int t : columns_of(p)) {
    int last = 0;
    for (int bands : {1, 2, 3, 4, 6, 8}) {
      int const rows = walk_within(p, way_of(p, t, 1 << 20), INT_MAX).rows, band = (rows + bands - 1) / bands;
      if (band == last || (bands > 1 && band < 4)) break;
      last = band;
      if (strided_data(p) && band > 16 && bands < 8) continue;
      ways.emplace_back(cost_of(p, way_of(p, t, band)), way_of(p, t, band));
    }
  }
  std::stable_sort(ways.begin(), ways.end(), [](auto const& a, auto const& b) { return a.first < b.first; });
  std::vector<Way> out;
  for (auto const& way : ways) out.push_back(way.second);
  return out;
}

// Bytes that a block of a launch takes: its queue, a filter of f32 and at most four vectors of channels (docs/adr/0112; the kernels' own Shape).
std::int64_t shared_of(ConvProblem const& p, Way const& way) {
  int const size = (p.x_type == DType::bf16 ? 2 : 4) * way.v, stride = p.stride_h, columns = strided_data(p) ? way.t + (p.r - 1) / 2 : (way.t - 1) * stride + p.r;
  bool const filter = p.direction == Direction::bwd_filter;
  int const entry = filter ? stride * columns + way.t : columns, depth = strided_data(p) ? 4 : filter ? (size * entry <= 88 ? 4 : 2) : size * entry > 64 ? 3 : 4;
  return std::int64_t(size) * entry * depth * most_threads + 4 * (std::int64_t(walk_of(p, way).here) * way.v * (p.r * p.r + 4) + 8);
}
std::vector<Way> ways_of(ConvProblem const& p, DeviceFacts const& facts) {
  auto ways = ways_of(p);
  std::erase_if(ways, [&](Way const& way) { return shared_of(p, way) > facts.shared_memory_bytes; });
  return ways;
}

std::string reject(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (p.groups != p.c || p.k != p.c) return "depthwise convolutions only: groups, channels and filters are not the same number";
  if (p.layout != Layout::nhwc) return "nhwc only";
  if (p.x_type != p.y_type || (p.x_type != DType::bf16 && p.x_type != DType::f32)) return "bf16 and f32 only";
  if (p.w_type != p.x_type && p.w_type != DType::f32) return "a filter in another type than the images or f32";
  if (p.r != p.s || (p.r != 3 && p.r != 5)) return "3x3 and 5x5 filters only";
  if (p.stride_h != p.stride_w || p.stride_h > 2) return "strides 1 and 2 only";
  if (p.dilation_h != 1 || p.dilation_w != 1) return "dilation";
  if (p.load_dy != OnLoad{}) return "slots of dy";
  if (p.direction == Direction::bwd_data && p.load_x != OnLoad{}) return "x beside a data gradient";
  if (p.load_x.affine == Affine::two_operand || p.load_x.unpool.kind != PoolSlot::none) return "x is scaled and shifted at most";
  auto const& o = p.store;
  if (o.affine == Affine::two_operand) return "a result has no second operand";
  if (o.pool.kind != PoolSlot::none) return "pooling";
  if (o.mask == Mask::bits) return "a mask as bits";
  auto const simple = [](Activation a) { return a == Activation::none || a == Activation::relu || a == Activation::relu6; };
  if (!simple(p.load_x.act) || !simple(o.act)) return "only relu and relu6";
  std::int64_t const limit = std::int64_t(1) << 30, pixels = std::max(std::int64_t(p.h) * p.w, std::int64_t(p.p()) * p.q());
  if (pixels * p.c >= limit || p.n * pixels >= limit || p.pad_top >= 1 << 16 || p.pad_left >= 1 << 16 || p.c > 1 << 20) return "2^30 elements of an image or more";
  if (ways_of(p, facts).empty()) return "rows on their way do not fit shared memory";
  return {};
}

std::vector<Config> configs(ConvProblem const& p, DeviceFacts const& facts) {
  std::vector<Config> out;
  for (Way const& way : ways_of(p, facts))
    if (out.size() < 6) out.push_back({{"columns", way.t}, {"rows", way.band}});
  return out;
}
std::vector<LaunchRange> ranges(ConvProblem const& p, DeviceFacts const& facts) {
  std::vector<LaunchRange> out{{"rows", 1, walk_within(p, way_of(p, columns_of(p).front(), 1 << 20), INT_MAX).rows, false}};
  for (int columns : columns_of(p))
    if (shared_of(p, way_of(p, columns, 1)) <= facts.shared_memory_bytes) out.push_back({"columns", columns, columns, false});
  return out;
}
Way chosen(ConvProblem const& p, Config const& c) {
  Way const best = ways_of(p).front();
  return way_of(p, c.get("columns", best.t), c.get("rows", best.band));
}

std::size_t scratch(ConvProblem const& p, Config const& c) {
  return sizeof(float) * std::size_t(sets_of(p)) * std::size_t(p.c) * (sets_of(p) ? std::size_t(walk_of(p, chosen(p, c)).blocks) : 0);
}

double seconds(ConvProblem const& p, DeviceFacts const&) {
  double const rate = vector_of(p) == 1 ? 0.4e12 : p.r == 5 ? 1.5e12 : 2.8e12;   // bytes a second
  return 4e-6 + bytes_of(p.operands()) / rate + (sets_of(p) ? 3e-6 : 0);
}

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View memory, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  Way const way = chosen(p, config);
  int const sets = sets_of(p), elements = sets * p.c;
  float* const partial = sets ? memory.as<float>() : nullptr;
  if (p.direction == Direction::bwd_filter) launch_filter(p, way, args, partial, stream);
  else if (strided_data(p)) launch_data(p, way, args, partial, stream);
  else launch_forward(p, way, args, partial, stream);
  check_launch("conv depthwise", p, stream);
  if (!sets) return;
  dim3 const grid(unsigned((elements + 31) / 32)), block(32, 32);
  int const blocks = walk_of(p, way).blocks, taps = p.direction == Direction::bwd_filter ? p.r * p.s : 0;
  float const* const from = partial;
  if (taps && p.w_type == DType::bf16)
    launch_ahead(add_blocks<bf16>, grid, block, 0, 1, stream, from, blocks, elements, p.c, taps, args.w.as<bf16>(), args.bias.as<float>());
  else
    add_partial_sums(from, blocks, sets, p.c, taps, taps ? args.w.as<float>() : args.stats.as<float>(), args.bias.as<float>(), stream);
  check_launch("conv depthwise, its sums", p, stream);
}

}  // namespace
}  // namespace depthwise

Algorithm<ConvProblem> const conv_cuda_depthwise{.name = "depthwise",
                                                 .target = DeviceKind::cuda,
                                                 .reject = depthwise::reject,
                                                 .configs = depthwise::configs,
                                                 .scratch = depthwise::scratch,
                                                 .seconds = depthwise::seconds,
                                                 .run = depthwise::run,
                                                 .ranges = depthwise::ranges};

}  // namespace falconet
