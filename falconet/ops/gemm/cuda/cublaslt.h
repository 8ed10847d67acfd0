// The matrix product by cuBLASLt: a rival.
#pragma once
#include "falconet/ops/gemm/problem.h"

namespace falconet {

// f32 without slots. reject loads the library.
Algorithm<GemmProblem> gemm_cuda_cublaslt();

}  // namespace falconet
