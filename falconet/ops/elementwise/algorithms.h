// The algorithms for elementwise functions, best first.
#pragma once
#include "falconet/ops/elementwise/problem.h"

namespace falconet {

extern Algorithm<ElementwiseProblem> const elementwise_simd, elementwise_reference;

std::vector<Algorithm<ElementwiseProblem>> elementwise_cuda_algorithms();   // cuda/; empty without CUDA in the build
TableOf<ElementwiseProblem> const& elementwise_algorithms();

}  // namespace falconet
