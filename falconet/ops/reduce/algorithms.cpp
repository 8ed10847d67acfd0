#include "falconet/ops/reduce/algorithms.h"

namespace falconet {

TableOf<ReduceProblem> const& reduce_algorithms() {
  static TableOf<ReduceProblem> const table([] {
    auto all = reduce_cuda_algorithms();
    all.insert(all.end(), {reduce_blocked, reduce_reference});
    return all;
  }());
  return table;
}

}  // namespace falconet
