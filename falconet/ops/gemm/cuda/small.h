// The matrix product of small networks on NVIDIA GPUs (f32, Hopper).
#pragma once
#include "falconet/ops/gemm/problem.h"

namespace falconet {

Algorithm<GemmProblem> gemm_cuda_small();

}  // namespace falconet
