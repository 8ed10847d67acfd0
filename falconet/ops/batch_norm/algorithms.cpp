#include "falconet/ops/batch_norm/algorithms.h"

namespace falconet {

TableOf<BatchNormProblem> const& batch_norm_algorithms() {
  static TableOf<BatchNormProblem> const table([] {
    auto all = batch_norm_cuda_algorithms();
    all.insert(all.end(), {batch_norm_reference});
    return all;
  }());
  return table;
}

}  // namespace falconet
