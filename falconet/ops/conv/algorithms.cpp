#include "falconet/ops/conv/algorithms.h"

namespace falconet {

TableOf<ConvProblem> const& conv_algorithms() {
  static TableOf<ConvProblem> const table({
      conv_direct,
      conv_im2col_gemm,
      conv_naive,
      conv_reference,
  });
  return table;
}

}  // namespace falconet
