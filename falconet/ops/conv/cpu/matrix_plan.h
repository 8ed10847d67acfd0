// What matrix.cpp asks of matrix_filter.cpp.
#pragma once
#include "falconet/ops/conv/problem.h"

namespace falconet::matrix {

inline std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
inline std::int64_t round_up(std::int64_t a, std::int64_t b) { return divide_up(a, b) * b; }
inline int floor_divide(int a, int b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

std::size_t filter_scratch(ConvProblem const&);
void filter_run(ConvProblem const&, ConvArgs const&, View scratch, Stream&);

}  // namespace falconet::matrix
