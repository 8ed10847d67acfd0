// Softmax, log-softmax and their gradients in vectors of f32, over channels that lie one after another: the lanes are channels.
//   y = exp(x - max) / sum exp(x - max);  log y = x - max - log(sum);  dx = y (dy - sum y dy);  of the logarithm: dx = dy - exp(y) sum dy
// Limits: f32 or bf16 storage, f32 arithmetic; NHWC images or [N,C] (or images of one pixel). Cost: one exponential per element.
#include <cstdint>

namespace falconet {

struct SoftmaxWork {
  void const* x = nullptr;       // x, or y for the gradient
  void const* dy = nullptr;
  void* out = nullptr;           // y or dx
  long channels = 0;
  bool log = false, gradient = false, bf16 = false;
};
struct SoftmaxLanes {
  void (*rows)(SoftmaxWork const&, long begin, long end);
};

}  // namespace falconet

#ifdef FALCONET_ISA
#include "falconet/device/cpu/simd.h"
#include "falconet/device/cpu/simd_load.h"
#include <hwy/contrib/math/math-inl.h>

namespace falconet::FALCONET_ISA {
namespace {

template <class D, class T>
void forward(D d, T const* x, T* y, long C, bool log) {
  auto maxima = load_f32(d, x);
  auto nan = hn::IsNaN(maxima);
  for_lanes(d, C, [&](long at) HWY_ATTR {
    auto const v = load_f32(d, x + at);
    maxima = hn::Max(maxima, v);
    nan = hn::Or(nan, hn::IsNaN(v));
  });
  auto const largest = hn::MaxOfLanes(d, maxima);
  if (!hn::AllFalse(d, nan) || !hn::AllTrue(d, hn::IsFinite(largest))) {   // Exp does not carry a NaN on
    for_lanes(d, C, [&](long at) HWY_ATTR { store_f32(hn::Set(d, __builtin_nanf("")), d, y + at); });
    return;
  }
  auto sum = hn::Zero(d);
  for_lanes_once(d, C, [&](long at, hn::Mask<D> fresh) HWY_ATTR {
    sum = hn::Add(sum, hn::IfThenElseZero(fresh, hn::Exp(d, hn::Sub(load_f32(d, x + at), largest))));
  });
  auto const total = hn::SumOfLanes(d, sum);
  if (log) {
    auto const log_sum = hn::Log(d, total);
    for_lanes(d, C, [&](long at) HWY_ATTR { store_f32(hn::Sub(hn::Sub(load_f32(d, x + at), largest), log_sum), d, y + at); });
  } else {
    for_lanes(d, C, [&](long at) HWY_ATTR { store_f32(hn::Div(hn::Exp(d, hn::Sub(load_f32(d, x + at), largest)), total), d, y + at); });
  }
}

template <class D, class T>
void backward(D d, T const* y, T const* dy, T* dx, long C, bool log) {
  auto sum = hn::Zero(d);
  for_lanes_once(d, C, [&](long at, hn::Mask<D> fresh) HWY_ATTR {
    auto const g = load_f32(d, dy + at);
    sum = hn::Add(sum, hn::IfThenElseZero(fresh, log ? g : hn::Mul(g, load_f32(d, y + at))));
  });
  auto const total = hn::SumOfLanes(d, sum);
  for_lanes(d, C, [&](long at) HWY_ATTR {
    auto const g = load_f32(d, dy + at), v = load_f32(d, y + at);
    store_f32(log ? hn::NegMulAdd(hn::Exp(d, v), total, g) : hn::Mul(v, hn::Sub(g, total)), d, dx + at);
  });
}

template <class T>
void rows_of(SoftmaxWork const& work, long begin, long end) {
  long const C = work.channels;
  with_lanes(C, [&](auto d) {
    for (long row = begin; row < end; ++row) {
      T const* const x = static_cast<T const*>(work.x) + row * C;
      T* const out = static_cast<T*>(work.out) + row * C;
      if (work.gradient) backward(d, x, static_cast<T const*>(work.dy) + row * C, out, C, work.log);
      else forward(d, x, out, C, work.log);
    }
  });
}
void rows(SoftmaxWork const& work, long begin, long end) { work.bf16 ? rows_of<bf16>(work, begin, end) : rows_of<float>(work, begin, end); }

}  // namespace

extern SoftmaxLanes const softmax_lanes_kernels;
SoftmaxLanes const softmax_lanes_kernels = {rows};

}  // namespace falconet::FALCONET_ISA

#else
#include "falconet/ops/softmax/algorithms.h"
#include "falconet/ops/softmax/cpu/rows.h"

namespace falconet {
FALCONET_DECLARE_KERNELS(SoftmaxLanes, softmax_lanes_kernels)
namespace {

std::string reject(SoftmaxProblem const& p, DeviceFacts const&) {
  if (p.x.dtype != DType::f32 && p.x.dtype != DType::bf16) return "needs f32 or bf16";
  if (p.stride() != 1) return "needs channels that lie one after another (nhwc)";
  return {};
}

double seconds(SoftmaxProblem const& p, DeviceFacts const& facts) {
  double const lanes = facts.isa == Isa::avx512 ? 16 : facts.isa == Isa::avx2 ? 8 : 1;
  return double(p.x.shape.elements()) * 15e-9 / lanes + double(p.n() * p.places()) * 20e-9;
}

void run(SoftmaxProblem const& p, Config const&, SoftmaxArgs const& args, View, Stream& stream) {
  SoftmaxWork work;
  work.x = p.gradient ? args.y.data : args.x.data;
  work.dy = args.dy.data;
  work.out = p.gradient ? args.dx.data : args.y.data;
  work.channels = long(p.channels());
  work.log = p.log, work.gradient = p.gradient, work.bf16 = p.x.dtype == DType::bf16;
  auto const kernel = FALCONET_KERNELS(stream.isa(), softmax_lanes_kernels).rows;
  run_rows(p, stream, [&](long begin, long end) { kernel(work, begin, end); });
}

}  // namespace

Algorithm<SoftmaxProblem> softmax_lanes() {
  return {.name = "lanes", .target = DeviceKind::cpu, .reject = reject, .seconds = seconds, .run = run};
}

}  // namespace falconet
#endif
