// The algorithms for dropout, best first.
#pragma once
#include "falconet/ops/dropout/problem.h"

namespace falconet {

extern Algorithm<DropoutProblem> const dropout_simd, dropout_reference;

TableOf<DropoutProblem> const& dropout_algorithms();

}  // namespace falconet
