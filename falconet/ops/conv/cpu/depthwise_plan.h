// Host half of depthwise_filter.cpp, for depthwise.cpp, which it belongs to.
#pragma once
#include "falconet/ops/conv/problem.h"

namespace falconet {

std::size_t depthwise_filter_scratch(ConvProblem const&);
void depthwise_filter_run(ConvProblem const&, ConvArgs const&, View scratch, Stream&);

}  // namespace falconet
