#include "falconet/ops/softmax/algorithms.h"

namespace falconet {

TableOf<SoftmaxProblem> const& softmax_algorithms() {
  static TableOf<SoftmaxProblem> const table([] {
    auto all = softmax_cuda_algorithms();
    all.insert(all.end(), {softmax_lanes(), softmax_stored(), softmax_online(), softmax_row_lanes(), softmax_naive(), softmax_reference()});
    return all;
  }());
  return table;
}

}  // namespace falconet
