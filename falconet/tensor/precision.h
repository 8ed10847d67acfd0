// What a network is computed in: the type of activations and arithmetic, and whether convolutions may round their factors.
#pragma once
#include "falconet/tensor/tensor_type.h"

namespace falconet {

// exact: products of the operands as they are. tf32: an algorithm may round both factors of a product to TF32 (8 bits of exponent, 10 of
// mantissa, as NVIDIA's tensor cores read them); operands, sums and results stay f32. It is a permission: exact algorithms may run it, too.
enum class Math : std::uint8_t { exact, tf32 };

struct Precision {
  DType type = DType::f32;                            // f32, bf16 (f32 masters) or f64
  Math math = Math::exact;                            // tf32 beside f32 only
  constexpr Precision(DType type = DType::f32, Math math = Math::exact) : type(type), math(math) {}
  bool operator==(Precision const&) const = default;
};
inline constexpr Precision tf32{DType::f32, Math::tf32};   // f32 with products of convolutions in TF32, on NVIDIA GPUs

std::string_view name(Precision);                     // "f32", "tf32", "bf16", "f64"
Precision parse_precision(std::string_view);          // throws a usage error naming the known ones

}  // namespace falconet
