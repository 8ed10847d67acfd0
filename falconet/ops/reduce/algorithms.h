// The algorithms for reductions, best first.
#pragma once
#include "falconet/ops/reduce/problem.h"

namespace falconet {

extern Algorithm<ReduceProblem> const reduce_blocked, reduce_reference;

TableOf<ReduceProblem> const& reduce_algorithms();

}  // namespace falconet
