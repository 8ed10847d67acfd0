#include "falconet/ops/copy/algorithms.h"

namespace falconet {

TableOf<CopyProblem> const& copy_algorithms() {
  static TableOf<CopyProblem> const table({
      copy_reference(),
  });
  return table;
}

}  // namespace falconet
