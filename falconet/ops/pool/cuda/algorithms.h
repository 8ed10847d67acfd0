// The pooling algorithms that run on NVIDIA GPUs.
#pragma once
#include "falconet/ops/pool/algorithms.h"

namespace falconet {

extern Algorithm<PoolProblem> const pool_cuda_normalised;   // maxima of 3x3 of a batch norm's input, which is normalised as it is read
extern Algorithm<PoolProblem> const pool_cuda_normalised_gradient;   // its gradient, on through that batch norm
extern Algorithm<PoolProblem> const pool_cuda_windows;   // maxima of 2x2 and 3x3, channels last: several windows a thread
extern Algorithm<PoolProblem> const pool_cuda_gather;    // any window, channels in vectors of 16 bytes where they lie so
extern Algorithm<PoolProblem> const pool_cuda_naive;     // any window, an element a thread

}  // namespace falconet
