// Batch norm applied to an image, and its gradient, in one launch with their vectors, channels last: every block computes the vectors of
// all channels in f64 (a few numbers per channel, cheaper than a launch of their own) while its first loads are under way, then passes over
// its share of the image, 16 bytes per thread and tensor. The first block also writes what else there is per channel. The formulas stand in
// reference.cpp. Bound by memory: every image once.
#include <algorithm>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/element.cuh"
#include "falconet/ops/batch_norm/algorithms.h"

namespace falconet {
namespace {

constexpr int threads = 256, together = 4;  // vectors of one thread, loaded before the first is used

template <class E, class T>
struct Work {
  E const *first, *second, *third;  // x, residual, - | dy, x, mask
  E* y;
  T const *sums, *gamma, *beta, *dscale_shift;
  T *running_mean, *running_var, *dgamma, *dbeta;
  StepState const* step;
  std::int64_t elements, sample;
  int channels;
  double per_sample, eps, momentum;
  bool relu;
};

template <class E, class T, bool gradient, int v>
__global__ void __launch_bounds__(threads) one_pass(Work<E, T> const w) {
  using P = Pack<E, v>;
  extern __shared__ __align__(16) char memory[];
  T* const vectors = reinterpret_cast<T*>(memory);  // [2 or 3][channels]
  std::int64_t const begin = (blockIdx.x * std::int64_t(together) * threads + threadIdx.x) * v;
  P a[together], b[together], m[together];
#pragma unroll
  for (int t = 0; t < together; ++t) {
    std::int64_t const i = begin + std::int64_t(t) * threads * v;
    if (i >= w.elements) continue;
    a[t] = *reinterpret_cast<P const*>(w.first + i);
    if (w.second) b[t] = *reinterpret_cast<P const*>(w.second + i);
    if (gradient && w.third) m[t] = *reinterpret_cast<P const*>(w.third + i);
  }
  int const valid = w.step->valid_count;
  for (int c = threadIdx.x; c < w.channels; c += threads) {
    double const sum = double(w.sums[c]), squares = double(w.sums[w.channels + c]), gamma = double(w.gamma[c]);
    double const other = double(gradient ? w.dscale_shift[c] : w.beta[c]), dshift = gradient ? double(w.dscale_shift[w.channels + c]) : 0;
    double const count = double(max(valid, 1)) * w.per_sample, per = 1 / count, mean = sum * per,
                 var = fmax(squares * per - mean * mean, 0.0), inverse = rsqrt(var + w.eps);
    double const scale = gamma * inverse;
    vectors[c] = T(scale);
    if constexpr (gradient) {
      double const g = other - mean * dshift, dvar = -0.5 * g * gamma * inverse * inverse * inverse,
                   dmean = -scale * dshift - 2 * mean * dvar;
      vectors[w.channels + c] = T(2 * dvar * per);
      vectors[2 * w.channels + c] = T(dmean * per);
      if (blockIdx.x == 0) w.dgamma[c] = T(g * inverse), w.dbeta[c] = T(dshift);
    } else {
      vectors[w.channels + c] = T(other - mean * scale);
      if (blockIdx.x == 0) {
        w.running_mean[c] = T((1 - w.momentum) * double(w.running_mean[c]) + w.momentum * mean);
        w.running_var[c] = T((1 - w.momentum) * double(w.running_var[c]) + w.momentum * var * count / fmax(count - 1, 1.0));
      }
    }
  }
  __syncthreads();
  std::int64_t const end = std::int64_t(valid) * w.sample;
#pragma unroll
  for (int t = 0; t < together; ++t) {
    std::int64_t const i = begin + std::int64_t(t) * threads * v;
    if (i >= w.elements) continue;
    int const channel = w.elements < std::int64_t(1) << 32 ? int(unsigned(i) % unsigned(w.channels)) : int(i % w.channels);
    Pack<T, v> rows[3];
#pragma unroll
    for (int row = 0; row < (gradient ? 3 : 2); ++row)
      rows[row] = *reinterpret_cast<Pack<T, v> const*>(vectors + row * w.channels + channel);
    P y;
#pragma unroll
    for (int e = 0; e < v; ++e) {
      T r;
      if constexpr (gradient) {
        bool const masked_out = w.third && !(load(m[t].e[e]) > T(0));
        r = i + e >= end ? T(0) : (masked_out ? T(0) : rows[0].e[e] * load(a[t].e[e])) + rows[1].e[e] * load(b[t].e[e]) + rows[2].e[e];
      } else {
        r = rows[0].e[e] * load(a[t].e[e]) + rows[1].e[e] + (w.second ? T(load(b[t].e[e])) : T(0));
        if (w.relu) r = r < T(0) ? T(0) : r;
      }
      put(y.e[e], r);
    }
    *reinterpret_cast<P*>(w.y + i) = y;
  }
}

std::string reject(BatchNormProblem const& p, DeviceFacts const&) {
  if (!p.applies()) return "batch norm applied to images only";
  if (p.layout != Layout::nhwc) return "nhwc only";
  if (p.c > 2000) return "more than 2000 channels";
  return {};
}
double seconds(BatchNormProblem const& p, DeviceFacts const&) { return 2.5e-6 + bytes_of(p.operands()) / 3.8e12; }

template <class E, class T>
void launch(BatchNormProblem const& p, BatchNormArgs const& a, cudaStream_t stream) {
  bool const gradient = p.function == BatchNormFunction::normalise_gradient;
  Work<E, T> const w{(gradient ? a.dy : a.x).as<E>(),
                     gradient     ? a.x.as<E>()
                     : p.residual ? a.residual.as<E>()
                                  : nullptr,
                     p.mask ? a.mask.as<E>() : nullptr,
                     a.y.as<E>(),
                     a.sums.as<T>(),
                     a.gamma.as<T>(),
                     a.beta.as<T>(),
                     a.dscale_shift.as<T>(),
                     a.running_mean.as<T>(),
                     a.running_var.as<T>(),
                     a.dgamma.as<T>(),
                     a.dbeta.as<T>(),
                     a.step,
                     p.elements(),
                     p.c * p.per_sample,
                     int(p.c),
                     double(p.per_sample),
                     p.eps,
                     p.momentum,
                     p.act == Activation::relu};
  constexpr int most = 16 / sizeof(E);
  bool const wide = p.c % most == 0;
  std::int64_t const per_block = std::int64_t(threads) * together * (wide ? most : 1);
  unsigned const blocks = unsigned((p.elements() + per_block - 1) / per_block);
  std::size_t const shared = std::size_t(gradient ? 3 : 2) * std::size_t(p.c) * sizeof(T);
  if (gradient)
    wide ? one_pass<E, T, true, most><<<blocks, threads, shared, stream>>>(w)
         : one_pass<E, T, true, 1><<<blocks, threads, shared, stream>>>(w);
  else
    wide ? one_pass<E, T, false, most><<<blocks, threads, shared, stream>>>(w)
         : one_pass<E, T, false, 1><<<blocks, threads, shared, stream>>>(w);
  check_launch("batch_norm one_pass", p, stream);
}

void run(BatchNormProblem const& p, Config const&, BatchNormArgs const& a, View, Stream& stream) {
  auto const s = static_cast<cudaStream_t>(stream.cuda());
  if (p.image == DType::f64)
    launch<double, double>(p, a, s);
  else if (p.image == DType::f32)
    launch<float, float>(p, a, s);
  else
    launch<bf16, float>(p, a, s);
}

}  // namespace

extern Algorithm<BatchNormProblem> const batch_norm_cuda_one_pass = {
    .name = "one_pass", .target = DeviceKind::cuda, .reject = reject, .seconds = seconds, .run = run};

}  // namespace falconet
