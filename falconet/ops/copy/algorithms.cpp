#include "falconet/ops/copy/algorithms.h"

namespace falconet {

TableOf<CopyProblem> const& copy_algorithms() {
  static TableOf<CopyProblem> const table([] {
    auto all = copy_cuda_algorithms();
    all.insert(all.end(), {copy_rows(), copy_blocks(), copy_reference()});
    return all;
  }());
  return table;
}

}  // namespace falconet
