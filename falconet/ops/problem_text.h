// Reading and writing the text of problems: tokens separated by single spaces, each KEY=VALUE. Writing in a fixed order and
// reading strictly (every key known, none twice) makes parse(text()) == problem easy to keep.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace falconet {

std::vector<std::string_view> split(std::string_view text, char separator);   // no empty pieces for the empty text

// "n=64 c=8 relu=1": build with add(), read with the take_ functions, then finish().
class ProblemText {
 public:
  ProblemText() = default;
  explicit ProblemText(std::string_view text);                 // throws a usage error on a token without '=' or a repeated key
  ProblemText& add(std::string_view key, std::int64_t value);
  ProblemText& add(std::string_view key, std::string_view value);
  std::string const& text() const { return text_; }

  std::int64_t take_int(std::string_view key);                 // throws if missing or not a number
  std::int64_t take_int(std::string_view key, std::int64_t otherwise);
  double take_double(std::string_view key, double otherwise);
  std::string take(std::string_view key);
  std::string take(std::string_view key, std::string_view otherwise);
  void finish() const;                                         // throws if a key was not taken

 private:
  std::string text_;
  std::vector<std::pair<std::string, std::string>> fields_;
};
std::string exact(double value);                               // the shortest text that parses back to the same double
// The whole text as a number, whatever the locale of the program; usage errors.
std::int64_t parse_int(std::string_view text, std::string_view what);
double parse_real(std::string_view text, std::string_view what);

}  // namespace falconet
