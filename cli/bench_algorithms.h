// Rows of `bench conv` and its like, and the picture of them.
#pragma once
#include <string>
#include <vector>

#include "cli/measure.h"

namespace falconet::cli {

struct BenchRow {
  std::string problem, algorithm, config, device = "cpu";
  std::string refusal;  // why it did not run; then the figures below mean nothing
  int threads = 1, repetitions = 0;
  Spread seconds;
  double limit = 0;   // seconds
  double error = -1;  // relative to f64; negative: not computed
  double ratio = 1;   // to the best of the same problem and thread count
};

// A group of bars for every problem (and thread count): each algorithm's median, and the limit, on a logarithmic axis.
std::string bench_picture(std::string const& title, std::vector<BenchRow> const& rows);

}  // namespace falconet::cli
