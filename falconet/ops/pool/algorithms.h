// The algorithms of pooling.
#pragma once
#include "falconet/device/cpu/threads.h"
#include "falconet/ops/pool/problem.h"

namespace falconet {

Algorithm<PoolProblem> pool_channel_lanes_algorithm();
Algorithm<PoolProblem> pool_reference();

TableOf<PoolProblem> const& pool_algorithms();   // best first, the reference last

}  // namespace falconet
