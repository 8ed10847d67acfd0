#include "falconet/ops/problem_text.h"

#include <algorithm>
#include <charconv>

#include "falconet/base/error.h"

namespace falconet {

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> out;
  while (!text.empty()) {
    auto at = text.find(separator);
    out.push_back(text.substr(0, at));
    if (at == std::string_view::npos) break;
    text.remove_prefix(at + 1);
  }
  return out;
}

std::int64_t parse_int(std::string_view text, std::string_view what) {
  std::int64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    fail(ErrorKind::usage, std::string(what) + " should be a whole number, not '" + std::string(text) + "'");
  return value;
}

double parse_real(std::string_view text, std::string_view what) {
  double value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    fail(ErrorKind::usage, std::string(what) + " should be a number, not '" + std::string(text) + "'");
  return value;
}

std::string exact(double value) {
  char buffer[40];
  auto [end, error] = std::to_chars(buffer, buffer + sizeof buffer, value);
  return {buffer, end};
}

ProblemText::ProblemText(std::string_view text) : text_(text) {
  for (auto token : split(text, ' ')) {
    auto equals = token.find('=');
    if (equals == std::string_view::npos) fail(ErrorKind::usage, "problem '" + text_ + "': '" + std::string(token) + "' is not key=value");
    std::string key(token.substr(0, equals));
    for (auto const& [k, v] : fields_)
      if (k == key) fail(ErrorKind::usage, "problem '" + text_ + "': '" + key + "' appears twice");
    fields_.emplace_back(std::move(key), std::string(token.substr(equals + 1)));
  }
}
ProblemText& ProblemText::add(std::string_view key, std::string_view value) {
  if (!text_.empty()) text_ += ' ';
  text_.append(key).append("=").append(value);
  return *this;
}
ProblemText& ProblemText::add(std::string_view key, std::int64_t value) { return add(key, std::to_string(value)); }

std::string ProblemText::take(std::string_view key, std::string_view otherwise) {
  auto at = std::find_if(fields_.begin(), fields_.end(), [&](auto const& f) { return f.first == key; });
  if (at == fields_.end()) return std::string(otherwise);
  std::string value = std::move(at->second);
  fields_.erase(at);
  return value;
}
std::string ProblemText::take(std::string_view key) {
  auto at = std::find_if(fields_.begin(), fields_.end(), [&](auto const& f) { return f.first == key; });
  if (at == fields_.end()) fail(ErrorKind::usage, "problem '" + text_ + "' lacks '" + std::string(key) + "'");
  return take(key, "");
}
std::int64_t ProblemText::take_int(std::string_view key) { return parse_int(take(key), key); }
std::int64_t ProblemText::take_int(std::string_view key, std::int64_t otherwise) {
  auto value = take(key, "");
  return value.empty() ? otherwise : parse_int(value, key);
}
double ProblemText::take_double(std::string_view key, double otherwise) {
  auto value = take(key, "");
  if (value.empty()) return otherwise;
  return parse_real(value, "problem '" + text_ + "': " + std::string(key));
}
void ProblemText::finish() const {
  if (!fields_.empty()) fail(ErrorKind::usage, "problem '" + text_ + "': unknown '" + fields_.front().first + "'");
}

}  // namespace falconet
