// Matrix products in bf16 through the convolution's tensor-core kernels (Hopper).
#pragma once
#include "falconet/ops/gemm/problem.h"

namespace falconet {

Algorithm<GemmProblem> gemm_cuda_wgmma();

}  // namespace falconet
