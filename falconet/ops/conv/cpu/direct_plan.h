// Host half of the direct convolution: what direct.cpp asks of direct_filter.cpp and direct_unpool.cpp.
#pragma once
#include "falconet/ops/conv/problem.h"
#include "falconet/tensor/bf16.h"

namespace falconet {

// Whether sums over so many channels of bf16 are made of pairs of them (AVX512-BF16).
bool in_pairs(Isa, int channels);
// Rows 2i and 2i + 1 of `row` elements as row i of pairs, the even one in the lower half.
void join_rows(bf16 const* from, int rows, long row, float* to, Stream&);

// The same convolution in a form with longer rows: a filter as large as its image makes each image one pixel, and the pixels of
// a 1x1 convolution without stride can be counted in rows of any length. Memory and results are the same.
ConvProblem flattened(ConvProblem);

std::string direct_filter_reject(ConvProblem const&, Isa);
std::size_t direct_filter_scratch(ConvProblem const&);
void direct_filter_run(ConvProblem const&, ConvArgs const&, View scratch, Stream&);

bool direct_unpool_accepts(ConvProblem const&);
std::size_t direct_unpool_scratch(ConvProblem const&);
void direct_unpool_run(ConvProblem const&, ConvArgs const&, View scratch, Stream&);

}  // namespace falconet
