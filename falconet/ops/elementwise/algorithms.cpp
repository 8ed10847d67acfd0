#include "falconet/ops/elementwise/algorithms.h"

namespace falconet {

TableOf<ElementwiseProblem> const& elementwise_algorithms() {
  static TableOf<ElementwiseProblem> const table([] {
    auto all = elementwise_cuda_algorithms();
    all.insert(all.end(), {elementwise_simd, elementwise_reference});
    return all;
  }());
  return table;
}

}  // namespace falconet
