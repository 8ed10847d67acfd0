// Charts as SVG text, without dependencies: lines, grouped bars, heat maps. Any numbers and any UTF-8 texts may come in: what is not
// finite (or not positive on a logarithmic axis) is left out, labels that would overlap are turned, thinned out or shortened.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace falconet::svg {

struct Line {
  std::string name;
  std::vector<double> x, y;      // of equal length; a gap where y is NaN
  bool right = false;            // read on the axis at the right
  bool dashed = false;
  bool dots = false;             // a dot for each value, joined by nothing
  bool hollow = false;           // rings in place of dots
};

struct LineChart {
  std::string title, x_label, y_label;
  std::string right_label = {};  // of the second y axis, which is drawn if a line asks for it
  std::vector<Line> lines = {};
  bool log_x = false, log_y = false;
  int width = 860, height = 480;
};
std::string draw(LineChart const&);

struct Bars {
  std::string name;
  std::vector<double> values;    // one per category; NaN where there is none
};

struct BarChart {
  std::string title, y_label;
  std::vector<std::string> categories;
  std::vector<Bars> bars = {};
  bool log_y = false;
  int height = 480;              // the width grows with the number of bars; what does not fit goes into panels below, each of this height
};
std::string draw(BarChart const&);

struct HeatMap {
  std::string title, x_label, y_label;
  std::vector<std::string> rows, columns;
  std::vector<double> values = {};   // rows x columns; colours follow the square root, so that small counts show
  int decimals = 0;              // of the numbers in the cells, which are drawn where they fit
  double least_cell = 8;         // pixels of a cell's side, if there are many
  double name_room = 200;        // pixels of the longest name
};
std::string draw(HeatMap const&);

// Ticks at round places (1, 2 or 5 times a power of ten) that cover or lie within [low, high]; about `count` of them.
std::vector<double> round_ticks(double low, double high, int count);
std::string escape(std::string_view text);   // for XML; bytes that are not UTF-8, and control characters, become U+FFFD

}  // namespace falconet::svg
