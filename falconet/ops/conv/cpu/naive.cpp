// The textbook convolution: six nested loops over n, k, p, q, c and r, s, arithmetic in float (double for f64 tensors).
//   y(n,k,p,q) = sum_{c,r,s} x(n, c, p*stride - pad + r*dilation, q*stride - pad + s*dilation) * w(k,c,r,s)
// It is the baseline that the others are measured against and the file to read first. Any layout, stride, dilation, padding
// and grouping; of the slots only bias and activation. One task computes one channel of one image of the result.
// Cost: 2 n k p q (c/groups) r s operations, about one multiply-add per 4 cycles (each waits for the one before it).
#include <cmath>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/conv/algorithms.h"

namespace falconet {
namespace {

inline double load(double v) { return v; }
inline float load(float v) { return v; }
inline float load(bf16 v) { return to_float(v); }
inline void store(double& to, double v) { to = v; }
inline void store(float& to, float v) { to = v; }
inline void store(bf16& to, float v) { to = to_bf16(v); }

// A rank-4 tensor, indexed in PyTorch's order whatever its layout.
template <class T>
struct Grid {
  T* data;
  std::int64_t n, c, h, w;   // strides in elements
  explicit Grid(View const& v) : data(v.as<T>()) {
    auto const& s = v.type.shape;
    if (v.type.layout == Layout::nchw) w = 1, h = s[3], c = s[2] * s[3], n = s[1] * s[2] * s[3];
    else c = 1, w = s[1], h = s[3] * s[1], n = s[2] * s[3] * s[1];
  }
  T& operator()(std::int64_t in, std::int64_t ic, std::int64_t ih, std::int64_t iw) const { return data[in * n + ic * c + ih * h + iw * w]; }
};

template <class X, class W, class Y, class Real>   // Real: the type of the arithmetic and of per-channel vectors
struct Naive {
  ConvProblem const& p;
  Grid<X> x;
  Grid<W> w;
  Grid<Y> y;
  Real* bias;
  int const P = p.p(), Q = p.q(), CG = p.c / p.groups, KG = p.k / p.groups;

  Real finish(Real sum, int channel) const { return activate(p.store.act, p.store.bias ? sum + bias[channel] : sum); }

  void fwd(int n, int k) const {
    int const group = k / KG;
    for (int i = 0; i < P; ++i)
      for (int j = 0; j < Q; ++j) {
        Real sum = 0;
        for (int r = 0; r < p.r; ++r) {
          int const h = i * p.stride_h - p.pad_top + r * p.dilation_h;
          if (h < 0 || h >= p.h) continue;
          for (int s = 0; s < p.s; ++s) {
            int const v = j * p.stride_w - p.pad_left + s * p.dilation_w;
            if (v < 0 || v >= p.w) continue;
            for (int c = 0; c < CG; ++c) sum += load(x(n, group * CG + c, h, v)) * load(w(k, c, r, s));
          }
        }
        store(y(n, k, i, j), finish(sum, k));
      }
  }
  // dx(n,c,h,w): the sum over all outputs that read this pixel, each times the weight that it was read with.
  void bwd_data(int n, int c) const {
    int const group = c / CG;
    for (int h = 0; h < p.h; ++h)
      for (int v = 0; v < p.w; ++v) {
        Real sum = 0;
        for (int r = 0; r < p.r; ++r) {
          int const up = h + p.pad_top - r * p.dilation_h, i = up / p.stride_h;
          if (up < 0 || up % p.stride_h || i >= P) continue;
          for (int s = 0; s < p.s; ++s) {
            int const left = v + p.pad_left - s * p.dilation_w, j = left / p.stride_w;
            if (left < 0 || left % p.stride_w || j >= Q) continue;
            for (int k = group * KG; k < (group + 1) * KG; ++k) sum += load(y(n, k, i, j)) * load(w(k, c % CG, r, s));
          }
        }
        store(x(n, c, h, v), finish(sum, c));
      }
  }
  // dw(k,c,r,s) = sum_{n,p,q} x(at that tap) * dy(n,k,p,q); db(k) = sum_{n,p,q} dy(n,k,p,q).
  void bwd_filter(int k) const {
    int const group = k / KG;
    for (int c = 0; c < CG; ++c)
      for (int r = 0; r < p.r; ++r)
        for (int s = 0; s < p.s; ++s) {
          Real sum = 0;
          for (int n = 0; n < p.n; ++n)
            for (int i = 0; i < P; ++i) {
              int const h = i * p.stride_h - p.pad_top + r * p.dilation_h;
              if (h < 0 || h >= p.h) continue;
              for (int j = 0; j < Q; ++j) {
                int const v = j * p.stride_w - p.pad_left + s * p.dilation_w;
                if (v >= 0 && v < p.w) sum += load(x(n, group * CG + c, h, v)) * load(y(n, k, i, j));
              }
            }
          store(w(k, c, r, s), sum);
        }
    if (!p.store.bias) return;
    Real sum = 0;
    for (int n = 0; n < p.n; ++n)
      for (int i = 0; i < P; ++i)
        for (int j = 0; j < Q; ++j) sum += load(y(n, k, i, j));
    bias[k] = sum;
  }
};

template <class X, class W, class Y, class Real>
void run_as(ConvProblem const& p, ConvArgs const& args, Stream& stream) {
  Naive<X, W, Y, Real> const naive{p, Grid<X>(args.x), Grid<W>(args.w), Grid<Y>(args.y), args.bias.as<Real>()};
  ThreadPool& threads = stream.threads();
  switch (p.direction) {
    case Direction::fwd: return threads.run(p.n * p.k, [&](int task) { naive.fwd(task / p.k, task % p.k); });
    case Direction::bwd_data: return threads.run(p.n * p.c, [&](int task) { naive.bwd_data(task / p.c, task % p.c); });
    case Direction::bwd_filter: return threads.run(p.k, [&](int k) { naive.bwd_filter(k); });
  }
}

bool mixed(ConvProblem const& p) { return p.direction == Direction::bwd_filter && p.x_type == DType::bf16 && p.w_type == DType::f32 && p.y_type == DType::bf16; }

std::string reject(ConvProblem const& p, DeviceFacts const&) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  ConvProblem plain = p;
  plain.store.bias = false;
  plain.store.act = Activation::none;
  if (!plain.plain()) return "of the slots it has only bias and activation";
  if (!p.one_type(DType::f32) && !p.one_type(DType::f64) && !p.one_type(DType::bf16) && !mixed(p))
    return "element types are f32, f64, bf16, or bf16 with an f32 gradient of the weights";
  return {};
}
double seconds(ConvProblem const& p, DeviceFacts const&) { return 0.6e-9 * p.operations(); }

void run(ConvProblem const& p, Config const&, ConvArgs const& args, View, Stream& stream) {
  if (p.one_type(DType::f64)) run_as<double, double, double, double>(p, args, stream);
  else if (p.one_type(DType::f32)) run_as<float, float, float, float>(p, args, stream);
  else if (p.one_type(DType::bf16)) run_as<bf16, bf16, bf16, float>(p, args, stream);
  else run_as<bf16, float, bf16, float>(p, args, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_naive{
    .name = "naive", .target = DeviceKind::cpu, .reject = reject, .seconds = seconds, .run = run, .baseline = true};

}  // namespace falconet
