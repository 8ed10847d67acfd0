// Batch norm applied to an image, and its gradient, in one launch with their vectors, channels last. A block stays with up to 256 channels:
// it computes their vectors in f64 while its first loads are under way, then walks over the image, 16 bytes per thread and tensor, a
// thread always at the same channels. The first block of a set of channels also writes what else there is
// per channel. The formulas stand in reference.cpp. Bound by memory: every image once.
#include <algorithm>
#include <type_traits>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/element.cuh"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/ops/batch_norm/algorithms.h"

namespace falconet {
namespace {

constexpr int threads = 256;
constexpr int most_channels = 256;          // of a block
// Vectors of one thread and tensor that are loaded before the first is used; what registers allow three blocks of a multiprocessor.
constexpr int together_of(bool gradient, int tensors) { return tensors == 1 ? 4 : gradient && tensors == 2 ? 3 : 2; }

template <class E, class T>
struct Work {
  E const *first, *second, *third;  // x, residual, - | dy, x, mask or the other batch norm's x
  E* y;
  T const *sums, *gamma, *beta, *dscale_shift;
  T *running_mean, *running_var, *dgamma, *dbeta;
  T const *other_sums, *other_gamma, *other_beta;   // of the residual's own batch norm
  T *other_running_mean, *other_running_var;
  T* scale_shift;      // written, or nothing
  std::uint8_t* bits;
  E* other_y;          // of two gradients at once, with what follows
  T const* other_dscale_shift;
  T *other_dgamma, *other_dbeta;
  StepState const* step;
  std::int64_t rows;   // pixels of all images
  int channels, sets;  // sets of channels: blocks s, s + sets, .. take set s
  int across, down;    // vectors of a set, and rows that the threads cover at a time
  double per_sample, eps, momentum;
  bool relu, relu6;
};

template <class T>
__device__ void update_running(T& mean, T& var, double momentum, double batch_mean, double batch_var, double count) {
  mean = T((1 - momentum) * double(mean) + momentum * batch_mean);
  var = T((1 - momentum) * double(var) + momentum * batch_var * count / fmax(count - 1, 1.0));
}

// norms: 2 where the residual has a batch norm of its own, or where the gradients of two are made from one dy.
template <class E, class T, bool gradient, int tensors, int norms, int v>
__global__ void __launch_bounds__(threads, 3) one_pass(Work<E, T> const w) {
  using P = Pack<E, v>;
  constexpr int together = together_of(gradient, tensors);
  // In pieces of 16 bytes, so that neighbouring threads read neighbouring ones: piece i of every thread, then piece i + 1.
  constexpr int piece = v > int(16 / sizeof(T)) ? int(16 / sizeof(T)) : v, pieces = v / piece;
  constexpr int held = gradient ? 3 * norms : norms + 1;
  __shared__ __align__(16) T vectors[held][most_channels];
  auto const place = [&](int at) { return at % v / piece * (most_channels / pieces) + at / v * piece + at % piece; };
  wait_for_work_ahead();
  int const set = blockIdx.x % w.sets, block = blockIdx.x / w.sets, blocks = gridDim.x / w.sets;
  int const first_channel = set * w.across * v, line = threadIdx.x / w.across, local = threadIdx.x % w.across * v, channel = first_channel + local;
  bool const mine = line < w.down && channel < w.channels;
  std::int64_t const rows = mine ? w.rows : 0, stride = std::int64_t(blocks) * w.down * together;
  std::int64_t row = std::int64_t(block) * w.down * together + line;
  P a[together], b[together], m[together];
  auto const fetch = [&] {
#pragma unroll
    for (int t = 0; t < together; ++t) {
      std::int64_t const r = row + t * w.down, i = r * w.channels + channel;
      if (r >= rows) continue;
      a[t] = *reinterpret_cast<P const*>(w.first + i);
      if constexpr (tensors > 1) b[t] = *reinterpret_cast<P const*>(w.second + i);
      if constexpr (tensors > 2) m[t] = *reinterpret_cast<P const*>(w.third + i);
    }
  };
  fetch();
  int const valid = w.step->valid_count;
  for (int at = threadIdx.x; at < w.across * v && first_channel + at < w.channels; at += threads) {
    int const c = first_channel + at;
    double const sum = double(w.sums[c]), squares = double(w.sums[w.channels + c]), gamma = double(w.gamma[c]);
    double const other = double(gradient ? w.dscale_shift[c] : w.beta[c]), dshift = gradient ? double(w.dscale_shift[w.channels + c]) : 0;
    double const count = double(max(valid, 1)) * w.per_sample, per = 1 / count, mean = sum * per,
                 var = fmax(squares * per - mean * mean, 0.0), inverse = rsqrt(var + w.eps);
    double const scale = gamma * inverse;
    vectors[0][place(at)] = T(scale);
    if constexpr (gradient) {
      double const g = other - mean * dshift, dvar = -0.5 * g * gamma * inverse * inverse * inverse,
                   dmean = -scale * dshift - 2 * mean * dvar;
      vectors[1][place(at)] = T(2 * dvar * per);
      vectors[2][place(at)] = T(dmean * per);
      if (block == 0) w.dgamma[c] = T(g * inverse), w.dbeta[c] = T(dshift);
      if constexpr (norms == 2) {
        double const its_mean = double(w.other_sums[c]) * per, its_inverse = rsqrt(fmax(double(w.other_sums[w.channels + c]) * per - its_mean * its_mean, 0.0) + w.eps);
        double const its_shift = double(w.other_dscale_shift[w.channels + c]), its_g = double(w.other_dscale_shift[c]) - its_mean * its_shift;
        double const its_scale = double(w.other_gamma[c]) * its_inverse, its_dvar = -0.5 * its_g * its_scale * its_inverse * its_inverse;
        vectors[3][place(at)] = T(its_scale);
        vectors[4][place(at)] = T(2 * its_dvar * per);
        vectors[5][place(at)] = T((-its_scale * its_shift - 2 * its_mean * its_dvar) * per);
        if (block == 0) w.other_dgamma[c] = T(its_g * its_inverse), w.other_dbeta[c] = T(its_shift);
      }
    } else {
      double shift = other - mean * scale;
      if (block == 0) update_running(w.running_mean[c], w.running_var[c], w.momentum, mean, var, count);
      if constexpr (norms == 2) {
        double const its_mean = double(w.other_sums[c]) * per, its_var = fmax(double(w.other_sums[w.channels + c]) * per - its_mean * its_mean, 0.0),
                     its_scale = double(w.other_gamma[c]) * rsqrt(its_var + w.eps);
        vectors[2][place(at)] = T(its_scale);
        shift += double(w.other_beta[c]) - its_mean * its_scale;
        if (block == 0) update_running(w.other_running_mean[c], w.other_running_var[c], w.momentum, its_mean, its_var, count);
      }
      vectors[1][place(at)] = T(shift);
      if (block == 0 && w.scale_shift) w.scale_shift[c] = T(scale), w.scale_shift[w.channels + c] = T(shift);
    }
  }
  __syncthreads();
  std::int64_t const end = std::int64_t(valid) * std::int64_t(w.per_sample);   // rows that count
  while (row < rows) {
    asm volatile("" ::: "memory");   // the vectors are read again for every row: there are not registers enough to keep them
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
      Pack<T, piece> of[held];
#pragma unroll
      for (int k = 0; k < held; ++k) of[k] = *reinterpret_cast<Pack<T, piece> const*>(vectors[k] + place(local + i * piece));
#pragma unroll
      for (int t = 0; t < together; ++t) {
        bool const counts = row + t * w.down < end;
#pragma unroll
        for (int j = 0; j < piece; ++j) {
          int const e = i * piece + j;
          T result;
          if constexpr (gradient) {
            T const dy = tensors > 2 && norms == 1 && !(load(m[t].e[e]) > T(0)) ? T(0) : T(load(a[t].e[e]));
            result = of[0].e[j] * dy + (of[1].e[j] * T(load(b[t].e[e])) + of[2].e[j]);
            if (!counts) result = T(0);
            if constexpr (norms == 2) {
              T const other = of[3].e[j] * dy + (of[4].e[j] * T(load(m[t].e[e])) + of[5].e[j]);
              put(m[t].e[e], counts ? other : T(0));
            }
          } else {
            T const residual = tensors > 1 ? T(load(b[t].e[e])) : T(0);
            result = of[0].e[j] * T(load(a[t].e[e])) + of[1].e[j] + (norms == 2 ? of[2].e[j] * residual : residual);
            if (w.relu) result = result < T(0) ? T(0) : result;
            if (w.relu6) result = result > T(6) ? T(6) : result;
          }
          put(a[t].e[e], result);   // in the place of what it was made of
        }
      }
    }
#pragma unroll
    for (int t = 0; t < together; ++t)
      if (row + t * w.down < rows) {
        std::int64_t const at = (row + t * w.down) * w.channels + channel;
        *reinterpret_cast<P*>(w.y + at) = a[t];
        if constexpr (gradient && norms == 2) *reinterpret_cast<P*>(w.other_y + at) = m[t];
        if constexpr (!gradient && v == 8) {
          if (w.bits) {
            unsigned passing = 0;
#pragma unroll
            for (int e = 0; e < v; ++e) passing |= load(a[t].e[e]) > T(0) ? 1u << e : 0u;
            w.bits[at / 8] = std::uint8_t(passing);
          }
        }
      }
    row += stride;
    fetch();
  }
}

std::string reject(BatchNormProblem const& p, DeviceFacts const&) {
  if (!p.applies()) return "batch norm applied to images only";
  if (p.layout != Layout::nhwc) return "nhwc only";
  if (p.c >= std::int64_t(1) << 31) return "2^31 channels or more";
  return {};
}
double seconds(BatchNormProblem const& p, DeviceFacts const&) { return 2.5e-6 + bytes_of(p.operands()) / 3.8e12; }

// Blocks that fill the card once, but no more than there is work for.
template <class E, class T, bool gradient, int tensors, int norms, int v>
void launch_form(BatchNormProblem const& p, Work<E, T> w, cudaStream_t stream) {
  static int const at_once = [] {
    int device = 0, multiprocessors = 0, blocks = 0;
    check_cuda(cudaGetDevice(&device), "cudaGetDevice", "");
    check_cuda(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute", "");
    check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, one_pass<E, T, gradient, tensors, norms, v>, threads, 0),
               "cudaOccupancyMaxActiveBlocksPerMultiprocessor", "");
    return std::max(1, multiprocessors * blocks);
  }();
  int const vectors = (w.channels + v - 1) / v;
  w.across = std::min(vectors, most_channels / v);
  w.down = threads / w.across;
  w.sets = (vectors + w.across - 1) / w.across;
  std::int64_t const tile = std::int64_t(w.down) * together_of(gradient, tensors), tiles = (w.rows + tile - 1) / tile;
  auto const blocks = std::min<std::int64_t>(tiles, std::max(1, at_once / w.sets));
  launch_ahead(one_pass<E, T, gradient, tensors, norms, v>, dim3(unsigned(blocks * w.sets)), dim3(threads), 0, 1, stream, w);
  check_launch("batch_norm one_pass", p, stream);
}

