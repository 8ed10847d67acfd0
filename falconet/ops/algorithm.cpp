#include "falconet/ops/algorithm.h"

#include <algorithm>
#include <climits>
#include <map>
#include <set>

#include "falconet/base/error.h"
#include "falconet/ops/problem_text.h"

namespace falconet {

Config::Config(std::initializer_list<std::pair<char const*, int>> values) {
  for (auto const& [key, value] : values) values_.emplace_back(key, value);
}
int Config::get(std::string_view key, int otherwise) const {
  for (auto const& [k, v] : values_)
    if (k == key) return v;
  return otherwise;
}
std::string Config::text() const {
  std::string out;
  for (auto const& [k, v] : values_) out += (out.empty() ? "" : ",") + k + ":" + std::to_string(v);
  return out;
}
Config Config::parse(std::string_view text) {
  Config config;
  for (auto item : split(text, ',')) {
    auto colon = item.find_first_of(":=");
    if (colon == std::string_view::npos || colon == 0)
      fail(ErrorKind::usage, "launch parameter '" + std::string(item) + "' should read name=number");
    auto const key = item.substr(0, colon);
    auto const value = parse_int(item.substr(colon + 1), key);
    if (value < INT_MIN || value > INT_MAX) fail(ErrorKind::usage, "launch parameter '" + std::string(item) + "' is out of range");
    for (auto const& [given, _] : config.values_)
      if (given == key) fail(ErrorKind::usage, "launch parameter '" + std::string(key) + "' stands twice in '" + std::string(text) + "'");
    config.values_.emplace_back(std::string(key), int(value));
  }
  return config;
}

std::string Choice::text() const { return config.empty() ? algorithm : algorithm + ":" + config.text(); }
Choice Choice::parse(std::string_view text) {
  auto colon = text.find(':');
  if (colon == std::string_view::npos) return {std::string(text), {}};
  return {std::string(text.substr(0, colon)), Config::parse(text.substr(colon + 1))};
}

namespace {

bool allows(LaunchRange const& r, int value) { return value >= r.least && value <= r.most && (!r.power_of_two || (value & (value - 1)) == 0); }

// What may be set: the ranges, and what the listed configs say without one; each key's together.
std::map<std::string, std::vector<LaunchRange>> parameters_of(Candidate const& c) {
  std::map<std::string, std::vector<LaunchRange>> out;
  for (auto const& r : c.ranges) out[r.key].push_back(r);
  auto const ranged = out;
  for (auto const& config : c.configs)
    for (auto const& [key, value] : config.values())
      if (key != "deterministic" && !ranged.contains(key)) out[key].push_back({key, value, value, false});
  return out;
}
// "32..1024 (a power of two)", "64, 96, 128", "2, 4 .. 30".
std::string possible(std::vector<LaunchRange> const& ranges) {
  std::set<std::pair<int, int>> ends;
  for (auto const& r : ranges) ends.emplace(r.least, r.most);
  std::string out;
  std::size_t i = 0;
  for (auto const& [least, most] : ends) {
    bool const last = ++i == ends.size();
    if (ends.size() > 8 && i > 2 && !last) continue;
    out += (i == 1 ? "" : ends.size() > 8 && last ? " .. " : ", ") + std::to_string(least) + (least == most ? "" : ".." + std::to_string(most));
  }
  return out + (ranges.front().power_of_two ? " (a power of two)" : "");
}

}  // namespace

Config config_by_hand(Candidate const& c, Config const& wanted) {
  if (wanted.empty()) return c.configs.front();
  auto const has = [](Config const& config, std::pair<std::string, int> const& v) { return config.get(v.first, v.second - 1) == v.second; };
  for (auto const& config : c.configs)
    if (std::all_of(wanted.values().begin(), wanted.values().end(), [&](auto const& v) { return has(config, v); })) return config;
  auto const parameters = parameters_of(c);
  for (auto const& [key, value] : wanted.values()) {
    auto const at = parameters.find(key);
    if (at == parameters.end()) {
      std::string known;
      for (auto const& [name, ranges] : parameters) known += (known.empty() ? "" : ", ") + name + ":" + possible(ranges);
      fail(ErrorKind::usage, c.algorithm + " has no launch parameter '" + key + "' here; it takes " + (known.empty() ? "none" : known));
    }
    if (std::none_of(at->second.begin(), at->second.end(), [value = value](LaunchRange const& r) { return allows(r, value); }))
      fail(ErrorKind::usage, c.algorithm + ": " + key + " cannot be " + std::to_string(value) + " here, only " + possible(at->second));
  }
  auto const in_range = [&](std::string const& key) { return std::any_of(c.ranges.begin(), c.ranges.end(), [&](LaunchRange const& r) { return r.key == key; }); };
  std::string known;
  for (auto const& config : c.configs) {
    known += (known.empty() ? "" : " | ") + config.text();
    if (!std::all_of(wanted.values().begin(), wanted.values().end(), [&](auto const& v) { return in_range(v.first) || has(config, v); })) continue;
    std::string text;
    auto const add = [&text](std::string const& key, int value) { text += (text.empty() ? "" : ",") + key + ":" + std::to_string(value); };
    for (auto const& [key, value] : config.values())
      if (!in_range(key)) add(key, value);
    std::set<std::string> added;
    for (auto const& r : c.ranges)
      if (wanted.get(r.key, 0) == wanted.get(r.key, 1) && added.insert(r.key).second) add(r.key, wanted.get(r.key, 0));
    return Config::parse(text);
  }
  fail(ErrorKind::usage, c.algorithm + " is not compiled for '" + wanted.text() + "'; it has " + known);
}

TensorType step_state_type() { return {DType::u8, Shape{std::int64_t(sizeof(StepState))}, Layout::nchw}; }

double bytes_of(std::vector<Operand> const& operands) {
  double bytes = 0;
  for (auto const& o : operands) bytes += double(o.type.bytes());
  return bytes;
}

void fail_unknown_algorithm(std::string const& name) { fail(ErrorKind::usage, "no algorithm is named '" + name + "' here"); }

}  // namespace falconet
