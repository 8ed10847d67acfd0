// The algorithms for batch norm's vectors, best first.
#pragma once
#include "falconet/ops/batch_norm/problem.h"

namespace falconet {

extern Algorithm<BatchNormProblem> const batch_norm_reference;
extern Algorithm<BatchNormProblem> const batch_norm_cuda_one_pass;   // images and vectors in one launch

std::vector<Algorithm<BatchNormProblem>> batch_norm_cuda_algorithms();   // cuda/; empty without CUDA in the build
TableOf<BatchNormProblem> const& batch_norm_algorithms();

}  // namespace falconet
