#include "falconet/ops/dropout/algorithms.h"

namespace falconet {

TableOf<DropoutProblem> const& dropout_algorithms() {
  static TableOf<DropoutProblem> const table([] {
    auto all = dropout_cuda_algorithms();
    all.insert(all.end(), {dropout_simd, dropout_reference});
    return all;
  }());
  return table;
}

}  // namespace falconet
