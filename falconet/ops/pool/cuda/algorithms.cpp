#include "falconet/ops/pool/cuda/algorithms.h"

namespace falconet {

std::vector<Algorithm<PoolProblem>> pool_cuda_algorithms() { return {pool_cuda_normalised, pool_cuda_normalised_gradient, pool_cuda_windows, pool_cuda_gather, pool_cuda_naive}; }

}  // namespace falconet
