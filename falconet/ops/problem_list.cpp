#include "falconet/ops/problem_list.h"

#include "falconet/base/error.h"
#include "falconet/base/file.h"
#include "falconet/ops/problem_text.h"

namespace falconet {

std::vector<std::string> problem_lines(std::string_view text) {
  std::vector<std::string> out;
  for (auto line : split(text, '\n')) {
    line = line.substr(0, line.find('#'));
    auto const first = line.find_first_not_of(" \t\r"), last = line.find_last_not_of(" \t\r");
    if (first != std::string_view::npos) out.emplace_back(line.substr(first, last - first + 1));
  }
  return out;
}

std::vector<std::string> read_problem_list(std::string const& path) {
  auto out = problem_lines(read_file(path).text());
  if (out.empty()) fail(ErrorKind::file, path + ": holds no problem");
  return out;
}

}  // namespace falconet
