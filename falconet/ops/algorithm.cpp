#include "falconet/ops/algorithm.h"

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
    config.values_.emplace_back(std::string(item.substr(0, colon)), int(parse_int(item.substr(colon + 1), item.substr(0, colon))));
  }
  return config;
}

std::string Choice::text() const { return config.empty() ? algorithm : algorithm + ":" + config.text(); }
Choice Choice::parse(std::string_view text) {
  auto colon = text.find(':');
  if (colon == std::string_view::npos) return {std::string(text), {}};
  return {std::string(text.substr(0, colon)), Config::parse(text.substr(colon + 1))};
}

Config config_by_hand(Candidate const& c, Config const& wanted) {
  if (wanted.empty()) return c.configs.front();
  for (auto const& config : c.configs) {
    bool has_all = true;
    for (auto const& [key, value] : wanted.values()) has_all &= config.get(key, value - 1) == value;
    if (has_all) return config;
  }
  bool good = true;
  std::string known;
  for (auto const& [key, value] : wanted.values()) {
    bool fits = false;
    for (auto const& r : c.ranges) fits |= r.key == key && value >= r.least && value <= r.most && (!r.power_of_two || (value & (value - 1)) == 0);
    good &= fits;
  }
  if (good) return wanted;
  for (auto const& config : c.configs)
    if (!config.empty()) known += (known.empty() ? "" : " | ") + config.text();
  for (auto const& r : c.ranges)
    known += (known.empty() ? "" : ", ") + r.key + ":" + std::to_string(r.least) + ".." + std::to_string(r.most) + (r.power_of_two ? " (a power of two)" : "");
  fail(ErrorKind::usage, c.algorithm + " has no config '" + wanted.text() + "'; " + (known.empty() ? "it takes no launch parameters" : "it has: " + known));
}

TensorType step_state_type() { return {DType::u8, Shape{std::int64_t(sizeof(StepState))}, Layout::nchw}; }

double bytes_of(std::vector<Operand> const& operands) {
  double bytes = 0;
  for (auto const& o : operands) bytes += double(o.type.bytes());
  return bytes;
}

void fail_unknown_algorithm(std::string const& name) { fail(ErrorKind::usage, "no algorithm is named '" + name + "' here"); }

}  // namespace falconet
