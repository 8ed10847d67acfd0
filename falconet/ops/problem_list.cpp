#include "falconet/ops/problem_list.h"

#include <algorithm>
#include <fstream>

#include "falconet/base/error.h"

namespace falconet {

std::vector<std::string> read_problem_list(std::string const& path) {
  std::ifstream file(path);
  if (!file) fail(ErrorKind::file, path + ": cannot be read; expected a list of problems, one a line");
  std::vector<std::string> out;
  for (std::string line; std::getline(file, line);) {
    line.resize(std::min(line.find('#'), line.size()));
    auto const first = line.find_first_not_of(" \t\r"), last = line.find_last_not_of(" \t\r");
    if (first != std::string::npos) out.push_back(line.substr(first, last - first + 1));
  }
  if (out.empty()) fail(ErrorKind::file, path + ": holds no problem");
  return out;
}

}  // namespace falconet
