#include "falconet/ops/dropout/algorithms.h"

namespace falconet {

TableOf<DropoutProblem> const& dropout_algorithms() {
  static TableOf<DropoutProblem> const table({dropout_simd, dropout_reference});
  return table;
}

}  // namespace falconet
