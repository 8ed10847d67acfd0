// The algorithms of softmax.
#pragma once
#include "falconet/device/cpu/threads.h"
#include "falconet/ops/softmax/problem.h"

namespace falconet {

Algorithm<SoftmaxProblem> softmax_lanes();
Algorithm<SoftmaxProblem> softmax_stored();
Algorithm<SoftmaxProblem> softmax_online();
Algorithm<SoftmaxProblem> softmax_row_lanes();
Algorithm<SoftmaxProblem> softmax_naive();
Algorithm<SoftmaxProblem> softmax_reference();

std::vector<Algorithm<SoftmaxProblem>> softmax_cuda_algorithms();   // cuda/; empty without CUDA in the build
TableOf<SoftmaxProblem> const& softmax_algorithms();   // best first, the reference last

}  // namespace falconet
