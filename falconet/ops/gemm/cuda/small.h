// The matrix products of small networks on NVIDIA GPUs (f32, Hopper).
#pragma once
#include "falconet/ops/gemm/problem.h"

namespace falconet {

Algorithm<GemmProblem> gemm_cuda_small();   // any
Algorithm<GemmProblem> gemm_cuda_dot();   // both operands contiguous along k: the linear layer forward

}  // namespace falconet
