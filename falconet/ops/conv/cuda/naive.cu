// The textbook convolution: one thread per element of the result, grid-stride, every direction, type, layout and slot.
//   y(n,p,q,k)  = sum over r,s,c of x(n, p*st_h - pad_top + r*d_h, q*st_w - pad_left + s*d_w, c) * w(k,r,s,c)
//   dx(n,h,w,c) = sum over the taps whose output lies on the stride's grid of dy(n,p,q,k) * w(k,r,s,c)
//   dw(k,r,s,c) = sum over n,p,q of dy(n,p,q,k) * x(n,h,w,c): one block per element, summed in a fixed order
// Arithmetic in f64 for f64 and in f32 for f32 and bf16 (whose dw may be f32); statistics are summed in f64. Cost: 2 n k p q (c/groups) r s operations, no
// reuse beyond the caches. It is the truth on the device and the fallback for whatever no other algorithm accepts.
#include <algorithm>
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/ops/conv/cuda/algorithms.h"

namespace falconet {
namespace {

constexpr int most_threads = 1024;       // a power of two by pin, 256 otherwise

// The problem as kernels see it: plain integers and pointers. Channels-last or channels-first is a matter of strides.
struct Strides {
  std::int64_t n, c, h, w;
  __host__ __device__ std::int64_t at(std::int64_t i, std::int64_t j, std::int64_t y, std::int64_t x) const { return i * n + j * c + y * h + x * w; }
};
Strides strides_of(Layout layout, std::int64_t channels, std::int64_t height, std::int64_t width) {
  if (layout == Layout::nhwc) return {channels * height * width, 1, width * channels, channels};
  return {channels * height * width, height * width, width, 1};
}

struct Geometry {
  int n, c, h, w, k, r, s, p, q, pad_h, pad_w, st_h, st_w, d_h, d_w, c_group, k_group, stored_p, stored_q, pool;
  Strides x, filter, y;      // y as it lies in memory: pooled where a pooling slot says so
};
struct Slots {
  Affine load_x, load_dy, store;
  Activation load_act, act;
  PoolSlot::Kind unpool;
  bool bias, residual;
  PoolSlot::Kind pool;
  Mask mask;
};
template <class E, class A>
struct Pointers {
  E *x, *filter, *y, *residual, *mask, *other;
  A *bias, *load_x, *load_dy, *store_affine, *stats;
  std::uint8_t* winner;
  StepState const* step;
};

template <class A>
__device__ A load(double const* p, std::int64_t i) { return p[i]; }
template <class A>
__device__ A load(float const* p, std::int64_t i) { return p[i]; }
template <class A>
__device__ A load(bf16 const* p, std::int64_t i) { return to_float(p[i]); }
__device__ void store(double* p, std::int64_t i, double v) { p[i] = v; }
__device__ void store(float* p, std::int64_t i, float v) { p[i] = v; }
__device__ void store(bf16* p, std::int64_t i, float v) { p[i] = to_bf16(v); }

template <class E, class A>
__device__ A loaded_x(Geometry const& g, Slots const& slots, Pointers<E, A> const& a, int n, int c, int h, int w) {
  A v = load<A>(a.x, g.x.at(n, c, h, w));
  if (slots.load_x == Affine::scale_shift) v = a.load_x[c] * v + a.load_x[g.c + c];
  return activate(slots.load_act, v);
}
template <class E, class A>
__device__ A loaded_dy(Geometry const& g, Slots const& slots, Pointers<E, A> const& a, int n, int k, int p, int q) {
  if (slots.unpool) {
    int const pp = p / g.pool, qq = q / g.pool;
    if (pp >= g.stored_p || qq >= g.stored_q) return A(0);
    std::int64_t const i = g.y.at(n, k, pp, qq);
    return share_of_place(slots.unpool, g.pool, a.winner[i], (p % g.pool) * g.pool + q % g.pool, load<A>(a.y, i));
  }
  std::int64_t const i = g.y.at(n, k, p, q);
  A v = load<A>(a.y, i);
  if (slots.load_dy == Affine::two_operand) v = a.load_dy[k] * v + a.load_dy[g.k + k] * load<A>(a.other, i) + a.load_dy[2 * g.k + k];
  return v;
}

template <class E, class A>
__device__ A product_forward(Geometry const& g, Slots const& slots, Pointers<E, A> const& a, int n, int k, int p, int q) {
  A sum = 0;
  int const c0 = k / g.k_group * g.c_group;
  for (int r = 0; r < g.r; ++r) {
    int const h = p * g.st_h - g.pad_h + r * g.d_h;
    if (h < 0 || h >= g.h) continue;
    for (int s = 0; s < g.s; ++s) {
      int const w = q * g.st_w - g.pad_w + s * g.d_w;
      if (w < 0 || w >= g.w) continue;
      for (int c = 0; c < g.c_group; ++c) sum += loaded_x(g, slots, a, n, c0 + c, h, w) * load<A>(a.filter, g.filter.at(k, c, r, s));
    }
  }
  return sum;
}

template <class E, class A>
__device__ A product_data(Geometry const& g, Slots const& slots, Pointers<E, A> const& a, int n, int c, int h, int w) {
  A sum = 0;
  int const group = c / g.c_group, k0 = group * g.k_group;
  for (int r = 0; r < g.r; ++r) {
    int const ph = h + g.pad_h - r * g.d_h;
    if (ph < 0 || ph % g.st_h || ph / g.st_h >= g.p) continue;
    for (int s = 0; s < g.s; ++s) {
      int const qw = w + g.pad_w - s * g.d_w;
      if (qw < 0 || qw % g.st_w || qw / g.st_w >= g.q) continue;
      for (int k = 0; k < g.k_group; ++k)
        sum += loaded_dy(g, slots, a, n, k0 + k, ph / g.st_h, qw / g.st_w) * load<A>(a.filter, g.filter.at(k0 + k, c - group * g.c_group, r, s));
    }
  }
  return sum;
}

// The store slots up to the mask; i is the element's place in the result.
template <class E, class A>
__device__ A finished(Slots const& slots, Pointers<E, A> const& a, A v, int channel, int channels, std::int64_t i) {
  if (slots.store == Affine::scale_shift) v = a.store_affine[channel] * v + a.store_affine[channels + channel];
  if (slots.bias) v += a.bias[channel];
  if (slots.residual) v += load<A>(a.residual, i);
  v = activate(slots.act, v);
  if (slots.mask != Mask::none && !passes(slots.mask, load<A>(a.mask, i))) v = 0;
  return v;
}

template <class E, class A>
__global__ void __launch_bounds__(most_threads) naive_forward(Geometry g, Slots slots, Pointers<E, A> a) {
  std::int64_t const elements = std::int64_t(g.n) * g.k * g.stored_p * g.stored_q;
  for (std::int64_t e = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x; e < elements; e += std::int64_t(gridDim.x) * blockDim.x) {
    int const k = int(e % g.k), q = int(e / g.k % g.stored_q), p = int(e / g.k / g.stored_q % g.stored_p), n = int(e / g.k / g.stored_q / g.stored_p);
    std::int64_t const i = g.y.at(n, k, p, q);
    if (slots.pool == PoolSlot::none) {
      store(a.y, i, finished(slots, a, product_forward(g, slots, a, n, k, p, q), k, g.k, i));
      continue;
    }
    A best = 0, before = 0;   // before: the winner's value ahead of its activation; best: of the average the sum
    int winner = -1, passing = 0;
    Slots linear = slots;
    linear.act = Activation::none;
    for (int j = 0; j < g.pool * g.pool; ++j) {
      A const u = finished(linear, a, product_forward(g, slots, a, n, k, p * g.pool + j / g.pool, q * g.pool + j % g.pool), k, g.k, i);
      A const v = activate(slots.act, u);
      if (slots.pool == PoolSlot::average) best += v, passing |= int(activation_derivative(slots.act, u) != A(0)) << j;
      else if (winner < 0 || v > best || v != v) best = v, before = u, winner = j;
    }
    if (slots.pool == PoolSlot::average) {
      store(a.y, i, best / A(g.pool * g.pool));
      a.winner[i] = std::uint8_t(passing);
      continue;
    }
    store(a.y, i, best);
    a.winner[i] = activation_derivative(slots.act, before) == A(0) ? no_winner : std::uint8_t(winner);
  }
}

template <class E, class A>
__global__ void __launch_bounds__(most_threads) naive_data(Geometry g, Slots slots, Pointers<E, A> a) {
  std::int64_t const elements = std::int64_t(g.n) * g.c * g.h * g.w;
  for (std::int64_t e = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x; e < elements; e += std::int64_t(gridDim.x) * blockDim.x) {
    int const c = int(e % g.c), w = int(e / g.c % g.w), h = int(e / g.c / g.w % g.h), n = int(e / g.c / g.w / g.h);
    std::int64_t const i = g.x.at(n, c, h, w);
    store(a.x, i, finished(slots, a, product_data(g, slots, a, n, c, h, w), c, g.c, i));
  }
}

// Adds up one value per thread; the result is valid in thread 0. Fixed tree, so the same bytes every time.
template <class A>
__device__ A block_sum(A v) {
  __shared__ A partial[most_threads];
  __syncthreads();
  partial[threadIdx.x] = v;
  for (int half = int(blockDim.x) / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) partial[threadIdx.x] += partial[threadIdx.x + half];
  }
  return partial[0];
}

template <class F, class E, class A>
__global__ void __launch_bounds__(most_threads) naive_filter(Geometry g, Slots slots, Pointers<E, A> a, F* filter) {
  std::int64_t const elements = std::int64_t(g.k) * g.r * g.s * g.c_group, pixels = std::int64_t(g.n) * g.p * g.q;
  for (std::int64_t e = blockIdx.x; e < elements; e += gridDim.x) {
    int const c = int(e % g.c_group), s = int(e / g.c_group % g.s), r = int(e / g.c_group / g.s % g.r), k = int(e / g.c_group / g.s / g.r);
    A sum = 0;
    for (std::int64_t i = threadIdx.x; i < pixels; i += blockDim.x) {
      int const q = int(i % g.q), p = int(i / g.q % g.p), n = int(i / g.q / g.p);
      int const h = p * g.st_h - g.pad_h + r * g.d_h, w = q * g.st_w - g.pad_w + s * g.d_w;
      if (h < 0 || h >= g.h || w < 0 || w >= g.w) continue;
      sum += loaded_dy(g, slots, a, n, k, p, q) * loaded_x(g, slots, a, n, k / g.k_group * g.c_group + c, h, w);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) store(filter, g.filter.at(k, c, r, s), sum);
  }
}

template <class E, class A>
__global__ void __launch_bounds__(most_threads) naive_bias(Geometry g, Slots slots, Pointers<E, A> a) {
  std::int64_t const pixels = std::int64_t(g.n) * g.p * g.q;
  int const k = blockIdx.x;
  A sum = 0;
  for (std::int64_t i = threadIdx.x; i < pixels; i += blockDim.x)
    sum += loaded_dy(g, slots, a, int(i / g.q / g.p), k, int(i / g.q % g.p), int(i % g.q));
  sum = block_sum(sum);
  if (threadIdx.x == 0) a.bias[k] = sum;
}

// Channel sums of the stored result: squares (sum v, sum v*v) or dot (sum v*m, sum v), over the rows that are valid.
template <class E, class A>
__global__ void __launch_bounds__(most_threads) naive_stats(E const* v, E const* m, Strides at, int channels, int height, int width, bool dot, StepState const* step,
                                                       A* stats) {
  std::int64_t const pixels = std::int64_t(step->valid_count) * height * width;
  int const c = blockIdx.x;
  double first = 0, second = 0;
  for (std::int64_t i = threadIdx.x; i < pixels; i += blockDim.x) {
    std::int64_t const j = at.at(i / width / height, c, i / width % height, i % width);
    double const value = load<A>(v, j);
    first += dot ? value * load<A>(m, j) : value;
    second += dot ? value : value * value;
  }
  first = block_sum(first);
  second = block_sum(second);
  if (threadIdx.x == 0) stats[c] = A(first), stats[channels + c] = A(second);
}

std::string reject(ConvProblem const& p, DeviceFacts const&) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  bool const gradient_in_f32 = p.direction == Direction::bwd_filter && p.x_type == DType::bf16 && p.y_type == DType::bf16 && p.w_type == DType::f32;
  if (!p.one_type(p.x_type) && !gradient_in_f32) return "x, w and y have different types";
  if (p.x_type != DType::f64 && p.x_type != DType::f32 && p.x_type != DType::bf16) return "only f64, f32 and bf16";
  if (p.load_x.unpool.kind != PoolSlot::none) return "x cannot be read in pooled form";
  if (p.load_x.affine == Affine::two_operand) return "x has no second operand";
  if (p.load_dy.act != Activation::none) return "an activation of dy as it is read";
  if (p.load_dy.affine == Affine::scale_shift) return "dy is scaled with a second operand only";
  if (p.load_dy.affine != Affine::none && p.load_dy.unpool.kind != PoolSlot::none) return "dy is both scaled and unpooled";
  if (p.store.affine == Affine::two_operand) return "a result has no second operand";
  if (p.store.mask == Mask::bits) return "a mask as bits";
  auto const& s = p.store;
  if (p.direction == Direction::fwd && p.load_dy != OnLoad{}) return "forward reads no dy";
  if (p.direction == Direction::bwd_data && p.load_x != OnLoad{}) return "the data gradient reads no x";
  if (p.direction == Direction::bwd_data && (s.bias || s.pool.kind != PoolSlot::none)) return "the data gradient has no bias and no pooling";
  if (p.direction == Direction::bwd_filter && (s.affine != Affine::none || s.residual || s.act != Activation::none || s.mask != Mask::none ||
                                               s.pool.kind != PoolSlot::none || s.stats != Stats::none))
    return "the filter gradient stores dw and db alone";
  if (s.pool.kind != PoolSlot::none && (s.residual || s.mask != Mask::none || s.stats == Stats::dot || s.stats == Stats::dot_other)) return "pooling beside a residual or a mask";
  return {};
}

