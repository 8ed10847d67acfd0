// Clusters: neighbouring blocks that run together and read each other's shared memory (compute capability 9.0).
#pragma once
#include <cooperative_groups.h>

namespace falconet {

// The block's cluster, as in cooperative_groups. Code for compute capabilities without clusters has one block in its place; kernels that need more are
// not launched there, because their algorithms reject such devices.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
using cooperative_groups::this_cluster;
#else
struct ClusterOfOne {
  __device__ unsigned block_rank() const { return 0; }
  __device__ unsigned num_blocks() const { return 1; }
  __device__ void sync() const { __syncthreads(); }
  __device__ void barrier_arrive() const {}
  __device__ void barrier_wait() const { __syncthreads(); }
  template <class T>
  __device__ T* map_shared_rank(T* here, unsigned) const { return here; }
};
__device__ __forceinline__ ClusterOfOne this_cluster() { return {}; }
#endif

}  // namespace falconet
