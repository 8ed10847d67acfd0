// Elementwise functions at the speed of memory: vectors of f32 (bf16 is widened on load and rounded on store), tasks of about 16384
// elements. Vectors per channel: where an image's channels lie together (nhwc, or hw = 1) the coefficients run along with x, expanded
// to a whole number of vectors where c is small and not a multiple of one; in nchw they are constants of a plane.
// Limits: f32 or bf16. Cost: every operand moved once.
#include <cstdint>

#include "falconet/device/cpu/isa.h"
#include "falconet/ops/fusion.h"

namespace falconet {

// One task. A unit is a row of c channels (rows), a plane of hw elements (planes) or an element (flat).
struct ElementwiseTask {
  enum Walk : std::uint8_t { flat, rows, planes };
  Activation act;
  Walk walk;
  bool broadcast;
  float alpha;  // slope, factor or value
  std::int64_t c, hw;
  std::int64_t begin, valid_end, end;  // units [valid_end, end) are zero
  void const *x, *b, *residual, *mask;
  float const* vectors;
  void* y;
};
struct ElementwiseKernels {
  using Kernel = void (*)(ElementwiseTask const&);
  struct {
    Kernel activation, activation_gradient, add, multiply, scale, fill, affine, affine_scale, sums_gradient, two_operand;
  } f32, bf16;
};
FALCONET_DECLARE_KERNELS(ElementwiseKernels, elementwise_kernels)

}  // namespace falconet

#ifdef FALCONET_ISA
#include "falconet/device/cpu/simd.h"
#include "falconet/device/cpu/vector_access.h"
#include "falconet/ops/elementwise/cpu/vector_math.h"

