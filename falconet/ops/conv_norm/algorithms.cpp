#include "falconet/ops/conv_norm/algorithms.h"

namespace falconet {

TableOf<ConvNormProblem> const& conv_norm_algorithms() {
  static TableOf<ConvNormProblem> const table([] {
    auto all = conv_norm_cuda_algorithms();
    all.push_back(conv_norm_reference);
    return all;
  }());
  return table;
}

}  // namespace falconet
