// The blocked matrix product for other kernels: operands as they lie in memory, no slots. ops/gemm/README.md has the method.
#pragma once
#include <cstdint>

#include "falconet/device/device.h"
#include "falconet/tensor/tensor.h"

namespace falconet {

// y[m,n] = op_a(a)[m,k] op_b(b)[k,n], row-major and dense; f32 or bf16, sums in f32.
struct BlockedProduct {
  std::int64_t m = 1, n = 1, k = 1;
  bool trans_a = false, trans_b = false;
  DType a_type = DType::f32, b_type = DType::f32, y_type = DType::f32;
};
std::size_t blocked_product_scratch(BlockedProduct const&);                  // bytes
double blocked_product_seconds(BlockedProduct const&, DeviceFacts const&);   // an estimate on one core
void blocked_product(BlockedProduct const&, void const* a, void const* b, void* y, View scratch, Stream&);

}  // namespace falconet
