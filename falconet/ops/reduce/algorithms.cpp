#include "falconet/ops/reduce/algorithms.h"

namespace falconet {

TableOf<ReduceProblem> const& reduce_algorithms() {
  static TableOf<ReduceProblem> const table({reduce_blocked, reduce_reference});
  return table;
}

}  // namespace falconet