namespace falconet::FALCONET_ISA {
namespace {

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
constexpr D d;

// Calls body(access, p0, p1, p2) with `count` vectors per channel for all units in [begin, end).
template <int count, class Body>
HWY_INLINE void for_channels(ElementwiseTask const& t, std::int64_t begin, std::int64_t end, Body const& body) {
  std::int64_t const lanes = std::int64_t(hn::Lanes(d)), c = t.c;
  V const zero = hn::Zero(d);
  if (t.walk == ElementwiseTask::planes) {
    for (std::int64_t plane = begin; plane < end; ++plane) {
      float const* p = t.vectors + plane % c;
      V const p0 = hn::Set(d, p[0]), p1 = hn::Set(d, p[c]), p2 = count > 2 ? hn::Set(d, p[2 * c]) : zero;
      for_elements(plane * t.hw, (plane + 1) * t.hw, [&](auto at) { body(at, p0, p1, p2); });
    }
    return;
  }
  constexpr std::int64_t room = 1024;
  alignas(64) float expanded[count * room];
  float const* p = t.vectors;
  std::int64_t period = c, stride = c;
  if (c % lanes) {
    std::int64_t whole = c;
    while (whole % lanes) whole += c;
    if (whole <= room) {
      for (int row = 0; row < count; ++row)
        for (std::int64_t i = 0, from = 0; i < whole; ++i, from = from + 1 == c ? 0 : from + 1)
          expanded[row * room + i] = p[row * c + from];
      p = expanded, period = whole, stride = room;
    }
  }
  for (std::int64_t base = begin * c; base < end * c; base += period) {
    std::int64_t const n = period < end * c - base ? period : end * c - base;
    std::int64_t j = 0;
    for (; j + lanes <= n; j += lanes)
      body(Whole{base + j}, hn::LoadU(d, p + j), hn::LoadU(d, p + stride + j), count > 2 ? hn::LoadU(d, p + 2 * stride + j) : zero);
    if (j < n)
      body(Part{base + j, n - j}, load_part(d, p + j, n - j), load_part(d, p + stride + j, n - j),
           count > 2 ? load_part(d, p + 2 * stride + j, n - j) : zero);
  }
}

template <Activation a>
struct Act {
  static constexpr Activation act = a;
};
// Calls body with the activation as a constant.
template <class Body>
HWY_INLINE void with_activation(Activation act, Body const& body) {
  switch (act) {
    case Activation::none:
      body(Act<Activation::none>{});
      break;
    case Activation::relu:
      body(Act<Activation::relu>{});
      break;
    case Activation::leaky_relu:
      body(Act<Activation::leaky_relu>{});
      break;
    case Activation::relu6:
      body(Act<Activation::relu6>{});
      break;
    case Activation::gelu:
      body(Act<Activation::gelu>{});
      break;
    case Activation::silu:
      body(Act<Activation::silu>{});
      break;
    case Activation::sigmoid:
      body(Act<Activation::sigmoid>{});
      break;
    case Activation::tanh:
      body(Act<Activation::tanh>{});
      break;
  }
}
// An activation as a slot: none and relu are constants of the loop, the others are chosen for every vector.
HWY_NOINLINE V activate_slot(Activation act, V v, V alpha) {
  V out = v;
  with_activation(act, [&](auto a) { out = activate_vector<decltype(a)::act>(d, v, alpha); });
  return out;
}
struct Any {
  Activation act;
  V alpha;
  HWY_INLINE V operator()(V v) const { return activate_slot(act, v, alpha); }
};
struct None {
  HWY_INLINE V operator()(V v) const { return v; }
};
struct Relu {
  HWY_INLINE V operator()(V v) const { return at_least(d, hn::Zero(d), v); }
};
template <class Body>
HWY_INLINE void with_slot(Activation act, V alpha, Body const& body) {
  if (act == Activation::none)
    body(None{});
  else if (act == Activation::relu)
    body(Relu{});
  else
    body(Any{act, alpha});
}

template <class T>
void fill_units(ElementwiseTask const& t, std::int64_t begin, std::int64_t end, float value) {
  std::int64_t const unit = t.walk == ElementwiseTask::flat ? 1 : t.walk == ElementwiseTask::rows ? t.c : t.hw;
  V const v = hn::Set(d, value);
  for_elements(begin * unit, end * unit, [&](auto at) { at.put(static_cast<T*>(t.y), v); });
}

float to_f32(float v) { return v; }
float to_f32(bf16 v) { return to_float(v); }

template <class T>
void multiply_broadcast(ElementwiseTask const& t) {
  T const *x = static_cast<T const*>(t.x), *b = static_cast<T const*>(t.b);
  T* y = static_cast<T*>(t.y);
  for (std::int64_t unit = t.begin; unit < t.end; ++unit) {
    if (t.walk == ElementwiseTask::planes) {
      V const factor = hn::Set(d, to_f32(b[unit]));
      for_elements(unit * t.hw, (unit + 1) * t.hw, [&](auto at) { at.put(y, hn::Mul(at.get(x), factor)); });
    } else {
      T const* row = x + unit * t.c;
      T const* factors = b + unit / t.hw * t.c;
      T* out = y + unit * t.c;
      for_elements(0, t.c, [&](auto at) { at.put(out, hn::Mul(at.get(row), at.get(factors))); });
    }
  }
}

// The operands of a task as T.
template <class T>
struct Operands {
  T const *x, *b, *residual, *mask;
  T* y;
  V alpha;
  explicit Operands(ElementwiseTask const& t)
      : x(static_cast<T const*>(t.x)),
        b(static_cast<T const*>(t.b)),
        residual(static_cast<T const*>(t.residual)),
        mask(static_cast<T const*>(t.mask)),
        y(static_cast<T*>(t.y)),
        alpha(hn::Set(d, t.alpha)) {}
  template <class At>
  HWY_INLINE V kept(At at, V v) const {
    return hn::IfThenElseZero(hn::Gt(at.get(mask), hn::Zero(d)), v);
  }
};

template <class T>
void activation(ElementwiseTask const& t) {
  Operands<T> const o(t);
  with_activation(t.act, [&](auto a) {
    for_elements(t.begin, t.end, [&](auto at) { at.put(o.y, activate_vector<decltype(a)::act>(d, at.get(o.x), o.alpha)); });
  });
}
template <class T>
void activation_gradient(ElementwiseTask const& t) {
  Operands<T> const o(t);
  with_activation(t.act, [&](auto a) {
    for_elements(t.begin, t.end,
                 [&](auto at) { at.put(o.y, activation_gradient_vector<decltype(a)::act>(d, at.get(o.x), at.get(o.b), o.alpha)); });
  });
}
template <class T>
void add(ElementwiseTask const& t) {
  Operands<T> const o(t);
  with_slot(t.act, o.alpha, [&](auto act) {
    if (o.mask)
      for_elements(t.begin, t.end, [&](auto at) { at.put(o.y, o.kept(at, act(hn::Add(at.get(o.x), at.get(o.b))))); });
    else
      for_elements(t.begin, t.end, [&](auto at) { at.put(o.y, act(hn::Add(at.get(o.x), at.get(o.b)))); });
  });
}
template <class T>
void multiply(ElementwiseTask const& t) {
  Operands<T> const o(t);
  if (t.broadcast)
    multiply_broadcast<T>(t);
  else
    for_elements(t.begin, t.end, [&](auto at) { at.put(o.y, hn::Mul(at.get(o.x), at.get(o.b))); });
}
template <class T>
void scale(ElementwiseTask const& t) {
  Operands<T> const o(t);
  for_elements(t.begin, t.end, [&](auto at) { at.put(o.y, hn::Mul(o.alpha, at.get(o.x))); });
}
template <class T>
void fill(ElementwiseTask const& t) {
  fill_units<T>(t, t.begin, t.valid_end, t.alpha);
  fill_units<T>(t, t.valid_end, t.end, 0.0f);
}
template <class T>
void affine(ElementwiseTask const& t) {
  Operands<T> const o(t);
  with_slot(t.act, o.alpha, [&](auto act) {
    if (o.residual)
      for_channels<2>(t, t.begin, t.end, [&](auto at, V scale, V shift, V) {
        at.put(o.y, act(hn::Add(hn::MulAdd(scale, at.get(o.x), shift), at.get(o.residual))));
      });
    else
      for_channels<2>(t, t.begin, t.end, [&](auto at, V scale, V shift, V) { at.put(o.y, act(hn::MulAdd(scale, at.get(o.x), shift))); });
  });
}
template <class T>
void affine_scale(ElementwiseTask const& t) {
  Operands<T> const o(t);
  if (o.mask)
    for_channels<2>(t, t.begin, t.end, [&](auto at, V scale, V, V) { at.put(o.y, o.kept(at, hn::Mul(scale, at.get(o.x)))); });
  else
    for_channels<2>(t, t.begin, t.end, [&](auto at, V scale, V, V) { at.put(o.y, hn::Mul(scale, at.get(o.x))); });
}
template <class T>
void sums_gradient(ElementwiseTask const& t) {
  Operands<T> const o(t);
  for_channels<2>(t, t.begin, t.valid_end,
                  [&](auto at, V first, V second, V) { at.put(o.y, hn::MulAdd(hn::Add(second, second), at.get(o.x), first)); });
  fill_units<T>(t, t.valid_end, t.end, 0.0f);
}
template <class T>
void two_operand(ElementwiseTask const& t) {
  Operands<T> const o(t);
  if (o.mask)
    for_channels<3>(t, t.begin, t.valid_end,
                    [&](auto at, V a, V b, V c) { at.put(o.y, hn::MulAdd(a, o.kept(at, at.get(o.x)), hn::MulAdd(b, at.get(o.b), c))); });
  else
    for_channels<3>(t, t.begin, t.valid_end,
                    [&](auto at, V a, V b, V c) { at.put(o.y, hn::MulAdd(a, at.get(o.x), hn::MulAdd(b, at.get(o.b), c))); });
  fill_units<T>(t, t.valid_end, t.end, 0.0f);
}

}  // namespace

extern ElementwiseKernels const elementwise_kernels = {
    {activation<float>, activation_gradient<float>, add<float>, multiply<float>, scale<float>, fill<float>, affine<float>,
     affine_scale<float>, sums_gradient<float>, two_operand<float>},
    {activation<bf16>, activation_gradient<bf16>, add<bf16>, multiply<bf16>, scale<bf16>, fill<bf16>, affine<bf16>, affine_scale<bf16>,
     sums_gradient<bf16>, two_operand<bf16>}};

}  // namespace falconet::FALCONET_ISA

