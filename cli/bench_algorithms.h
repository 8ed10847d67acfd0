// Rows of `bench conv` and its like, and the picture of them.
#pragma once
#include <string>
#include <vector>

#include "cli/measure.h"

namespace falconet::cli {

struct BenchRow {
  std::string problem, algorithm, config, device = "cpu";
  std::string name;     // in pictures, by for_picture
  std::string category; // in pictures, by for_picture: the problem
  bool rival = false;   // of a vendor's library
  std::string refusal;  // why it did not run; then the figures below mean nothing
  int threads = 1, repetitions = 0;
  Spread seconds;
  double limit = 0;   // seconds
  double operations = 0, bytes = 0;   // of the problem: its mathematics, its operands moved once
  double estimate = 0;   // the algorithm's own, on one core of a CPU or a whole GPU
  double error = -1;  // relative to f64; negative: not computed
  double ratio = 1;   // to the best of the same problem and thread count
};

// The most that the device does, as measured: the lines that a roofline has.
struct Ceilings {
  std::string name;                       // of the device
  double operations = 0, bytes = 0;       // a second
};

// What json=true printed, read again: rows with times alone. Rows of the same problem, algorithm and config: the last one counts. Throws data errors that name
// file and line.
std::vector<BenchRow> read_rows(std::string const& operation, std::vector<std::string> const& files, Ceilings& ceilings);
// What was measured, named: the algorithm, with its config where several were run. A problem that was run in both layouts stands there once, each algorithm
// in the layout in which it was faster. every_config false: an algorithm with its fastest alone, but of a rival every engine.
std::vector<BenchRow> for_picture(std::vector<BenchRow> rows, bool every_config);

// The pictures below take rows of for_picture.
// A group of bars for every problem (and thread count): each algorithm's median, and the limit, on a logarithmic axis.
std::string bench_picture(std::string const& title, std::vector<BenchRow> const& rows);
// Every algorithm and config over all problems, as a percentage of the fastest of each problem.
std::string search_picture(std::string const& title, std::vector<BenchRow> const& rows);
// Operations a second against operations a byte under the ceilings: a dot a row, a ring if it is a rival's.
std::string roofline_picture(std::string const& title, std::vector<BenchRow> const& rows, Ceilings const& ceilings);

}  // namespace falconet::cli
