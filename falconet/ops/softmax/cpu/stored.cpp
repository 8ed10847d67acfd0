// Softmax whose second pass stores what the third would compute again: exp(x - max), or the products of the gradient, lie in the result until
// the sum is known.
//   1. m = max x     2. y = exp(x - m), t = sum y     3. y = y / t             (log: 2. keeps the sum alone, as nothing is computed twice)
//   gradient: 1. dx = y dy, t = sum dx    2. dx = dx - t y      of the logarithm: 1. dx = exp(y), t = sum dy    2. dx = dy - t dx
// One exponential an element where `lanes` takes two, for one more store and load of the row, which stays in the first-level cache.
// Limits: f32 (bf16 would round the stored values once more), channels that lie one after another, at least a vector of them.
#include <cstdint>

namespace falconet {

struct StoredSoftmax {
  float const* x = nullptr;      // x, or y for the gradient
  float const* dy = nullptr;
  float* out = nullptr;
  long channels = 0;
  bool log = false, gradient = false;
};
struct SoftmaxStored {
  int lanes;
  void (*rows)(StoredSoftmax const&, long begin, long end);
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

// Calls body(first) for whole vectors, then tail(first, fresh) for the last one, which is set back; fresh are its lanes not done before.
template <class Body, class Tail>
HWY_INLINE void over(long count, Body const& body, Tail const& tail) {
  D const d;
  long const lanes = long(hn::Lanes(d));
  long at = 0;
  for (; at + lanes <= count; at += lanes) body(at);
  if (at < count) tail(count - lanes, hn::Not(hn::FirstN(d, std::size_t(lanes - (count - at)))));
}

void forward(float const* x, float* y, long C, bool log) {
  D const d;
  V maxima = hn::LoadU(d, x);
  auto nan = hn::IsNaN(maxima);
  for_lanes(d, C, [&](long at) HWY_ATTR {
    V const v = hn::LoadU(d, x + at);
    maxima = hn::Max(maxima, v);
    nan = hn::Or(nan, hn::IsNaN(v));
  });
  V const largest = hn::MaxOfLanes(d, maxima);
  if (!hn::AllFalse(d, nan) || !hn::AllTrue(d, hn::IsFinite(largest))) {
    for_lanes(d, C, [&](long at) HWY_ATTR { hn::StoreU(hn::Set(d, __builtin_nanf("")), d, y + at); });
    return;
  }
  V sum = hn::Zero(d);
  auto const raised = [&](long at) HWY_ATTR { return exponential(hn::Sub(hn::LoadU(d, x + at), largest)); };
  over(C,
       [&](long at) HWY_ATTR {
         V const e = raised(at);
         sum = hn::Add(sum, e);
         if (!log) hn::StoreU(e, d, y + at);
       },
       [&](long at, hn::Mask<D> fresh) HWY_ATTR {
         V const e = raised(at);
         sum = hn::Add(sum, hn::IfThenElseZero(fresh, e));
         if (!log) hn::StoreU(e, d, y + at);
       });
  V const total = hn::SumOfLanes(d, sum);
  V const shift = log ? hn::Add(largest, hn::Log(d, total)) : hn::Div(hn::Set(d, 1.0f), total);
  if (log) for_lanes(d, C, [&](long at) HWY_ATTR { hn::StoreU(hn::Sub(hn::LoadU(d, x + at), shift), d, y + at); });
  else
    over(C, [&](long at) HWY_ATTR { hn::StoreU(hn::Mul(hn::LoadU(d, y + at), shift), d, y + at); },
         [&](long at, hn::Mask<D> fresh) HWY_ATTR {
           V const e = hn::LoadU(d, y + at);
           hn::StoreU(hn::IfThenElse(fresh, hn::Mul(e, shift), e), d, y + at);
         });
}

void backward(float const* y, float const* dy, float* dx, long C, bool log) {
  D const d;
  V sum = hn::Zero(d);
  for_lanes_once(d, C, [&](long at, hn::Mask<D> fresh) HWY_ATTR {
    V const g = hn::LoadU(d, dy + at), v = hn::LoadU(d, y + at), part = log ? exponential(v) : hn::Mul(g, v);
    sum = hn::Add(sum, hn::IfThenElseZero(fresh, log ? g : part));
    hn::StoreU(part, d, dx + at);
  });
  V const total = hn::SumOfLanes(d, sum);
  auto const finished = [&](long at) HWY_ATTR {
    V const part = hn::LoadU(d, dx + at);
    return log ? hn::NegMulAdd(part, total, hn::LoadU(d, dy + at)) : hn::NegMulAdd(hn::LoadU(d, y + at), total, part);
  };
  over(C, [&](long at) HWY_ATTR { hn::StoreU(finished(at), d, dx + at); },
       [&](long at, hn::Mask<D> fresh) HWY_ATTR { hn::StoreU(hn::IfThenElse(fresh, finished(at), hn::LoadU(d, dx + at)), d, dx + at); });
}

void rows(StoredSoftmax const& work, long begin, long end) {
  for (long row = begin; row < end; ++row) {
    long const at = row * work.channels;
    if (work.gradient) backward(work.x + at, work.dy + at, work.out + at, work.channels, work.log);
    else forward(work.x + at, work.out + at, work.channels, work.log);
  }
}

}  // namespace

extern SoftmaxStored const softmax_stored_kernels;
SoftmaxStored const softmax_stored_kernels = {int(hn::MaxLanes(D())), rows};

}  // namespace falconet::FALCONET_ISA

#else
#include "falconet/ops/softmax/algorithms.h"
#include "falconet/ops/softmax/cpu/rows.h"

namespace falconet {
FALCONET_DECLARE_KERNELS(SoftmaxStored, softmax_stored_kernels)
namespace {

std::string reject(SoftmaxProblem const& p, DeviceFacts const& facts) {
  if (p.x.dtype != DType::f32) return "needs f32";
  if (p.stride() != 1) return "needs channels that lie one after another (nhwc)";
  if (p.channels() < FALCONET_KERNELS(facts.isa, softmax_stored_kernels).lanes) return "needs at least a vector of channels";
  return {};
}

double seconds(SoftmaxProblem const& p, DeviceFacts const& facts) {
  double const lanes = facts.isa == Isa::avx512 ? 16 : facts.isa == Isa::avx2 ? 8 : 1;
  return double(p.x.shape.elements()) * 12e-9 / lanes + double(p.n() * p.places()) * 25e-9;
}

void run(SoftmaxProblem const& p, Config const&, SoftmaxArgs const& args, View, Stream& stream) {
  StoredSoftmax work;
  work.x = (p.gradient ? args.y : args.x).as<float const>();
  work.dy = args.dy.as<float const>();
  work.out = (p.gradient ? args.dx : args.y).as<float>();
  work.channels = long(p.channels());
  work.log = p.log, work.gradient = p.gradient;
  auto const kernel = FALCONET_KERNELS(stream.isa(), softmax_stored_kernels).rows;
  run_rows(p, stream, [&](long begin, long end) { kernel(work, begin, end); });
}

}  // namespace

Algorithm<SoftmaxProblem> softmax_stored() {
  return {.name = "stored", .target = DeviceKind::cpu, .reject = reject, .seconds = seconds, .run = run};
}

}  // namespace falconet
#endif
