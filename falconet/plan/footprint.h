// What a plan needs of a GPU's memory, and the error when there is less: said before the first step, not in the middle of one.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "falconet/device/named_memory.h"
#include "falconet/graph/parameters.h"
#include "falconet/plan/plan.h"

namespace falconet {

// Of a plan's memory ("layer1.0.conv1 (fwd)": what it writes; "scratch of ..."; "weights"; "optimizer states") and of what lies there beside it, the largest
// first; equal ones in the plan's order. Results of different launches may share memory, so the sum can exceed what is needed.
std::vector<Consumer> largest_consumers(Plan const&, Parameters const&, std::vector<Consumer> const& beside, std::size_t count);

// Throws a device error that names bytes needed, bytes free and the three largest consumers if the plan's memory and those parameters that are
// not on the device yet exceed `free`. beside: what lies there already (device/named_memory.h).
void require_memory(Plan const&, Parameters const&, std::vector<Consumer> const& beside, std::int64_t free);
// The same for a data set that shall lie beside the plan: it may have `room` of what is free.
void require_room(Consumer const& data, std::int64_t room, Plan const&, Parameters const&, std::int64_t free);

}  // namespace falconet
