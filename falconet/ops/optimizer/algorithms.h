// The algorithms for the update of parameters, best first.
#pragma once
#include "falconet/ops/optimizer/problem.h"

namespace falconet {

extern Algorithm<OptimizerProblem> const optimizer_simd, optimizer_reference;

std::vector<Algorithm<OptimizerProblem>> optimizer_cuda_algorithms();   // cuda/; empty without CUDA in the build
TableOf<OptimizerProblem> const& optimizer_algorithms();

}  // namespace falconet
