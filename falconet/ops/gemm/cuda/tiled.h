// The matrix product of any size and type on the ordinary cores of NVIDIA GPUs.
#pragma once
#include "falconet/ops/gemm/problem.h"

namespace falconet {

Algorithm<GemmProblem> gemm_cuda_tiled();

}  // namespace falconet
