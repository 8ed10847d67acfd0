#include "falconet/ops/gemm/algorithms.h"

namespace falconet {

TableOf<GemmProblem> const& gemm_algorithms() {
  static TableOf<GemmProblem> const table([] {
    auto all = gemm_cuda_algorithms();
    all.insert(all.end(), {gemm_blocked(), gemm_dot(), gemm_unpacked(), gemm_onednn(), gemm_openblas(), gemm_reference()});
    return all;
  }());
  return table;
}

}  // namespace falconet
