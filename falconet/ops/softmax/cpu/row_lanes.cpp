// Softmax with a row per lane: sixteen (eight, four) rows, or places of an NCHW image, advance together through the channels, so maxima and sums
// need no step across lanes. Places of an NCHW image lie one after another; rows of [N,C] are gathered, a channel at a time.
//   m = max over c of x[c][lane]      y[c][lane] = exp(x[c][lane] - m) / sum      gradients alike
// It is the only vector version for NCHW images; for rows it wins where they are shorter than a vector. Limits: f32; NCHW images of any size,
// or at most 64 channels that lie one after another. The last group of lanes is filled up with rows done already.
#include <cstdint>

namespace falconet {

struct RowLanesSoftmax {
  float const* x = nullptr;      // x, or y for the gradient
  float const* dy = nullptr;
  float* out = nullptr;
  long channels = 0, places = 0;
  bool nchw = false, log = false, gradient = false;
};
struct SoftmaxRowLanes {
  int lanes;
  void (*groups)(RowLanesSoftmax const&, long rows, long begin, long end);   // groups [begin, end) of lanes rows each; nchw: of one image
};

}  // namespace falconet

#ifdef FALCONET_ISA
#include "falconet/device/cpu/simd.h"
#include "falconet/device/cpu/simd_load.h"
#include <hwy/contrib/math/math-inl.h>

namespace falconet::FALCONET_ISA {
namespace {

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
HWY_NOINLINE V exponential(V v) { return hn::Exp(D(), v); }   // one copy of its code

// Channel c of every lane: consecutive floats (nchw) or one of each row.
struct Lanes {
  bool together;
  long channels, step;           // floats between channels
  HWY_INLINE V get(float const* p, long c) const {
    D const d;
    hn::RebindToSigned<D> const di;
    if (together) return hn::LoadU(d, p + c * step);
    return hn::GatherIndex(d, p + c, hn::Mul(hn::Iota(di, 0), hn::Set(di, std::int32_t(channels))));
  }
  HWY_INLINE void put(V v, float* p, long c) const {
    D const d;
    hn::RebindToSigned<D> const di;
    if (together) return hn::StoreU(v, d, p + c * step);
    hn::ScatterIndex(v, d, p + c, hn::Mul(hn::Iota(di, 0), hn::Set(di, std::int32_t(channels))));
  }
};

void forward(Lanes const& l, float const* x, float* y, bool log) {
  D const d;
  V m = l.get(x, 0), t = hn::Zero(d);
  auto nan = hn::IsNaN(m);
  for (long c = 1; c < l.channels; ++c) {
    V const v = l.get(x, c);
    m = hn::Max(m, v);
    nan = hn::Or(nan, hn::IsNaN(v));
  }
  auto const good = hn::AndNot(nan, hn::IsFinite(m));
  V const none = hn::Set(d, __builtin_nanf(""));
  for (long c = 0; c < l.channels; ++c) {
    V const e = exponential(hn::Sub(l.get(x, c), m));
    t = hn::Add(t, e);
    if (!log) l.put(e, y, c);
  }
  V const shift = log ? hn::Add(m, hn::Log(d, t)) : hn::Div(hn::Set(d, 1.0f), t);
  for (long c = 0; c < l.channels; ++c) {
    V const v = log ? hn::Sub(l.get(x, c), shift) : hn::Mul(l.get(y, c), shift);
    l.put(hn::IfThenElse(good, v, none), y, c);
  }
}

void backward(Lanes const& l, float const* y, float const* dy, float* dx, bool log) {
  D const d;
  V t = hn::Zero(d);
  for (long c = 0; c < l.channels; ++c) t = log ? hn::Add(t, l.get(dy, c)) : hn::MulAdd(l.get(dy, c), l.get(y, c), t);
  for (long c = 0; c < l.channels; ++c) {
    V const g = l.get(dy, c), v = l.get(y, c);
    l.put(log ? hn::NegMulAdd(exponential(v), t, g) : hn::Mul(v, hn::Sub(g, t)), dx, c);
  }
}

void groups(RowLanesSoftmax const& work, long rows, long begin, long end) {
  long const lanes = long(hn::MaxLanes(D())), of_image = (work.places + lanes - 1) / lanes;
  Lanes const l{work.nchw, work.channels, work.places};
  for (long group = begin; group < end; ++group) {
    long at;
    if (work.nchw) {                               // the last group of an image is set back
      long const place = group % of_image * lanes;
      at = group / of_image * work.channels * work.places + (place + lanes <= work.places ? place : work.places - lanes);
    } else {
      long const row = group * lanes;
      at = (row + lanes <= rows ? row : rows - lanes) * work.channels;
    }
    if (work.gradient) backward(l, work.x + at, work.dy + at, work.out + at, work.log);
    else forward(l, work.x + at, work.out + at, work.log);
  }
}

}  // namespace

extern SoftmaxRowLanes const softmax_row_lanes_kernels;
SoftmaxRowLanes const softmax_row_lanes_kernels = {int(hn::MaxLanes(D())), groups};

}  // namespace falconet::FALCONET_ISA

