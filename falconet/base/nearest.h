// The name that a user most likely meant: for settings, verbs, models, data sets, algorithms, recipes, layers.
#pragma once
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "falconet/base/error.h"

namespace falconet {

// Insertions, deletions, replacements and swaps of neighbours that turn one text into the other (optimal string alignment).
std::size_t edit_distance(std::string_view a, std::string_view b);

// The known name with the least edit distance to `name`, upper and lower case alike; the empty text if none is near enough to be
// a slip of the fingers (about a third of the letters) and none begins with `name`. The first of equals wins.
std::string nearest(std::string_view name, std::span<std::string const> known);

// The end of an error message: "; did you mean 'epochs'?", or, when nothing is near, "; known are a, b, c".
std::string did_you_mean(std::string_view name, std::span<std::string const> known);

// "unknown setting 'epocs'; did you mean 'epochs'?"
std::string unknown_name(std::string_view kind_of_thing, std::string_view name, std::span<std::string const> known);

// Throws a usage error with unknown_name().
[[noreturn]] void fail_unknown(std::string_view kind_of_thing, std::string_view name, std::span<std::string const> known,
                               std::source_location where = std::source_location::current());

}  // namespace falconet
