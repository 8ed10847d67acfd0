// Sums in blocks: f32 vectors add at most 32 terms, then go into f64 totals. A tensor is cut into at most 32 parts (or its images, for
// image_dot); each part leaves f64 totals per channel in scratch memory, which are then added in the order of the parts. The cut is a
// function of the problem alone, so the bytes do not depend on the number of threads.
//
// Where an image's channels lie together (nhwc, or hw = 1) a part is a run of rows of c elements. It is read as super-rows of W
// elements, W a common multiple of c and of four vectors where that is at most 1024: position j of a super-row belongs to channel
// j mod c, and the positions are folded at the end. A plane of nchw, and a mean, are the case c = 1.
// Limits: f32 or bf16. Cost: every operand read once.
#include <cstdint>

#include "falconet/device/cpu/isa.h"
#include "falconet/tensor/bf16.h"

namespace falconet {

// Rows [0, rows) of c elements; adds to totals[0..c) and, for functions with two sums, totals[c..2c).
struct ReduceRows {
  void const *x, *b, *mask;
  std::int64_t rows, c;
  double* totals;
};
struct ReduceKernels {
  using Kernel = void (*)(ReduceRows const&);
  struct {
    Kernel sum, squares, dot, masked_dot, product;
  } f32, bf16;
};
FALCONET_DECLARE_KERNELS(ReduceKernels, reduce_kernels)

}  // namespace falconet

#ifdef FALCONET_ISA
#include "falconet/device/cpu/simd.h"
#include "falconet/device/cpu/vector_access.h"

