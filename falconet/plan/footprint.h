// What a plan needs of a GPU's memory, and the error when there is less: said before the first step, not in the middle of one.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "falconet/graph/parameters.h"
#include "falconet/plan/plan.h"

namespace falconet {

struct Consumer {
  std::string what;                    // "layer1.0.conv1 (fwd)": what it writes; "scratch of ..."; "weights"; "optimizer states"
  std::int64_t bytes = 0;
};
// The largest first; equal ones in the plan's order. Results of different launches may share memory, so the sum can exceed what is needed.
std::vector<Consumer> largest_consumers(Plan const&, Parameters const&, std::size_t count);

// Throws a device error that names bytes needed, bytes free and the three largest consumers if the plan's memory and those parameters that are
// not on the device yet exceed `free`.
void require_memory(Plan const&, Parameters const&, std::int64_t free);

}  // namespace falconet
