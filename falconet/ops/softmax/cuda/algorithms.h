// The softmax algorithms that run on NVIDIA GPUs.
#pragma once
#include "falconet/ops/softmax/algorithms.h"

namespace falconet {

extern Algorithm<SoftmaxProblem> const softmax_cuda_registers;   // channels side by side, a row kept in registers: read once
extern Algorithm<SoftmaxProblem> const softmax_cuda_online;      // channels side by side, maximum and sum in one pass: read twice
extern Algorithm<SoftmaxProblem> const softmax_cuda_columns;     // channels of a place apart (nchw images): neighbouring places side by side
extern Algorithm<SoftmaxProblem> const softmax_cuda_warp;        // any, a warp per row
extern Algorithm<SoftmaxProblem> const softmax_cuda_naive;       // any, a thread per row

}  // namespace falconet
