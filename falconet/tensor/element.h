// One element of a view as a double, whatever its type: for references and tests, where clarity counts and speed does not.
#pragma once
#include "falconet/tensor/bf16.h"
#include "falconet/tensor/tensor.h"

namespace falconet {

// `index` counts elements as they lie in memory.
static inline double load_element(View const& v, std::int64_t index) {
  switch (v.type.dtype) {
    case DType::f64: return v.as<double>()[index];
    case DType::f32: return double(v.as<float>()[index]);
    case DType::bf16: return double(to_float(v.as<bf16>()[index]));
    case DType::u8: return double(v.as<std::uint8_t>()[index]);
    case DType::i32: return double(v.as<std::int32_t>()[index]);
  }
  return 0;
}
static inline void store_element(View const& v, std::int64_t index, double value) {
  switch (v.type.dtype) {
    case DType::f64: v.as<double>()[index] = value; return;
    case DType::f32: v.as<float>()[index] = float(value); return;
    case DType::bf16: v.as<bf16>()[index] = to_bf16(float(value)); return;
    case DType::u8: v.as<std::uint8_t>()[index] = std::uint8_t(value); return;
    case DType::i32: v.as<std::int32_t>()[index] = std::int32_t(value); return;
  }
}

// Where element (n,c,h,w) of an image tensor lies.
static inline std::int64_t position(TensorType const& t, std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) {
  auto const& s = t.shape;
  return t.layout == Layout::nhwc ? ((n * s[2] + h) * s[3] + w) * s[1] + c : ((n * s[1] + c) * s[2] + h) * s[3] + w;
}
// Where the element lies that is number `logical` in the logical, row-major order.
static inline std::int64_t position(TensorType const& t, std::int64_t logical) {
  if (t.layout == Layout::nchw) return logical;
  auto const C = t.shape[1], H = t.shape[2], W = t.shape[3];
  return position(t, logical / (C * H * W), logical / (H * W) % C, logical / W % H, logical % W);
}

}  // namespace falconet
