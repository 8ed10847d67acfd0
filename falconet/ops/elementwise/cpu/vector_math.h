// Activations on vectors of f32, for kernel halves. Relative errors against f64, measured by tests/test_elementwise.cpp: below
// 1e-6. The polynomials are our own least-maximum fits, made with 40 digits.
#pragma once
#include "falconet/device/cpu/simd.h"
#include "falconet/ops/fusion.h"

namespace falconet::FALCONET_ISA {

// max(x, floor) and min(x, ceiling), a NaN as x staying one: on x86 Max and Min return their second operand then.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V at_least(D, V floor, V x) {
#if HWY_TARGET == HWY_SCALAR
  return hn::IfThenElse(hn::Lt(x, floor), floor, x);
#else
  return hn::Max(floor, x);
#endif
}
template <class D, class V = hn::Vec<D>>
HWY_INLINE V at_most(D, V ceiling, V x) {
#if HWY_TARGET == HWY_SCALAR
  return hn::IfThenElse(hn::Gt(x, ceiling), ceiling, x);
#else
  return hn::Min(ceiling, x);
#endif
}

// e^x for x clamped to [-87.3, 88.3]: x = q ln 2 + r with |r| <= ln(2)/2, e^r = 1 + r + r^2 p(r), error of the fit 4e-9.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exponential(D d, V x) {
  hn::RebindToSigned<D> const di;
  x = at_most(d, hn::Set(d, 88.3f), at_least(d, hn::Set(d, -87.3f), x));
  V const q = hn::Round(hn::Mul(x, hn::Set(d, 1.44269504f)));
  V r = hn::NegMulAdd(q, hn::Set(d, 0.693145751953125f), x);  // ln 2 in two parts: the first has 16 bits
  r = hn::NegMulAdd(q, hn::Set(d, 1.42860677e-6f), r);
  V p = hn::MulAdd(hn::Set(d, 1.3813142358e-03f), r, hn::Set(d, 8.3694190433e-03f));
  p = hn::MulAdd(p, r, hn::Set(d, 4.1668456833e-02f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.6666514789e-01f));
  p = hn::MulAdd(p, r, hn::Set(d, 4.9999993050e-01f));
  V const e = hn::Add(hn::MulAdd(p, hn::Mul(r, r), r), hn::Set(d, 1.0f));
  auto const power = hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(di, q), hn::Set(di, 127)));
  return hn::Mul(e, hn::BitCast(d, power));
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V sigmoid(D d, V x) {
  V const one = hn::Set(d, 1.0f);
  return hn::Div(one, hn::Add(one, exponential(d, hn::Neg(x))));
}

// |x| < 0.65: x + x^3 p(x^2), error of the fit 7e-9; else 1 - 2 / (e^(2|x|) + 1) with the sign of x.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V hyperbolic_tangent(D d, V x) {
  V const one = hn::Set(d, 1.0f), a = hn::Abs(x), s = hn::Mul(x, x);
  V p = hn::MulAdd(hn::Set(d, -5.5286246080e-03f), s, hn::Set(d, 2.0483306538e-02f));
  p = hn::MulAdd(p, s, hn::Set(d, -5.3692964524e-02f));
  p = hn::MulAdd(p, s, hn::Set(d, 1.3330899709e-01f));
  p = hn::MulAdd(p, s, hn::Set(d, -3.3333262880e-01f));
  V const small = hn::MulAdd(hn::Mul(p, s), x, x);
  V const large = hn::Sub(one, hn::Div(hn::Set(d, 2.0f), hn::Add(exponential(d, hn::Add(a, a)), one)));
  return hn::IfThenElse(hn::Lt(a, hn::Set(d, 0.65f)), small, hn::CopySignToAbs(large, x));
}

