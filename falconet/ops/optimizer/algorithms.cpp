#include "falconet/ops/optimizer/algorithms.h"

namespace falconet {

TableOf<OptimizerProblem> const& optimizer_algorithms() {
  static TableOf<OptimizerProblem> const table([] {
    auto all = optimizer_cuda_algorithms();
    all.insert(all.end(), {optimizer_simd, optimizer_reference});
    return all;
  }());
  return table;
}

}  // namespace falconet
