// The algorithms of copies.
#pragma once
#include "falconet/device/cpu/threads.h"
#include "falconet/ops/copy/problem.h"

namespace falconet {

Algorithm<CopyProblem> copy_rows();
Algorithm<CopyProblem> copy_blocks();
Algorithm<CopyProblem> copy_reference();

std::vector<Algorithm<CopyProblem>> copy_cuda_algorithms();   // cuda/; empty without CUDA in the build
TableOf<CopyProblem> const& copy_algorithms();   // best first, the reference last

}  // namespace falconet
