// What tiled.cu and tiled_filter.cu share.
#pragma once
#include "falconet/ops/conv/problem.h"

namespace falconet::tiled {

// The filter gradient (tiled_filter.cu).
std::string reject_filter(ConvProblem const&);
std::size_t scratch_filter(ConvProblem const&);
double seconds_filter(ConvProblem const&);
void run_filter(ConvProblem const&, ConvArgs const&, View scratch, Stream&);

}  // namespace falconet::tiled
