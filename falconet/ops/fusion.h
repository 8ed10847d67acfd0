// The slots through which neighbours are fused into an operation, each written once as a scalar function for host and device.
// Padding is zero AFTER the load slot. The store slots apply in the order in which OnStore lists them.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
#include <cmath>
#endif
#include "falconet/tensor/bf16.h"

namespace falconet {

enum class Activation : std::uint8_t { none, relu, leaky_relu, relu6, gelu, silu, sigmoid, tanh };

// scale_shift: v -> scale[channel] * v + shift[channel], vectors as one f32 tensor [2, channels].
// two_operand: (d, v) -> a[channel] * d + b[channel] * v + c[channel], vectors as one f32 tensor [3, channels]; v a second tensor.
enum class Affine : std::uint8_t { none, scale_shift, two_operand };

// relu: the result is kept where the mask tensor is positive and zero elsewhere; relu6: where it lies between 0 and 6. of_x: where the derivative of
// load_x's activation is one at the value it is applied to; x is read for it, no mask tensor, and that value is one multiply-add in f32 (f64 for f64).
// bits: relu's, given as bits: u8 [n, channels/8, h, w], whose bit i lets channel 8 c + i pass.
enum class Mask : std::uint8_t { none, relu, relu6, of_x, bits };

// squares: per channel (sum v, sum v*v) of the stored result. dot: per channel (sum v*m, sum v) with m the mask tensor: the
// gradient of a scale_shift pair. dot_other: the same with a tensor of its own in place of the mask: the sums of batch norm's gradient
// behind a ReLU, where m is the ReLU's result and o the input of the normalisation.
// dot_x: the same with x as it lies in memory, before load_x.
// f32 [2, channels]; rows at or past StepState.valid_count do not count.
enum class Stats : std::uint8_t { none, squares, dot, dot_other, dot_x };

// A pooling window without padding whose stride is its size. As a store slot: the map before pooling is never written, but the
// pooled map and a byte per pooled element, the winner. max: r*size + s of the maximum, or 255 if the activation's derivative is zero
// there. average (2x2 alone): bit r*size + s says that the activation's derivative is one at this place and not zero.
// As a load slot of dy (unpool): dy and the winner are read in their pooled form.
struct PoolSlot {
  enum Kind : std::uint8_t { none, max, average } kind = none;
  std::uint8_t size = 0;
  bool operator==(PoolSlot const&) const = default;
};

struct OnLoad {
  Affine affine = Affine::none;
  Activation act = Activation::none;
  PoolSlot unpool;
  bool operator==(OnLoad const&) const = default;
};

struct OnStore {
  Affine affine = Affine::none;
  bool bias = false;
  bool residual = false;
  Activation act = Activation::none;
  Mask mask = Mask::none;
  PoolSlot pool;
  Stats stats = Stats::none;
  bool operator==(OnStore const&) const = default;
};

constexpr std::uint8_t no_winner = 255;

// What place `here` = r*size + s of a window receives of the window's dy, given its winner.
template <class T>
FALCONET_HOST_DEVICE static inline T share_of_place(PoolSlot::Kind kind, int size, int winner, int here, T dy) {
  if (kind == PoolSlot::average) return winner >> here & 1 ? dy / T(size * size) : T(0);
  return winner == here ? dy : T(0);
}

// alpha: the negative slope of leaky_relu; unused elsewhere. gelu is the exact form, x * Phi(x), as PyTorch's default.
template <class T>
FALCONET_HOST_DEVICE static inline T activate(Activation act, T x, T alpha = T(0.01)) {
  switch (act) {
    case Activation::none: return x;
    case Activation::relu: return x < T(0) ? T(0) : x;   // a NaN stays visible
    case Activation::leaky_relu: return x > T(0) ? x : alpha * x;
    case Activation::relu6: return x < T(0) ? T(0) : x > T(6) ? T(6) : x;
    case Activation::gelu: return T(0.5) * x * (T(1) + erf(x * T(0.70710678118654752440)));
    case Activation::silu: return x / (T(1) + exp(-x));
    case Activation::sigmoid: return T(1) / (T(1) + exp(-x));
    case Activation::tanh: return tanh(x);
  }
  return x;
}

// Whether an element of the mask tensor lets its result pass.
template <class T>
FALCONET_HOST_DEVICE static inline bool passes(Mask mask, T m) {
  return mask == Mask::none || (m > T(0) && (mask == Mask::relu || m < T(6)));
}

// The derivative at input x. relu and relu6 take 0 at their corners, as PyTorch does.
template <class T>
FALCONET_HOST_DEVICE static inline T activation_derivative(Activation act, T x, T alpha = T(0.01)) {
  switch (act) {
    case Activation::none: return T(1);
    case Activation::relu: return x > T(0) ? T(1) : T(0);
    case Activation::leaky_relu: return x > T(0) ? T(1) : alpha;
    case Activation::relu6: return x > T(0) && x < T(6) ? T(1) : T(0);
    case Activation::gelu:
      return T(0.5) * (T(1) + erf(x * T(0.70710678118654752440))) + x * T(0.39894228040143267794) * exp(T(-0.5) * x * x);
    case Activation::silu: {
      T const s = T(1) / (T(1) + exp(-x));
      return s * (T(1) + x * (T(1) - s));
    }
    case Activation::sigmoid: {
      T const s = T(1) / (T(1) + exp(-x));
      return s * (T(1) - s);
    }
    case Activation::tanh: {
      T const t = tanh(x);
      return T(1) - t * t;
    }
  }
  return T(1);
}

}  // namespace falconet
