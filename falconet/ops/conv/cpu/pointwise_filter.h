// What pointwise.cpp asks of pointwise_filter.cpp: the filter gradient.
#pragma once
#include "falconet/ops/conv/problem.h"

namespace falconet::pointwise {

std::string filter_reject(ConvProblem const&);
std::size_t filter_scratch(ConvProblem const&);
double filter_seconds(ConvProblem const&, DeviceFacts const&);
void filter_run(ConvProblem const&, ConvArgs const&, View scratch, Stream&);

}  // namespace falconet::pointwise