namespace falconet::FALCONET_ISA {
namespace {

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
constexpr D d;

template <class T>
struct Inputs {
  T const *x, *b, *mask;
};
// What one element adds to the sums.
struct Sum {
  static constexpr int sums = 1;
  template <class T, class At>
  static HWY_INLINE void add(Inputs<T> const& in, At at, V& first, V&) {
    first = hn::Add(first, at.get(in.x));
  }
};
struct Squares {
  static constexpr int sums = 2;
  template <class T, class At>
  static HWY_INLINE void add(Inputs<T> const& in, At at, V& first, V& second) {
    V const x = at.get(in.x);
    first = hn::Add(first, x);
    second = hn::MulAdd(x, x, second);
  }
};
struct Dot {
  static constexpr int sums = 2;
  template <class T, class At>
  static HWY_INLINE void add(Inputs<T> const& in, At at, V& first, V& second) {
    V const dy = at.get(in.x);
    first = hn::MulAdd(dy, at.get(in.b), first);
    second = hn::Add(second, dy);
  }
};
struct MaskedDot {
  static constexpr int sums = 2;
  template <class T, class At>
  static HWY_INLINE void add(Inputs<T> const& in, At at, V& first, V& second) {
    V const dy = hn::IfThenElseZero(hn::Gt(at.get(in.mask), hn::Zero(d)), at.get(in.x));
    first = hn::MulAdd(dy, at.get(in.b), first);
    second = hn::Add(second, dy);
  }
};
struct Product {
  static constexpr int sums = 1;
  template <class T, class At>
  static HWY_INLINE void add(Inputs<T> const& in, At at, V& first, V&) {
    first = hn::MulAdd(at.get(in.x), at.get(in.b), first);
  }
};

HWY_INLINE void flush(V v, double* totals, std::int64_t count) {
  alignas(64) float lane[hn::MaxLanes(D())];
  hn::Store(v, d, lane);
  for (std::int64_t i = 0; i < count; ++i) totals[i] += double(lane[i]);
}

HWY_INLINE Whole moved(Whole at, std::int64_t by) { return {at.i + by}; }
HWY_INLINE Part moved(Part at, std::int64_t by) { return {at.i + by, at.count}; }
HWY_INLINE std::int64_t width(Whole) { return std::int64_t(hn::Lanes(d)); }
HWY_INLINE std::int64_t width(Part at) { return at.count; }

// The vector at position `at` and the `vectors` - 1 after it, down `count` super-rows that lie `stride` apart.
template <class M, int vectors, class T, class At>
HWY_INLINE void strip(Inputs<T> const& in, At at, std::int64_t count, std::int64_t stride, double* first, double* second) {
  std::int64_t const lanes = std::int64_t(hn::Lanes(d));
  for (std::int64_t begin = 0; begin < count; begin += 32) {
    std::int64_t const end = begin + 32 < count ? begin + 32 : count;
    V a[vectors], b[vectors];
    for (int v = 0; v < vectors; ++v) a[v] = b[v] = hn::Zero(d);
    for (std::int64_t row = begin; row < end; ++row)
      for (int v = 0; v < vectors; ++v) M::add(in, moved(at, row * stride + v * lanes), a[v], b[v]);
    for (int v = 0; v < vectors; ++v) {
      flush(a[v], first + at.i + v * lanes, width(at));
      if (M::sums == 2) flush(b[v], second + at.i + v * lanes, width(at));
    }
  }
}

template <class T, class M>
void rows(ReduceRows const& r) {
  std::int64_t const lanes = std::int64_t(hn::Lanes(d)), c = r.c;
  constexpr std::int64_t room = 1024;
  alignas(64) double folded[M::sums * room];
  std::int64_t w = c;
  while (w % (4 * lanes) && w <= room) w += c;
  if (w > room) w = c;
  double *first = r.totals, *second = r.totals + c;
  if (w != c) {
    first = folded, second = folded + (M::sums - 1) * w;
    for (std::int64_t i = 0; i < M::sums * w; ++i) folded[i] = 0;
  }
  Inputs<T> in{static_cast<T const*>(r.x), static_cast<T const*>(r.b), static_cast<T const*>(r.mask)};
  std::int64_t const all = r.rows * c, count = all / w, rest = all - count * w;
  std::int64_t at = 0;
  if (count > 0) {
    for (; at + 4 * lanes <= w; at += 4 * lanes) strip<M, 4>(in, Whole{at}, count, w, first, second);
    for (; at + lanes <= w; at += lanes) strip<M, 1>(in, Whole{at}, count, w, first, second);
    if (at < w) strip<M, 1>(in, Part{at, w - at}, count, w, first, second);
  }
  Inputs<T> const tail{in.x + count * w, in.b ? in.b + count * w : nullptr, in.mask ? in.mask + count * w : nullptr};
  for_elements(0, rest, [&](auto position) { strip<M, 1>(tail, position, 1, w, first, second); });
  if (w != c)
    for (std::int64_t i = 0, channel = 0; i < w; ++i, channel = channel + 1 == c ? 0 : channel + 1) {
      r.totals[channel] += first[i];
      if (M::sums == 2) r.totals[c + channel] += second[i];
    }
}

}  // namespace

extern ReduceKernels const reduce_kernels = {
    {rows<float, Sum>, rows<float, Squares>, rows<float, Dot>, rows<float, MaskedDot>, rows<float, Product>},
    {rows<bf16, Sum>, rows<bf16, Squares>, rows<bf16, Dot>, rows<bf16, MaskedDot>, rows<bf16, Product>}};

}  // namespace falconet::FALCONET_ISA

#else
#include <algorithm>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/reduce/algorithms.h"

