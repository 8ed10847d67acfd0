#include "falconet/ops/elementwise/algorithms.h"

namespace falconet {

TableOf<ElementwiseProblem> const& elementwise_algorithms() {
  static TableOf<ElementwiseProblem> const table({elementwise_simd, elementwise_reference});
  return table;
}

}  // namespace falconet
