// Lists of problems: problems/<op>/<name>.txt holds one problem a line, in the problem's own text; '#' starts a comment. The
// same lists drive the tests, the benchmark and the tuner.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace falconet {

// The problems of a list, comments and blank lines left out. Throws a file error if it cannot be read or holds none.
std::vector<std::string> read_problem_list(std::string const& path);

}  // namespace falconet
