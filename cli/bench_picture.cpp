#include <algorithm>
#include <cmath>
#include <limits>

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
  for (auto const& row : rows) {
    std::string const category = row.problem + (several ? ", " + std::to_string(row.threads) + " threads" : "");
    if (row.refusal.empty()) set(category, row.algorithm, row.seconds.median);
  }
  for (auto const& row : rows)  // last, so that the limit stands at the right of each group
    if (row.refusal.empty()) set(row.problem + (several ? ", " + std::to_string(row.threads) + " threads" : ""), "limit", row.limit);
  for (auto& b : chart.bars) b.values.resize(chart.categories.size(), std::numeric_limits<double>::quiet_NaN());
  chart.log_y = true;
  return svg::draw(chart);
}

}  // namespace falconet::cli
