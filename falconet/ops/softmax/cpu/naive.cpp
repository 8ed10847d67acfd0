// The sequential baseline: the definition in f32, one element after the other on one core, any layout; the exponential is the C library's.
#include <cmath>

#include "falconet/ops/softmax/algorithms.h"
#include "falconet/tensor/bf16.h"

namespace falconet {
namespace {

std::string reject(SoftmaxProblem const& p, DeviceFacts const&) { return p.x.dtype == DType::f32 || p.x.dtype == DType::bf16 ? "" : "needs f32 or bf16"; }

float get(float v) { return v; }
float get(bf16 v) { return to_float(v); }
void put(float& to, float v) { to = v; }
void put(bf16& to, float v) { to = to_bf16(v); }

template <class T>
void run_as(SoftmaxProblem const& p, SoftmaxArgs const& args) {
  auto const C = p.channels(), places = p.places(), stride = p.stride();
  for (std::int64_t i = 0; i < p.n() * places; ++i) {
    auto const first = i / places * C * places + (stride == 1 ? i % places * C : i % places);
    float sum = 0;
    if (p.gradient) {
      T const *y = args.y.as<T const>() + first, *dy = args.dy.as<T const>() + first;
      T* const dx = args.dx.as<T>() + first;
      for (std::int64_t c = 0; c < C; ++c) sum += p.log ? get(dy[c * stride]) : get(dy[c * stride]) * get(y[c * stride]);
      for (std::int64_t c = 0; c < C; ++c) {
        float const v = get(y[c * stride]), g = get(dy[c * stride]);
        put(dx[c * stride], p.log ? g - std::exp(v) * sum : v * (g - sum));
      }
      continue;
    }
    T const* const x = args.x.as<T const>() + first;
    T* const y = args.y.as<T>() + first;
    float largest = get(x[0]);
    for (std::int64_t c = 1; c < C; ++c)
      if (float const v = get(x[c * stride]); v > largest || std::isnan(v)) largest = v;
    for (std::int64_t c = 0; c < C; ++c) sum += std::exp(get(x[c * stride]) - largest);
    for (std::int64_t c = 0; c < C; ++c) {
      float const v = get(x[c * stride]) - largest;
      put(y[c * stride], p.log ? v - std::log(sum) : std::exp(v) / sum);
    }
  }
}

double seconds(SoftmaxProblem const& p, DeviceFacts const&) { return 12e-9 * double(p.x.shape.elements()); }

void run(SoftmaxProblem const& p, Config const&, SoftmaxArgs const& args, View, Stream&) {
  p.x.dtype == DType::bf16 ? run_as<bf16>(p, args) : run_as<float>(p, args);
}

}  // namespace

Algorithm<SoftmaxProblem> softmax_naive() {
  return {.name = "naive", .target = DeviceKind::cpu, .reject = reject, .seconds = seconds, .run = run, .baseline = true};
}

}  // namespace falconet
