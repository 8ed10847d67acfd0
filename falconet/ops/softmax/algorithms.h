// The algorithms of softmax.
#pragma once
#include "falconet/device/cpu/threads.h"
#include "falconet/ops/softmax/problem.h"

namespace falconet {

Algorithm<SoftmaxProblem> softmax_lanes();
Algorithm<SoftmaxProblem> softmax_reference();

TableOf<SoftmaxProblem> const& softmax_algorithms();   // best first, the reference last

}  // namespace falconet
