// A condition inside a CUDA graph: the update of a step whose loss is not finite is left out without asking the host.
#pragma once
#include <functional>

#include "falconet/device/device.h"
#include "falconet/tensor/tensor_type.h"

namespace falconet {

// While `stream` is being captured: what `body` launches becomes part of the graph and runs if the f32 or f64 at `value` (device memory)
// is finite by then and `*failed`, where given, is 0. Whatever `stream` captures afterwards waits for it.
void when_finite(Stream& stream, void const* value, DType type, std::int32_t const* failed, std::function<void(Stream&)> const& body);

}  // namespace falconet
