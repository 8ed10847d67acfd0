// Lists of problems: problems/OPERATION/NAME.txt holds one problem a line, in the problem's own text; '#' starts a comment. The
// same lists drive the tests and the benchmark.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace falconet {

// The problems of a list's text, comments and blank lines left out.
std::vector<std::string> problem_lines(std::string_view text);
// The same of a file. Throws a file error if it cannot be read or holds none.
std::vector<std::string> read_problem_list(std::string const& path);

}  // namespace falconet