template <class E, class A>
void launch(ConvProblem const& p, Config const& config, ConvArgs const& args, cudaStream_t stream) {
  int const threads = config.get("threads", 256), wanted = config.get("blocks", 0);
  auto const blocks_for = [&](std::int64_t elements, int each) {
    return unsigned(wanted > 0 ? wanted : std::min<std::int64_t>((elements + each - 1) / each, 1 << 16));
  };
  bool const filter = p.direction == Direction::bwd_filter, data = p.direction == Direction::bwd_data;
  Geometry const g{p.n, p.c, p.h, p.w, p.k, p.r, p.s, p.p(), p.q(), p.pad_top, p.pad_left, p.stride_h, p.stride_w, p.dilation_h, p.dilation_w,
                   p.c / p.groups, p.k / p.groups, p.stored_p(), p.stored_q(), p.pool_size(),
                   strides_of(p.layout, p.c, p.h, p.w), strides_of(p.layout, p.c / p.groups, p.r, p.s), strides_of(p.layout, p.k, p.stored_p(), p.stored_q())};
  Slots const slots{p.load_x.affine, p.load_dy.affine, p.store.affine, p.load_x.act, p.store.act, p.load_dy.unpool.kind,
                    p.store.bias && !filter, p.store.residual, p.store.pool.kind, p.store.mask};
  Pointers<E, A> const a{args.x.as<E>(), args.w.as<E>(), args.y.as<E>(), args.residual.as<E>(), args.mask.as<E>(), args.load_dy_other.as<E>(),
                         args.bias.as<A>(), args.load_x.as<A>(), args.load_dy.as<A>(), args.store_affine.as<A>(), args.stats.as<A>(),
                         args.winner.as<std::uint8_t>(), args.step};
  if (filter) {
    std::int64_t const elements = std::int64_t(p.k) * p.r * p.s * (p.c / p.groups);
    if (p.w_type == DType::f32) naive_filter<<<blocks_for(elements, 1), threads, 0, stream>>>(g, slots, a, args.w.as<float>());
    else naive_filter<<<blocks_for(elements, 1), threads, 0, stream>>>(g, slots, a, a.filter);
    if (p.store.bias) naive_bias<E, A><<<unsigned(p.k), threads, 0, stream>>>(g, slots, a);
  } else if (data) {
    naive_data<E, A><<<blocks_for(std::int64_t(p.n) * p.c * p.h * p.w, threads), threads, 0, stream>>>(g, slots, a);
  } else {
    naive_forward<E, A><<<blocks_for(std::int64_t(p.n) * p.k * p.stored_p() * p.stored_q(), threads), threads, 0, stream>>>(g, slots, a);
  }
  if (p.store.stats != Stats::none)
    naive_stats<E, A><<<unsigned(data ? p.c : p.k), threads, 0, stream>>>(data ? a.x : a.y, p.store.stats == Stats::dot ? a.mask : args.other.as<E>(), data ? g.x : g.y, data ? p.c : p.k, data ? p.h : p.stored_p(),
                                                                      data ? p.w : p.stored_q(), p.store.stats != Stats::squares, args.step, a.stats);
  check_launch("conv naive", p, stream);
}

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View, Stream& stream) {
  auto const s = static_cast<cudaStream_t>(stream.cuda());
  if (p.x_type == DType::f64) launch<double, double>(p, config, args, s);
  else if (p.x_type == DType::f32) launch<float, float>(p, config, args, s);
  else launch<bf16, float>(p, config, args, s);
}

std::vector<LaunchRange> ranges(ConvProblem const&, DeviceFacts const&) { return {{"threads", 32, most_threads, true}, {"blocks", 1, 1 << 20, false}}; }

double seconds(ConvProblem const& p, DeviceFacts const&) {
  double const pixels = double(p.n) * p.p() * p.q();   // of a filter gradient: a block runs over all of them, element by element
  return 5e-6 + std::max(p.operations() / 5e11, p.direction == Direction::bwd_filter ? std::ceil(pixels / 256) * 0.6e-6 : 0);
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_naive{.name = "naive", .target = DeviceKind::cuda, .reject = reject, .seconds = seconds, .run = run, .baseline = true, .ranges = ranges};

}  // namespace falconet
