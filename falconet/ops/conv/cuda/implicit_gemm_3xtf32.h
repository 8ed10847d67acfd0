// The algorithm of implicit_gemm_3xtf32.cu, for the table of algorithms.cpp.
#pragma once
#include "falconet/ops/conv/problem.h"

namespace falconet {

extern Algorithm<ConvProblem> const conv_cuda_implicit_gemm_3xtf32;   // any f32 nhwc problem without groups, tensor cores, f32's accuracy

}  // namespace falconet
