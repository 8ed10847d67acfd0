// Elementwise functions on an NVIDIA GPU: 16 bytes per thread and tensor where channels (or rows of an image) allow it, several loads in
// flight, arithmetic in f32 (f64 for f64). Bound by memory: every operand once.
#include <type_traits>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/element.cuh"
#include "falconet/ops/elementwise/algorithms.h"

namespace falconet {
namespace {

using F = ElementwiseFunction;
constexpr int threads = 256, together = 2;   // vectors of one thread, loaded before the first is used

template <class E, class A>
struct Work {
  E const *x, *b, *residual, *mask;
  E* y;
  A const* vectors;
  StepState const* step;
  std::int64_t elements, sample;   // elements in all, and of one sample
  int channels;
  bool nhwc, broadcast, has_residual, has_mask, valid_only;
  std::int64_t place;          // nchw: positions of one image
  Activation act;
  A alpha;
};

template <class A>
__device__ A derivative_from_output(Activation act, A y, A alpha) {
  switch (act) {
    case Activation::relu: return y > 0 ? A(1) : A(0);
    case Activation::leaky_relu: return y > 0 ? A(1) : alpha;
    case Activation::relu6: return y > 0 && y < 6 ? A(1) : A(0);
    case Activation::sigmoid: return y * (A(1) - y);
    case Activation::tanh: return A(1) - y * y;
    default: return A(1);
  }
}

constexpr bool reads_x(F f) { return f != F::fill && f != F::spread; }
constexpr bool reads_b(F f) { return f == F::activation_gradient || f == F::add || f == F::multiply || f == F::two_operand; }
constexpr bool may_residual(F f) { return f == F::affine; }
constexpr bool may_mask(F f) { return f == F::add || f == F::affine_scale || f == F::two_operand; }
constexpr bool per_channel(F f) { return f == F::affine || f == F::affine_scale || f == F::sums_gradient || f == F::two_operand; }
constexpr bool pads(F f) { return f == F::spread || f == F::sums_gradient || f == F::two_operand; }

template <class E, class A, F f, int v>
__global__ void __launch_bounds__(threads) elementwise(Work<E, A> const w) {
  using P = Pack<E, v>;
  std::int64_t const first = (blockIdx.x * std::int64_t(together) * threads + threadIdx.x) * v;
  P x[together], b[together], residual[together], mask[together];
#pragma unroll
  for (int t = 0; t < together; ++t) {
    std::int64_t const i = first + std::int64_t(t) * threads * v;
    if (i >= w.elements) continue;
    if constexpr (reads_x(f)) x[t] = *reinterpret_cast<P const*>(w.x + i);
    if constexpr (reads_b(f))
      if (!(f == F::multiply && w.broadcast)) b[t] = *reinterpret_cast<P const*>(w.b + i);
    if constexpr (may_residual(f))
      if (w.has_residual) residual[t] = *reinterpret_cast<P const*>(w.residual + i);
    if constexpr (may_mask(f))
      if (w.has_mask) mask[t] = *reinterpret_cast<P const*>(w.mask + i);
  }
  std::int64_t valid = w.elements;
  if constexpr (pads(f))
    if (w.step) valid = w.step->valid_count * w.sample;
#pragma unroll
  for (int t = 0; t < together; ++t) {
    std::int64_t const i = first + std::int64_t(t) * threads * v;
    if (i >= w.elements) continue;
    P y;
    int channel = 0;
    Pack<A, v> rows[3];                          // the vectors' elements for these channels
    if constexpr (per_channel(f)) {
      if (w.nhwc) channel = w.elements < std::int64_t(1) << 32 ? int(unsigned(i) % unsigned(w.channels)) : int(i % w.channels);
      else channel = int(i / w.place % w.channels);
#pragma unroll
      for (int row = 0; row < (f == F::two_operand ? 3 : f == F::affine_scale ? 1 : 2); ++row) {
        if (w.nhwc) rows[row] = *reinterpret_cast<Pack<A, v> const*>(w.vectors + row * w.channels + channel);
        else {
#pragma unroll
          for (int e = 0; e < v; ++e) rows[row].e[e] = w.vectors[row * w.channels + channel];
        }
      }
    }
#pragma unroll
    for (int e = 0; e < v; ++e) {
      bool const masked_out = may_mask(f) && w.has_mask && !(load(mask[t].e[e]) > A(0)), padding = pads(f) && i + e >= valid;
      auto const vector = [&](int row) { return rows[row].e[e]; };
      A r = 0;
      A const in = reads_x(f) ? A(load(x[t].e[e])) : A(0);
      if constexpr (f == F::activation) r = activate(w.act, in, w.alpha);
      if constexpr (f == F::activation_gradient) {
        A const kept = load(b[t].e[e]);
        r = in * (derives_from_output(w.act) ? derivative_from_output(w.act, kept, w.alpha) : activation_derivative(w.act, kept, w.alpha));
      }
      if constexpr (f == F::add) r = masked_out ? A(0) : activate(w.act, in + load(b[t].e[e]), w.alpha);
      if constexpr (f == F::multiply) {
        std::int64_t const n = (i + e) / w.sample, rest = (i + e) - n * w.sample;
        r = in * (w.broadcast ? A(load(w.b[n * w.channels + (w.nhwc ? rest % w.channels : rest / w.place)])) : A(load(b[t].e[e])));
      }
      if constexpr (f == F::scale) r = w.alpha * in;
      if constexpr (f == F::fill) r = w.alpha;
      if constexpr (f == F::spread) r = padding ? A(0) : w.alpha * w.vectors[0] / (w.valid_only ? A(w.step->valid_count) : A(1));
      if constexpr (f == F::affine) r = activate(w.act, vector(0) * in + vector(1) + (w.has_residual ? A(load(residual[t].e[e])) : A(0)), w.alpha);
      if constexpr (f == F::affine_scale) r = masked_out ? A(0) : vector(0) * in;
      if constexpr (f == F::sums_gradient) r = padding ? A(0) : vector(0) + 2 * vector(1) * in;
      if constexpr (f == F::two_operand) r = padding ? A(0) : (masked_out ? A(0) : vector(0) * in) + vector(1) * load(b[t].e[e]) + vector(2);
      put(y.e[e], r);
    }
    *reinterpret_cast<P*>(w.y + i) = y;
  }
}

std::string reject(ElementwiseProblem const& p, DeviceFacts const&) {
  if (p.type != DType::f64 && p.type != DType::f32 && p.type != DType::bf16) return "f64, f32 and bf16 only";
  if (p.c >= std::int64_t(1) << 31) return "2^31 channels or more";
  return {};
}

double seconds(ElementwiseProblem const& p, DeviceFacts const&) { return 2e-6 + bytes_of(p.operands()) / 3.8e12; }

template <class E, class A>
void launch(ElementwiseProblem const& p, ElementwiseArgs const& a, cudaStream_t stream) {
  bool const nhwc = p.layout == Layout::nhwc;
  Work<E, A> const w{a.x.as<E>(), a.b.as<E>(), a.residual.as<E>(), a.mask.as<E>(), a.y.as<E>(), a.vectors.as<A>(), a.step,
                     p.elements(), p.c * p.hw, int(p.c), nhwc, p.broadcast, p.residual, p.mask, p.valid_only, p.hw, p.act, A(p.alpha)};
  constexpr int most = 16 / sizeof(E);
  // A vector must not straddle channels of the first kind (nhwc: it holds several, nchw: one) or samples.
  bool const wide = (nhwc ? p.c : p.hw) % most == 0;
  auto const go = [&](auto function) {
    constexpr F f = decltype(function)::value;
    std::int64_t const per_block = std::int64_t(threads) * together * (wide ? most : 1);
    unsigned const blocks = unsigned((p.elements() + per_block - 1) / per_block);
    if (wide) elementwise<E, A, f, most><<<blocks, threads, 0, stream>>>(w);
    else elementwise<E, A, f, 1><<<blocks, threads, 0, stream>>>(w);
  };
#define FALCONET_CASE(name) \
  case F::name: go(std::integral_constant<F, F::name>{}); break
  switch (p.function) {
    FALCONET_CASE(activation);
    FALCONET_CASE(activation_gradient);
    FALCONET_CASE(add);
    FALCONET_CASE(multiply);
    FALCONET_CASE(scale);
    FALCONET_CASE(fill);
    FALCONET_CASE(spread);
    FALCONET_CASE(affine);
    FALCONET_CASE(affine_scale);
    FALCONET_CASE(sums_gradient);
    FALCONET_CASE(two_operand);
  }
#undef FALCONET_CASE
  check_launch("elementwise vectors", p, stream);
}

void run(ElementwiseProblem const& p, Config const&, ElementwiseArgs const& a, View, Stream& stream) {
  auto const s = static_cast<cudaStream_t>(stream.cuda());
  if (p.type == DType::f64) launch<double, double>(p, a, s);
  else if (p.type == DType::f32) launch<float, float>(p, a, s);
  else launch<bf16, float>(p, a, s);
}

}  // namespace

std::vector<Algorithm<ElementwiseProblem>> elementwise_cuda_algorithms() {
  return {{.name = "vectors", .target = DeviceKind::cuda, .reject = reject, .seconds = seconds, .run = run}};
}

}  // namespace falconet
