#include "falconet/ops/optimizer/algorithms.h"

namespace falconet {

TableOf<OptimizerProblem> const& optimizer_algorithms() {
  static TableOf<OptimizerProblem> const table({optimizer_simd, optimizer_reference});
  return table;
}

}  // namespace falconet
