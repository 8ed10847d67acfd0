// The algorithms for elementwise functions, best first.
#pragma once
#include "falconet/ops/elementwise/problem.h"

namespace falconet {

extern Algorithm<ElementwiseProblem> const elementwise_simd, elementwise_reference;

TableOf<ElementwiseProblem> const& elementwise_algorithms();

}  // namespace falconet
