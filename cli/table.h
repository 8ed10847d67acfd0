// Text tables: columns are as wide as their widest cell; numbers to the right, words to the left.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace falconet::cli {

class Table {
 public:
  // A name that starts with '>' is a column of numbers.
  explicit Table(std::vector<std::string> columns);
  void row(std::vector<std::string> cells);  // fewer cells than columns: the last one runs on to the right
  std::string text(std::string_view indent = "") const;

 private:
  std::vector<std::string> names_;
  std::vector<bool> right_;
  std::vector<std::vector<std::string>> rows_;
};

std::string with_commas(std::int64_t);    // 105,634
std::string bytes_text(double bytes);     // "1.4 MiB"
std::string json_text(std::string_view);  // a JSON string, quotes included

// A JSON object on one line, keys in the order they were added.
class JsonRow {
 public:
  JsonRow& add(std::string_view key, std::string_view text);
  JsonRow& add(std::string_view key, char const* text) { return add(key, std::string_view(text)); }
  JsonRow& add(std::string_view key, double number);  // null if it is not finite
  JsonRow& add(std::string_view key, std::int64_t number);
  JsonRow& add(std::string_view key, int number) { return add(key, std::int64_t(number)); }
  JsonRow& add(std::string_view key, bool value);
  std::string text() const { return "{" + text_ + "}\n"; }

 private:
  JsonRow& raw(std::string_view key, std::string const& value);
  std::string text_;
};

}  // namespace falconet::cli
