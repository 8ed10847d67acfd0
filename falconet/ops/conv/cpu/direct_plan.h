// Host half of the direct convolution: what direct.cpp asks of direct_filter.cpp and direct_unpool.cpp.
#pragma once
#include "falconet/ops/conv/problem.h"

namespace falconet {

// The same convolution in a form with longer rows: a filter as large as its image makes each image one pixel, and the pixels of
// a 1x1 convolution without stride can be counted in rows of any length. Memory and results are the same.
ConvProblem flattened(ConvProblem);

std::string direct_filter_reject(ConvProblem const&);
std::size_t direct_filter_scratch(ConvProblem const&);
void direct_filter_run(ConvProblem const&, ConvArgs const&, View scratch, Stream&);


bool direct_unpool_accepts(ConvProblem const&);
std::size_t direct_unpool_scratch(ConvProblem const&);
void direct_unpool_run(ConvProblem const&, ConvArgs const&, View scratch, Stream&);

}  // namespace falconet
