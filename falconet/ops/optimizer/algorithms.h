// The algorithms for the update of parameters, best first.
#pragma once
#include "falconet/ops/optimizer/problem.h"

namespace falconet {

extern Algorithm<OptimizerProblem> const optimizer_simd, optimizer_reference;

TableOf<OptimizerProblem> const& optimizer_algorithms();

}  // namespace falconet
