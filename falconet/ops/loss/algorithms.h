// The algorithms of losses.
#pragma once
#include "falconet/device/cpu/threads.h"
#include "falconet/ops/loss/problem.h"

namespace falconet {

Algorithm<LossProblem> loss_lanes();
Algorithm<LossProblem> loss_reference();

std::vector<Algorithm<LossProblem>> loss_cuda_algorithms();   // cuda/; empty without CUDA in the build
TableOf<LossProblem> const& loss_algorithms();   // best first, the reference last

}  // namespace falconet
