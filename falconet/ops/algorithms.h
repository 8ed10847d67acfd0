// Which operation has which table of algorithms. Asked by plan/, bench and tests; operations themselves do not know it.
#pragma once
#include <string_view>
#include <vector>

#include "falconet/ops/algorithm.h"

namespace falconet {

// The table of an operation ("conv", "gemm", "pool", ...); throws an internal error for an unknown one.
AlgorithmTable const& algorithms_of(std::string_view operation);
std::vector<std::string_view> operations_with_algorithms();

}  // namespace falconet