// The standard normal distribution: phi(x), and density = e^(-x^2/2). With a = |x| and t = 1 / (1 + 0.35 a) the tail is
// 1 - phi(a) = e^(-a^2/2) t p(t), relative error of the fit 4e-8. The square is split so that its rounding does not enter the
// exponent: a = high + low, a^2 = high^2 + (a - high)(a + high), where high has 12 bits and its square is exact.
template <class V>
struct Normal {
  V phi, density;
};
template <class D, class V = hn::Vec<D>>
HWY_INLINE Normal<V> normal_distribution(D d, V x) {
  hn::RebindToUnsigned<D> const du;
  V const one = hn::Set(d, 1.0f), half = hn::Set(d, 0.5f), a = at_most(d, hn::Set(d, 13.0f), hn::Abs(x));
  V const high = hn::BitCast(d, hn::And(hn::BitCast(du, a), hn::Set(du, 0xfffff000u)));
  V const rest = hn::Mul(hn::Mul(hn::Sub(a, high), hn::Add(a, high)), half);
  V correction = hn::NegMulAdd(rest, hn::Set(d, 1.0f / 3), one);  // e^-rest to the third power
  correction = hn::NegMulAdd(hn::Mul(rest, half), correction, one);
  correction = hn::NegMulAdd(rest, correction, one);
  V const density = hn::Mul(exponential(d, hn::Mul(hn::Mul(high, high), hn::Set(d, -0.5f))), correction);
  V const t = hn::Div(one, hn::MulAdd(a, hn::Set(d, 0.35f), one));
  V p = hn::MulAdd(hn::Set(d, -2.9125963441e-02f), t, hn::Set(d, 1.4387269639e-01f));
  p = hn::MulAdd(p, t, hn::Set(d, -2.5550547751e-01f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.5893028158e-01f));
  p = hn::MulAdd(p, t, hn::Set(d, -2.2937779083e-02f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.0543318785e-01f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.1985237951e-01f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.3985908937e-01f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.3962156946e-01f));
  V const tail = hn::Mul(hn::Mul(density, t), p);
  return {hn::IfThenElse(hn::Lt(x, hn::Zero(d)), tail, hn::Sub(one, tail)), density};
}

// y = act(x). A NaN stays one.
template <Activation act, class D, class V = hn::Vec<D>>
HWY_INLINE V activate_vector(D d, V x, [[maybe_unused]] V alpha) {
  if constexpr (act == Activation::relu)
    return at_least(d, hn::Zero(d), x);
  else if constexpr (act == Activation::leaky_relu)
    return hn::IfThenElse(hn::Gt(x, hn::Zero(d)), x, hn::Mul(alpha, x));
  else if constexpr (act == Activation::relu6)
    return at_most(d, hn::Set(d, 6.0f), at_least(d, hn::Zero(d), x));
  else if constexpr (act == Activation::gelu)
    return hn::Mul(x, normal_distribution(d, x).phi);
  else if constexpr (act == Activation::silu)
    return hn::Mul(x, sigmoid(d, x));
  else if constexpr (act == Activation::sigmoid)
    return sigmoid(d, x);
  else if constexpr (act == Activation::tanh)
    return hyperbolic_tangent(d, x);
  else
    return x;
}

// dx = dy act'(.), from the output y or, for gelu and silu, from the input x.
template <Activation act, class D, class V = hn::Vec<D>>
HWY_INLINE V activation_gradient_vector(D d, V dy, V kept, [[maybe_unused]] V alpha) {
  [[maybe_unused]] V const one = hn::Set(d, 1.0f), zero = hn::Zero(d);
  if constexpr (act == Activation::relu)
    return hn::IfThenElseZero(hn::Gt(kept, zero), dy);
  else if constexpr (act == Activation::leaky_relu)
    return hn::IfThenElse(hn::Gt(kept, zero), dy, hn::Mul(alpha, dy));
  else if constexpr (act == Activation::relu6)
    return hn::IfThenElseZero(hn::And(hn::Gt(kept, zero), hn::Lt(kept, hn::Set(d, 6.0f))), dy);
  else if constexpr (act == Activation::gelu) {
    auto const n = normal_distribution(d, kept);
    return hn::Mul(dy, hn::MulAdd(hn::Mul(kept, hn::Set(d, 0.398942280f)), n.density, n.phi));
  } else if constexpr (act == Activation::silu) {
    V const s = sigmoid(d, kept);
    return hn::Mul(dy, hn::Mul(s, hn::MulAdd(kept, hn::Sub(one, s), one)));
  } else if constexpr (act == Activation::sigmoid)
    return hn::Mul(dy, hn::Mul(kept, hn::Sub(one, kept)));
  else if constexpr (act == Activation::tanh)
    return hn::Mul(dy, hn::NegMulAdd(kept, kept, one));
  else
    return dy;
}

}  // namespace falconet::FALCONET_ISA
