#include "falconet/ops/copy/algorithms.h"

namespace falconet {

TableOf<CopyProblem> const& copy_algorithms() {
  static TableOf<CopyProblem> const table({
      copy_rows(),
      copy_blocks(),
      copy_reference(),
  });
  return table;
}

}  // namespace falconet
