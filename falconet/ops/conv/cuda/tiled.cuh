// What tiled.cu, tiled_filter.cu and tiled_pointwise.cu share.
#pragma once
#include "falconet/ops/conv/problem.h"

namespace falconet::tiled {

// The filter gradient (tiled_filter.cu).
std::string reject_filter(ConvProblem const&);
std::size_t scratch_filter(ConvProblem const&);
double seconds_filter(ConvProblem const&);
void run_filter(ConvProblem const&, ConvArgs const&, View scratch, Stream&);
// dw[e] = partial[0][e] + partial[1][e] + ..., always in the same order.
void add_parts_of_filter(float const* partial, int parts, int elements, float* dw, Stream&);

// That of 1x1 filters (tiled_pointwise.cu).
std::string reject_pointwise_filter(ConvProblem const&);
std::size_t scratch_pointwise_filter(ConvProblem const&);
double seconds_pointwise_filter(ConvProblem const&);
void run_pointwise_filter(ConvProblem const&, ConvArgs const&, View scratch, Stream&);

}  // namespace falconet::tiled
