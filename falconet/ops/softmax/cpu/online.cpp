// Softmax in two passes over a row instead of three: the maximum and the sum run together (Milakov and Gimelshein, "Online normalizer calculation
// for softmax", 2018). Each lane keeps a maximum m and a sum t of its own elements, rescaled when the maximum grows:
//   m' = max(m, x)      t' = t exp(m - m') + exp(x - m')          lanes are joined by the same rule      then y = exp(x - m) / t
// Of the two exponentials one is exp(0), so a lane takes only exp(-|x - m|) and a blend. It reads x twice, not three times: it wins where a row
// leaves the first-level cache. Forward only (the gradient has no maximum). Limits: f32, channels one after another, a vector of them.
#include <cstdint>

namespace falconet {

struct OnlineSoftmax {
  float const* x = nullptr;
  float* y = nullptr;
  long channels = 0;
  bool log = false;
};
struct SoftmaxOnline {
  int lanes;
  void (*rows)(OnlineSoftmax const&, long begin, long end);
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

void row(float const* x, float* y, long C, bool log) {
  D const d;
  V m = hn::LoadU(d, x), t = hn::Zero(d);
  auto bad = hn::Not(hn::IsFinite(m));
  for_lanes_once(d, C, [&](long at, hn::Mask<D> fresh) HWY_ATTR {
    V const v = hn::LoadU(d, x + at);
    bad = hn::Or(bad, hn::Or(hn::IsNaN(v), hn::IsInf(v)));
    auto const grows = hn::And(fresh, hn::Gt(v, m));
    V const smaller = exponential(hn::Neg(hn::Abs(hn::Sub(v, m))));           // exp(min - max) of the pair
    V const same = hn::Add(t, hn::IfThenElseZero(fresh, smaller));
    t = hn::IfThenElse(grows, hn::MulAdd(t, smaller, hn::Set(d, 1.0f)), same);
    m = hn::IfThenElse(grows, v, m);
  });
  V largest = hn::MaxOfLanes(d, m);
  if (!hn::AllFalse(d, bad)) {            // an infinity or a NaN: exp(-inf) is exact, so only the maximum and NaN count
    V maxima = hn::LoadU(d, x);
    auto nan = hn::IsNaN(maxima);
    for_lanes(d, C, [&](long at) HWY_ATTR {
      V const v = hn::LoadU(d, x + at);
      maxima = hn::Max(maxima, v);
      nan = hn::Or(nan, hn::IsNaN(v));
    });
    largest = hn::MaxOfLanes(d, maxima);
    if (!hn::AllFalse(d, nan) || !hn::AllTrue(d, hn::IsFinite(largest))) {
      for_lanes(d, C, [&](long at) HWY_ATTR { hn::StoreU(hn::Set(d, __builtin_nanf("")), d, y + at); });
      return;
    }
    t = hn::Zero(d), m = largest;
    for_lanes_once(d, C, [&](long at, hn::Mask<D> fresh) HWY_ATTR {
      t = hn::Add(t, hn::IfThenElseZero(fresh, exponential(hn::Sub(hn::LoadU(d, x + at), largest))));
    });
  }
  V const total = hn::SumOfLanes(d, hn::Mul(t, exponential(hn::Sub(m, largest))));
  V const shift = log ? hn::Add(largest, hn::Log(d, total)) : hn::Div(hn::Set(d, 1.0f), total);
  if (log) for_lanes(d, C, [&](long at) HWY_ATTR { hn::StoreU(hn::Sub(hn::LoadU(d, x + at), shift), d, y + at); });
  else for_lanes(d, C, [&](long at) HWY_ATTR { hn::StoreU(hn::Mul(exponential(hn::Sub(hn::LoadU(d, x + at), largest)), shift), d, y + at); });
}

void rows(OnlineSoftmax const& work, long begin, long end) {
  for (long i = begin; i < end; ++i) row(work.x + i * work.channels, work.y + i * work.channels, work.channels, work.log);
}

}  // namespace

extern SoftmaxOnline const softmax_online_kernels;
SoftmaxOnline const softmax_online_kernels = {int(hn::MaxLanes(D())), rows};

}  // namespace falconet::FALCONET_ISA

#else
#include "falconet/ops/softmax/algorithms.h"
#include "falconet/ops/softmax/cpu/rows.h"

namespace falconet {
FALCONET_DECLARE_KERNELS(SoftmaxOnline, softmax_online_kernels)
namespace {

std::string reject(SoftmaxProblem const& p, DeviceFacts const& facts) {
  if (p.gradient) return "the gradient has no maximum to find";
  if (p.x.dtype != DType::f32) return "needs f32";
  if (p.stride() != 1) return "needs channels that lie one after another (nhwc)";
  if (p.channels() < FALCONET_KERNELS(facts.isa, softmax_online_kernels).lanes) return "needs at least a vector of channels";
  return {};
}

double seconds(SoftmaxProblem const& p, DeviceFacts const& facts) {
  double const lanes = facts.isa == Isa::avx512 ? 16 : facts.isa == Isa::avx2 ? 8 : 1;
  return double(p.x.shape.elements()) * 20e-9 / lanes + double(p.n() * p.places()) * 25e-9;
}

void run(SoftmaxProblem const& p, Config const&, SoftmaxArgs const& args, View, Stream& stream) {
  OnlineSoftmax work;
  work.x = args.x.as<float const>(), work.y = args.y.as<float>();
  work.channels = long(p.channels());
  work.log = p.log;
  auto const kernel = FALCONET_KERNELS(stream.isa(), softmax_online_kernels).rows;
  run_rows(p, stream, [&](long begin, long end) { kernel(work, begin, end); });
}

}  // namespace

Algorithm<SoftmaxProblem> softmax_online() {
  return {.name = "online", .target = DeviceKind::cpu, .reject = reject, .seconds = seconds, .run = run};
}

}  // namespace falconet
#endif
