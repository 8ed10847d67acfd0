#include "falconet/ops/pool/algorithms.h"

namespace falconet {

TableOf<PoolProblem> const& pool_algorithms() {
  static TableOf<PoolProblem> const table({
      pool_channel_lanes_algorithm(),
      pool_reference(),
  });
  return table;
}

}  // namespace falconet