#else
#include <algorithm>

#include "falconet/ops/softmax/algorithms.h"

namespace falconet {
FALCONET_DECLARE_KERNELS(SoftmaxRowLanes, softmax_row_lanes_kernels)
namespace {

bool by_places(SoftmaxProblem const& p) { return p.stride() != 1; }
long rows_of(SoftmaxProblem const& p) { return long(by_places(p) ? p.places() : p.n() * p.places()); }   // that lanes share

std::string reject(SoftmaxProblem const& p, DeviceFacts const& facts) {
  if (p.x.dtype != DType::f32) return "needs f32";
  if (!by_places(p) && p.channels() > 64) return "rows of more than 64 channels: gathers would miss the caches";
  if (rows_of(p) < FALCONET_KERNELS(facts.isa, softmax_row_lanes_kernels).lanes) return by_places(p) ? "needs a vector of places in an image" : "needs a vector of rows";
  return {};
}

double seconds(SoftmaxProblem const& p, DeviceFacts const& facts) {
  double const lanes = facts.isa == Isa::avx512 ? 16 : facts.isa == Isa::avx2 ? 8 : 1;
  return double(p.x.shape.elements()) * (by_places(p) ? 12e-9 / lanes : 8e-9 / lanes + 2e-9);
}

void run(SoftmaxProblem const& p, Config const&, SoftmaxArgs const& args, View, Stream& stream) {
  auto const& kernels = FALCONET_KERNELS(stream.isa(), softmax_row_lanes_kernels);
  RowLanesSoftmax work;
  work.x = (p.gradient ? args.y : args.x).as<float const>();
  work.dy = args.dy.as<float const>();
  work.out = (p.gradient ? args.dx : args.y).as<float>();
  work.channels = long(p.channels()), work.places = long(p.places());
  work.nchw = by_places(p), work.log = p.log, work.gradient = p.gradient;
  long const rows = rows_of(p), of_image = (rows + kernels.lanes - 1) / kernels.lanes, all = work.nchw ? of_image * long(p.n()) : of_image;
  // A last group that is set back does rows again that another task may be doing, with the same result: forwards it stores what is not yet
  // finished, so there groups that share rows belong to one task.
  long const units = work.nchw ? long(p.n()) : all;
  int const tasks = int(std::clamp<std::int64_t>(p.x.shape.elements() / 16384, 1, std::max(1L, work.nchw ? units : units / 2)));
  long const per = work.nchw ? of_image : 1;
  stream.threads().run(tasks, [&](int task) {
    long const begin = units * task / tasks * per, end = units * (task + 1) / tasks * per;
    kernels.groups(work, rows, begin, end);
  });
}

}  // namespace

Algorithm<SoftmaxProblem> softmax_row_lanes() {
  return {.name = "row_lanes", .target = DeviceKind::cpu, .reject = reject, .seconds = seconds, .run = run};
}

}  // namespace falconet
#endif
