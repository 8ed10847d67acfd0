// Rows of `bench conv` and its like, and the picture of them.
#pragma once
#include <string>
#include <vector>

#include "cli/measure.h"

namespace falconet::cli {

struct BenchRow {
  std::string problem, algorithm, config, device = "cpu";
  std::string name;     // in pictures: the algorithm, and its config and layout where one stands beside others
  std::string category; // in pictures: the problem, without its layout where several stand side by side
  std::string refusal;  // why it did not run; then the figures below mean nothing
  int threads = 1, repetitions = 0;
  Spread seconds;
  double limit = 0;   // seconds
  double operations = 0, bytes = 0;   // of the problem: its mathematics, its operands moved once
  double estimate = 0;   // the algorithm's own, on one core of a CPU or a whole GPU
  double error = -1;  // relative to f64; negative: not computed
  double ratio = 1;   // to the best of the same problem and thread count
};

// A group of bars for every problem (and thread count): each algorithm's median, and the limit, on a logarithmic axis.
std::string bench_picture(std::string const& title, std::vector<BenchRow> const& rows);
// Every algorithm and config over all problems, as a percentage of the fastest of each problem.
std::string search_picture(std::string const& title, std::vector<BenchRow> const& rows);
// Operations a second against operations a byte, one dot a row, under the ceilings: so many operations and so many bytes a second.
std::string roofline_picture(std::string const& title, std::vector<BenchRow> const& rows, double operations, double bytes);

}  // namespace falconet::cli
