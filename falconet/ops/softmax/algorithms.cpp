#include "falconet/ops/softmax/algorithms.h"

namespace falconet {

TableOf<SoftmaxProblem> const& softmax_algorithms() {
  static TableOf<SoftmaxProblem> const table({
      softmax_lanes(),
      softmax_reference(),
  });
  return table;
}

}  // namespace falconet
