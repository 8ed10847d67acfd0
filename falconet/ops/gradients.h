// Reverse-mode differentiation of a graph.
#pragma once
#include <span>
#include <vector>

#include "falconet/graph/graph.h"

namespace falconet {

// d loss / d each of `wrt`, as nodes added to the graph. `loss` has one element. A value that the loss does not depend on
// gets an empty Var. Throws a shape error if the loss has more than one element, a model error at an operation without gradient.
std::vector<Var> gradients(Var loss, std::span<Var const> wrt);

}  // namespace falconet
