// The algorithm of implicit_gemm_3xtf32.cu, for the table of algorithms.cpp, and what it shares with unstaged_mma.
#pragma once
#include "falconet/ops/conv/problem.h"

namespace falconet {

extern Algorithm<ConvProblem> const conv_cuda_implicit_gemm_3xtf32;   // any f32 nhwc problem without groups, tensor cores, f32's accuracy

// Why plans take no algorithm by itself whose f32 products are three of TF32 (docs/adr/0124).
inline std::string products_of_three(DeviceFacts const&) { return "each f32 product is three of TF32: a training step's losses leave f32's path sooner than they may"; }

}  // namespace falconet
