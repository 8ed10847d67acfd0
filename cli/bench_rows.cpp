// Rows of `bench conv` and its like: read again from what json=true printed, and made ready for pictures.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "cli/bench_algorithms.h"
#include "falconet/base/error.h"
#include "falconet/base/file.h"
#include "falconet/ops/algorithms.h"
#include "falconet/ops/problem_text.h"

namespace falconet::cli {
namespace {

// The value of a key in a flat JSON object, as JsonRow prints it; empty: it has none.
std::string_view value_of(std::string_view line, std::string_view key) {
  auto const found = line.find("\"" + std::string(key) + "\":");
  if (found == std::string_view::npos) return {};
  auto at = line.find_first_not_of(' ', found + key.size() + 3);
  if (at == std::string_view::npos) return {};
  bool const quoted = line[at] == '"';
  at += quoted;
  return line.substr(at, line.find_first_of(quoted ? "\"" : ",}", at) - at);
}

// "fwd n1 c4 ... f32 nhwc" without its layout.
std::string without_layout(std::string text) {
  for (std::string_view layout : {" nhwc", " nchw"})
    if (auto const at = text.find(layout); at != std::string::npos) text.erase(at, layout.size());
  return text;
}

// "fft" for a rival's fft:1, "tile_m:64 tile_n:16" for tile_m:64,tile_n:16; what adds in an order that changes says so.
std::string in_words(Config const& config, bool rival) {
  std::string out;
  for (auto const& [key, value] : config.values())
    if (key != "deterministic") out += (out.empty() ? "" : " ") + (value == 1 && rival ? key : key + ":" + std::to_string(value));
  return is_deterministic(config) ? out : out + (out.empty() ? "" : " ") + "(atomic)";
}

}  // namespace

std::vector<BenchRow> read_rows(std::string const& operation, std::vector<std::string> const& files, Ceilings& ceilings) {
  auto const& table = algorithms_of(operation);
  std::vector<BenchRow> out;
  for (auto const& file : files) {
    auto const bytes = read_file(file);
    int number = 0;
    bool any = false;
    for (auto const line : split(bytes.text(), '\n')) {
      ++number;
      if (!line.starts_with("{")) continue;      // other lines of the same output
      any = true;
      auto const real = [&](std::string_view key) { return parse_real(value_of(line, key), key); };
      try {
        if (value_of(line, "what") == "limits") ceilings = {std::string(value_of(line, "name")), real("operations"), real("bytes")};
        if (value_of(line, "us").empty()) continue;   // refused, or of another kind
        BenchRow row;
        row.problem = value_of(line, "problem"), row.algorithm = value_of(line, "algorithm"), row.config = value_of(line, "config");
        if (auto const device = value_of(line, "device"); !device.empty()) row.device = device;
        else row.device = "cuda:0";                   // gpu_conv's
        if (auto const threads = value_of(line, "threads"); !threads.empty()) row.threads = int(parse_int(threads, "threads"));
        row.seconds.median = row.seconds.least = real("us") * 1e-6;
        if (!value_of(line, "limit_us").empty()) row.limit = real("limit_us") * 1e-6;
        row.operations = table.operations(row.problem), row.bytes = bytes_of(table.operands(row.problem));
        Config::parse(row.config);
        std::erase_if(out, [&](BenchRow const& r) { return r.problem == row.problem && r.algorithm == row.algorithm && r.config == row.config && r.threads == row.threads && r.device == row.device; });
        out.push_back(std::move(row));
      } catch (Error const& e) {
        fail(ErrorKind::data, file + ", line " + std::to_string(number) + ": " + e.message);
      }
    }
    if (!any) fail(ErrorKind::data, file + ": holds no row of bench " + operation + " json=true");
  }
  std::set<std::string> rivals;
  for (auto const kind : {DeviceKind::cpu, DeviceKind::cuda})
    if (!out.empty()) {
      DeviceFacts facts;
      facts.device.kind = kind;
      for (auto const& c : table.candidates(out.front().problem, facts))
        if (c.rival) rivals.insert(c.algorithm);
    }
  for (auto& row : out) {
    row.rival = rivals.contains(row.algorithm);
    if (row.limit == 0 && ceilings.bytes > 0) row.limit = std::max(row.operations / ceilings.operations, row.bytes / ceilings.bytes);
  }
  return out;
}

std::vector<BenchRow> for_picture(std::vector<BenchRow> rows, bool every_config) {
  std::erase_if(rows, [](BenchRow const& r) { return !r.refusal.empty(); });
  std::set<std::string> layouts, devices, several;
  std::map<std::pair<std::string, std::string>, std::set<std::string>> configs;
  for (auto const& r : rows) {
    layouts.insert(r.problem.find(" nchw") != std::string::npos ? "nchw" : "nhwc");
    devices.insert(r.device);
    auto& known = configs[{r.algorithm, r.problem}];
    known.insert(r.config);
    if (known.size() > 1 && (every_config || r.rival)) several.insert(r.algorithm);
  }
  std::vector<BenchRow> out;
  for (auto& r : rows) {
    r.category = layouts.size() > 1 ? without_layout(r.problem) : r.problem;
    auto const config = several.contains(r.algorithm) ? in_words(Config::parse(r.config), r.rival) : std::string();
    r.name = (devices.size() > 1 ? r.device + " " : "") + r.algorithm + (config.empty() ? "" : " " + config);
    auto const same = std::find_if(out.begin(), out.end(), [&](BenchRow const& o) { return o.category == r.category && o.name == r.name && o.threads == r.threads; });
    if (same == out.end()) out.push_back(r);
    else if (r.seconds.median < same->seconds.median) *same = r;
  }
  for (auto& r : out) {
    double best = HUGE_VAL;
    for (auto const& o : out)
      if (o.category == r.category && o.threads == r.threads) best = std::min(best, o.seconds.median);
    r.ratio = r.seconds.median / best;
  }
  return out;
}

}  // namespace falconet::cli
