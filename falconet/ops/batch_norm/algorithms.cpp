#include "falconet/ops/batch_norm/algorithms.h"

namespace falconet {

TableOf<BatchNormProblem> const& batch_norm_algorithms() {
  static TableOf<BatchNormProblem> const table({batch_norm_reference});
  return table;
}

}  // namespace falconet
