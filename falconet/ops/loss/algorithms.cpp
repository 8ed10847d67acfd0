#include "falconet/ops/loss/algorithms.h"

namespace falconet {

TableOf<LossProblem> const& loss_algorithms() {
  static TableOf<LossProblem> const table([] {
    auto all = loss_cuda_algorithms();
    all.insert(all.end(), {loss_lanes(), loss_reference()});
    return all;
  }());
  return table;
}

}  // namespace falconet
