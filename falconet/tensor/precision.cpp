#include "falconet/tensor/precision.h"

#include "falconet/base/error.h"

namespace falconet {

std::string_view name(Precision p) { return p.math == Math::tf32 ? "tf32" : name(p.type); }
Precision parse_precision(std::string_view text) {
  for (Precision p : {Precision(DType::f32), tf32, Precision(DType::bf16), Precision(DType::f64)})
    if (name(p) == text) return p;
  fail(ErrorKind::usage, "unknown precision '" + std::string(text) + "'; known: f32 tf32 bf16 f64");
}

}  // namespace falconet
