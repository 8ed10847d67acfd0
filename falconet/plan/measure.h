// How long the choices of one problem take, each alone: what the tuner remembers (plan/tune.h).
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/algorithm.h"

namespace falconet {

// Microseconds of each choice, by its text, on operands of its own that lie where the facts' device has its memory: the least of some runs, in turns. A choice
// is left out that was not reached within `seconds` (the first always is), or whose scratch memory a card does not have beside the operands.
// prepared: what Algorithm::prepare does is done beforehand. threads: of a CPU; a GPU needs none.
std::map<std::string, double> measure_choices(std::string_view operation, std::string const& problem, bool prepared, std::vector<Choice> const& choices,
                                              DeviceFacts const& facts, ThreadPool* threads, double seconds);

}  // namespace falconet
