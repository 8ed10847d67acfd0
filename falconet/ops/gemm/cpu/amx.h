// The packed matrix product (packed.h) on tiles of AMX, for operands that are both of bf16.
#pragma once
#include "falconet/ops/gemm/cpu/packed.h"

namespace falconet {

// emulated: by plain C++, on any machine; else has_amx() must hold and the instruction set be avx512.
GemmKernels const& gemm_amx_kernels_of(Isa, bool emulated);

}  // namespace falconet
