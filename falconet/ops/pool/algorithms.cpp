#include "falconet/ops/pool/algorithms.h"

namespace falconet {

TableOf<PoolProblem> const& pool_algorithms() {
  static TableOf<PoolProblem> const table([] {
    auto all = pool_cuda_algorithms();
    all.insert(all.end(), {pool_channel_lanes_algorithm(), pool_separable(), pool_scatter(), pool_unfold(), pool_naive(), pool_reference()});
    return all;
  }());
  return table;
}

}  // namespace falconet
