// The algorithms for reductions, best first.
#pragma once
#include "falconet/ops/reduce/problem.h"

namespace falconet {

extern Algorithm<ReduceProblem> const reduce_blocked, reduce_reference;

std::vector<Algorithm<ReduceProblem>> reduce_cuda_algorithms();   // cuda/; empty without CUDA in the build
TableOf<ReduceProblem> const& reduce_algorithms();

}  // namespace falconet
