// The algorithms of pooling.
#pragma once
#include "falconet/device/cpu/threads.h"
#include "falconet/ops/pool/problem.h"

namespace falconet {

Algorithm<PoolProblem> pool_channel_lanes_algorithm();
Algorithm<PoolProblem> pool_separable();
Algorithm<PoolProblem> pool_scatter();
Algorithm<PoolProblem> pool_unfold();
Algorithm<PoolProblem> pool_naive();
Algorithm<PoolProblem> pool_reference();

std::vector<Algorithm<PoolProblem>> pool_cuda_algorithms();   // cuda/; empty without CUDA in the build
TableOf<PoolProblem> const& pool_algorithms();   // best first, the reference last

}  // namespace falconet