template <class E, class T>
void launch(BatchNormProblem const& p, BatchNormArgs const& a, cudaStream_t stream) {
  bool const gradient = p.function == BatchNormFunction::normalise_gradient;
  Work<E, T> const w{(gradient ? a.dy : a.x).as<E>(),
                     gradient     ? a.x.as<E>()
                     : p.residual ? a.residual.as<E>()
                                  : nullptr,
                     p.mask ? a.mask.as<E>() : p.pair ? a.pair_x.as<E>() : nullptr,
                     a.y.as<E>(),
                     a.sums.as<T>(),
                     a.gamma.as<T>(),
                     a.beta.as<T>(),
                     a.dscale_shift.as<T>(),
                     a.running_mean.as<T>(),
                     a.running_var.as<T>(),
                     a.dgamma.as<T>(),
                     a.dbeta.as<T>(),
                     a.residual_sums.as<T>(),
                     a.residual_gamma.as<T>(),
                     a.residual_beta.as<T>(),
                     a.residual_running_mean.as<T>(),
                     a.residual_running_var.as<T>(),
                     p.vectors ? a.scale_shift.as<T>() : nullptr,
                     p.bits ? a.bits.as<std::uint8_t>() : nullptr,
                     a.pair_y.as<E>(),
                     a.pair_dscale_shift.as<T>(),
                     a.pair_dgamma.as<T>(),
                     a.pair_dbeta.as<T>(),
                     a.step,
                     p.n * p.per_sample,
                     int(p.c),
                     1,
                     1,
                     1,
                     double(p.per_sample),
                     p.eps,
                     p.momentum,
                     p.act != Activation::none, p.act == Activation::relu6};
  constexpr int most = 16 / sizeof(E);
  if (w.rows == 0 || w.channels == 0) return;
  auto const wide = [&](auto vector) {
    constexpr int v = decltype(vector)::value;
    if (p.pair) launch_form<E, T, true, 3, 2, v>(p, w, stream);
    else if (gradient) w.third ? launch_form<E, T, true, 3, 1, v>(p, w, stream) : launch_form<E, T, true, 2, 1, v>(p, w, stream);
    else if (p.residual_norm) launch_form<E, T, false, 2, 2, v>(p, w, stream);
    else w.second ? launch_form<E, T, false, 2, 1, v>(p, w, stream) : launch_form<E, T, false, 1, 1, v>(p, w, stream);
  };
  p.c % most == 0 ? wide(std::integral_constant<int, most>{}) : wide(std::integral_constant<int, 1>{});
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