namespace falconet {
namespace {

using F = ReduceFunction;

// How a problem is cut. Rows: parts are runs of rows. Planes (nchw): parts are runs of images, and each has `groups` groups of channels.
struct Cut {
  bool planes;
  std::int64_t c, rows;  // rows of c elements; with planes: images
  std::int64_t parts, rows_per_part;
  std::int64_t groups, channels_per_group;
  std::int64_t totals;  // f64 per part
};
Cut cut_of(ReduceProblem const& p) {
  constexpr std::int64_t grain = 16384;
  auto ceil_div = [](std::int64_t a, std::int64_t b) { return (a + b - 1) / b; };
  Cut cut{};
  cut.planes = p.function != F::mean && p.layout == Layout::nchw && p.hw > 1;
  cut.c = p.function == F::mean ? 1 : p.c;
  cut.rows = p.function == F::mean ? p.elements() : cut.planes ? p.n : p.n * p.hw;
  std::int64_t const per_row = cut.planes ? p.c * p.hw : cut.c;
  if (p.function == F::image_dot)
    cut.rows_per_part = cut.planes ? 1 : p.hw;
  else
    cut.rows_per_part = std::max({ceil_div(cut.rows, 32), ceil_div(grain, per_row), std::int64_t(1)});
  cut.parts = ceil_div(cut.rows, cut.rows_per_part);
  cut.channels_per_group = cut.planes ? std::clamp<std::int64_t>(grain / (cut.rows_per_part * p.hw), 1, p.c) : cut.c;
  cut.groups = ceil_div(cut.c, cut.channels_per_group);
  cut.totals = (p.function == F::channel_sums || p.function == F::channel_dot ? 2 : 1) * cut.c;
  return cut;
}

std::string reject(ReduceProblem const& p, DeviceFacts const&) { return p.type == DType::f64 ? "sums f32 and bf16, not f64" : ""; }
std::size_t scratch(ReduceProblem const& p, Config const&) {
  Cut const cut = cut_of(p);
  return std::size_t(cut.parts * cut.totals) * sizeof(double);
}
double seconds(ReduceProblem const& p, DeviceFacts const&) { return bytes_of(p.operands()) / 1e10; }

ReduceKernels::Kernel kernel_of(ReduceProblem const& p, Isa isa) {
  auto const& all = FALCONET_KERNELS(isa, reduce_kernels);
  auto const& k = p.type == DType::bf16 ? all.bf16 : all.f32;
  switch (p.function) {
    case F::channel_sum:
    case F::mean:
      return k.sum;
    case F::channel_sums:
      return k.squares;
    case F::channel_dot:
      return p.mask ? k.masked_dot : k.dot;
    case F::image_dot:
      return k.product;
  }
  return nullptr;
}

void run(ReduceProblem const& p, Config const&, ReduceArgs const& a, View scratch, Stream& stream) {
  Cut const cut = cut_of(p);
  auto const kernel = kernel_of(p, stream.isa());
  double* const totals = scratch.as<double>();
  std::size_t const size = size_of(p.type);
  auto from = [&](View const& v, std::int64_t element) { return v ? v.as<char const>() + std::size_t(element) * size : nullptr; };
  auto rows_at = [&](std::int64_t element, std::int64_t rows, std::int64_t c, double* out) {
    kernel({from(a.x, element), from(a.b, element), from(a.mask, element), rows, c, out});
  };
  std::int64_t const samples = p.reads_step() ? std::clamp<std::int64_t>(a.step->valid_count, 0, p.n) : p.n;
  std::int64_t const valid = samples * (cut.rows / p.n);

  stream.threads().run(int(cut.parts * cut.groups), [&](int task) {
    std::int64_t const part = task / cut.groups, group = task % cut.groups;
    std::int64_t const begin = std::min(valid, part * cut.rows_per_part), end = std::min(valid, begin + cut.rows_per_part);
    double* const out = totals + part * cut.totals;
    if (!cut.planes) {
      std::fill_n(out, cut.totals, 0.0);
      rows_at(begin * cut.c, end - begin, cut.c, out);
      return;
    }
    std::int64_t const last = std::min(p.c, (group + 1) * cut.channels_per_group);
    for (std::int64_t c = group * cut.channels_per_group; c < last; ++c) {
      double sum[2] = {0, 0};
      for (std::int64_t n = begin; n < end; ++n) rows_at((n * p.c + c) * p.hw, p.hw, 1, sum);
      out[c] = sum[0];
      if (cut.totals == 2 * p.c) out[p.c + c] = sum[1];
    }
  });

  if (p.function == F::image_dot) {
    std::int64_t const count = cut.parts * cut.totals;
    for (std::int64_t i = 0; i < count; ++i) {
      if (p.type == DType::bf16)
        a.y.as<bf16>()[i] = to_bf16(float(totals[i]));
      else
        a.y.as<float>()[i] = float(totals[i]);
    }
    return;
  }
  double const divisor = p.function == F::mean ? double(samples * p.c * p.hw) : 1;
  stream.threads().run(int((cut.totals + 255) / 256), [&](int task) {
    std::int64_t const end = std::min(cut.totals, std::int64_t(task + 1) * 256);
    for (std::int64_t i = std::int64_t(task) * 256; i < end; ++i) {
      double sum = 0;
      for (std::int64_t part = 0; part < cut.parts; ++part) sum += totals[part * cut.totals + i];
      a.y.as<float>()[i] = float(sum / divisor);
    }
  });
}

}  // namespace

extern Algorithm<ReduceProblem> const reduce_blocked = {
    .name = "blocked", .target = DeviceKind::cpu, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run};

}  // namespace falconet
#endif
