#include "falconet/ops/gemm/algorithms.h"

namespace falconet {

TableOf<GemmProblem> const& gemm_algorithms() {
  static TableOf<GemmProblem> const table({
      gemm_blocked(),
      gemm_dot(),
      gemm_reference(),
  });
  return table;
}

}  // namespace falconet
