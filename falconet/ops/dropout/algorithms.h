// The algorithms for dropout, best first.
#pragma once
#include "falconet/ops/dropout/problem.h"

namespace falconet {

extern Algorithm<DropoutProblem> const dropout_simd, dropout_reference;

std::vector<Algorithm<DropoutProblem>> dropout_cuda_algorithms();   // cuda/; empty without CUDA in the build
TableOf<DropoutProblem> const& dropout_algorithms();

}  // namespace falconet
