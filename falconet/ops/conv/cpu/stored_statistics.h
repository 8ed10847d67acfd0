// Host half of store_rows.h: a problem's store slots as StoredRows, and statistics of tasks added up.
#pragma once
#include "falconet/ops/conv/cpu/store_rows.h"
#include "falconet/ops/conv/problem.h"

namespace falconet {

// Why these store slots cannot be run so; empty when they can.
std::string stored_rows_refusal(ConvProblem const&);
// The slots and the operands, from the first element of the result on; `totals` where there are statistics.
StoredRows stored_rows_of(ConvProblem const&, ConvArgs const&, double* totals);

// Each of `tasks` tasks has 2 x (channels, rounded up to 16) doubles, 64-byte aligned.
std::size_t statistics_bytes(ConvProblem const&, int tasks);
void clear_statistics(ConvProblem const&, int tasks, double* totals, Stream&);
void add_statistics(ConvProblem const&, int tasks, double const* totals, ConvArgs const&, Stream&);   // in their order, into args.stats

}  // namespace falconet
