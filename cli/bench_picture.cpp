#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "cli/bench_algorithms.h"
#include "falconet/base/svg.h"

namespace falconet::cli {

std::string bench_picture(std::string const& title, std::vector<BenchRow> const& rows) {
  svg::BarChart chart{.title = title + ", median", .y_label = "microseconds", .categories = {}};
  bool const several = std::any_of(rows.begin(), rows.end(), [&](BenchRow const& r) { return r.threads != rows.front().threads; });
  auto const index_in = [](auto& list, auto const& matches, auto const& make) {
    auto const at = std::find_if(list.begin(), list.end(), matches);
    if (at != list.end()) return std::size_t(at - list.begin());
    list.push_back(make());
    return list.size() - 1;
  };
  auto const set = [&](std::string const& category, std::string const& name, double seconds) {
    auto const c = index_in(
        chart.categories, [&](auto const& x) { return x == category; }, [&] { return category; });
    auto const b = index_in(
        chart.bars, [&](auto const& x) { return x.name == name; },
        [&] {
          return svg::Bars{name, {}};
        });
    auto& values = chart.bars[b].values;
    values.resize(std::max(values.size(), c + 1), std::numeric_limits<double>::quiet_NaN());
    values[c] = seconds * 1e6;
  };
  for (bool const rival : {false, true})
    for (auto const& row : rows)
      if (row.rival == rival) set(row.category + (several ? ", " + std::to_string(row.threads) + " threads" : ""), row.name, row.seconds.median);
  // Last, so that the limit stands at the right of each group; left out where starting a kernel takes so long that no limit is near.
  bool const near = std::all_of(rows.begin(), rows.end(), [](BenchRow const& r) { return r.ratio > 1 || r.limit > 0.02 * r.seconds.median; });
  for (auto const& row : rows)
    if (near && row.limit > 0) set(row.category + (several ? ", " + std::to_string(row.threads) + " threads" : ""), "limit", row.limit);
  for (auto& b : chart.bars) b.values.resize(chart.categories.size(), std::numeric_limits<double>::quiet_NaN());
  chart.log_y = true;
  return svg::draw(chart);
}

std::string search_picture(std::string const& title, std::vector<BenchRow> const& rows) {
  svg::HeatMap map{.title = "percent of the fastest, " + title, .x_label = "problem", .y_label = "algorithm and launch parameters", .rows = {}, .columns = {}, .least_cell = 20, .name_room = 420};
  auto const index_in = [](std::vector<std::string>& list, std::string const& name) {
    auto const at = std::find(list.begin(), list.end(), name);
    if (at != list.end()) return std::size_t(at - list.begin());
    list.push_back(name);
    return list.size() - 1;
  };
  // What is nowhere worth a quarter of the fastest is left out, unless it is an algorithm's own best of a problem.
  std::map<std::pair<std::string, std::string>, double> own_best;
  for (auto const& row : rows) {
    auto const at = own_best.try_emplace({row.algorithm, row.category}, row.seconds.median).first;
    at->second = std::min(at->second, row.seconds.median);
  }
  for (auto const& row : rows)
    if (row.ratio < 4 || row.seconds.median == own_best[{row.algorithm, row.category}]) index_in(map.rows, row.name), index_in(map.columns, row.category);
  std::sort(map.rows.begin(), map.rows.end());
  map.values.resize(map.rows.size() * map.columns.size(), std::numeric_limits<double>::quiet_NaN());
  std::vector<double> best(map.columns.size(), std::numeric_limits<double>::infinity());
  for (auto const& row : rows) best[index_in(map.columns, row.category)] = std::min(best[index_in(map.columns, row.category)], row.seconds.median);
  for (auto const& row : rows) {
    if (std::find(map.rows.begin(), map.rows.end(), row.name) == map.rows.end()) continue;
    auto const column = index_in(map.columns, row.category);
    map.values[index_in(map.rows, row.name) * map.columns.size() + column] = 100 * best[column] / row.seconds.median;
  }
  return svg::draw(map);
}

std::string roofline_picture(std::string const& title, std::vector<BenchRow> const& rows, Ceilings const& ceilings) {
  double const operations = ceilings.operations, bytes = ceilings.bytes;
  svg::LineChart chart{.title = title + ", roofline", .x_label = "operations a byte (operands moved once)", .y_label = "GFLOP/s", .lines = {}};
  chart.log_x = chart.log_y = true;
  chart.width = 1100, chart.height = 720;
  double least = 1e30, most = 0;
  for (auto const& row : rows) {
    if (row.bytes <= 0 || row.operations <= 0) continue;
    double const x = row.operations / row.bytes;
    least = std::min(least, x), most = std::max(most, x);
    auto at = std::find_if(chart.lines.begin(), chart.lines.end(), [&](svg::Line const& l) { return l.name == row.name; });
    if (at == chart.lines.end()) at = chart.lines.insert(at, svg::Line{.name = row.name, .x = {}, .y = {}, .dots = true, .hollow = row.rival});
    at->x.push_back(x), at->y.push_back(row.operations / row.seconds.median * 1e-9);
  }
  if (most > 0) {
    double const ridge = operations / bytes;
    least = std::min(least, ridge) / 2, most = std::max(most, ridge) * 2;
    chart.lines.insert(chart.lines.begin(), {.name = "ceiling: memory, then arithmetic", .x = {least, ridge, most}, .y = {least * bytes * 1e-9, operations * 1e-9, operations * 1e-9}});
  }
  return svg::draw(chart);
}

}  // namespace falconet::cli