#else
#include <algorithm>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/elementwise/algorithms.h"

namespace falconet {
namespace {

using F = ElementwiseFunction;

std::string reject(ElementwiseProblem const& p, DeviceFacts const&) { return p.type == DType::f64 ? "computes in f32, not f64" : ""; }

ElementwiseTask::Walk walk_of(ElementwiseProblem const& p) {
  bool const per_channel =
      p.function == F::affine || p.function == F::affine_scale || p.function == F::sums_gradient || p.function == F::two_operand;
  if (!per_channel && !p.broadcast) return ElementwiseTask::flat;
  return p.layout == Layout::nhwc || p.hw == 1 ? ElementwiseTask::rows : ElementwiseTask::planes;
}

double seconds(ElementwiseProblem const& p, DeviceFacts const&) {
  bool const exponentials =
      p.act == Activation::gelu || p.act == Activation::silu || p.act == Activation::sigmoid || p.act == Activation::tanh;
  return bytes_of(p.operands()) / 1e10 + (exponentials ? 5e-10 : 0) * double(p.elements());
}

ElementwiseKernels::Kernel kernel_of(ElementwiseProblem const& p, Isa isa) {
  auto const& all = FALCONET_KERNELS(isa, elementwise_kernels);
  auto const& k = p.type == DType::bf16 ? all.bf16 : all.f32;
  switch (p.function) {
    case F::activation:
      return k.activation;
    case F::activation_gradient:
      return k.activation_gradient;
    case F::add:
      return k.add;
    case F::multiply:
      return k.multiply;
    case F::scale:
      return k.scale;
    case F::fill:
    case F::spread:
      return k.fill;
    case F::affine:
      return k.affine;
    case F::affine_scale:
      return k.affine_scale;
    case F::sums_gradient:
      return k.sums_gradient;
    case F::two_operand:
      return k.two_operand;
  }
  return nullptr;
}

void run(ElementwiseProblem const& p, Config const&, ElementwiseArgs const& a, View, Stream& stream) {
  auto const kernel = kernel_of(p, stream.isa());
  auto const walk = walk_of(p);
  std::int64_t const unit = walk == ElementwiseTask::flat ? 1 : walk == ElementwiseTask::rows ? p.c : p.hw;
  std::int64_t const units = p.elements() / unit, per_task = std::max<std::int64_t>(1, 16384 / unit);
  std::int64_t const valid = a.step ? std::clamp<std::int64_t>(a.step->valid_count, 0, p.n) * (p.c * p.hw) / unit : units;
  ElementwiseTask all{p.act,       walk,
                      p.broadcast, float(p.alpha),
                      p.c,         p.hw,
                      0,           0,
                      0,           a.x.data,
                      a.b.data,    a.residual.data,
                      a.mask.data, p.function == F::spread ? nullptr : a.vectors.as<float const>(),
                      a.y.data};
  if (p.function == F::spread) {
    double const value = p.alpha * double(a.vectors.as<float const>()[0]);
    all.alpha = float(p.valid_only ? value / double(std::max(a.step->valid_count, 1)) : value);
  }
  stream.threads().run(int((units + per_task - 1) / per_task), [&](int task) {
    ElementwiseTask t = all;
    t.begin = task * per_task;
    t.end = std::min(units, t.begin + per_task);
    t.valid_end = std::clamp(valid, t.begin, t.end);
    kernel(t);
  });
}

}  // namespace

extern Algorithm<ElementwiseProblem> const elementwise_simd = {
    .name = "simd", .target = DeviceKind::cpu, .reject = reject, .seconds = seconds, .run = run};

}  // namespace falconet
#endif
