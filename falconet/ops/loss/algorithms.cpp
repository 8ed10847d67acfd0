#include "falconet/ops/loss/algorithms.h"

namespace falconet {

TableOf<LossProblem> const& loss_algorithms() {
  static TableOf<LossProblem> const table({
      loss_lanes(),
      loss_reference(),
  });
  return table;
}

}  // namespace falconet
