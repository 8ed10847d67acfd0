// Launches that begin while the kernel before them ends (programmatic dependent launch), and launches in clusters of blocks; where the kernels that
// run know neither (compute capability below 9.0), plain launches.
#pragma once
#include <cuda_runtime.h>

#include <utility>

#include "falconet/device/cuda/probe_kernel.h"

namespace falconet {

// The first statement of every kernel that launch_ahead starts: returns when all work ahead of it in the stream is done and can be seen.
// Nothing may be read or written before it. A kernel that left it out would let the one after it overtake its predecessors.
__device__ __forceinline__ void wait_for_work_ahead() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The next kernel's blocks may take their places and wait there, once every block of this one has said so or left. For short kernels of few blocks:
// elsewhere the blocks that wait are in the way of those that work (docs/adr/0109).
__device__ __forceinline__ void let_next_begin() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// The kernel's start overlaps the end of the one before it in the stream, whose blocks have all left by then unless it calls let_next_begin.
// cluster: neighbouring blocks along x that run together and read each other's shared memory. Errors are left to check_launch.
template <class... Parameters, class... Arguments>
void launch_ahead(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared, int cluster, cudaStream_t stream, Arguments&&... arguments) {
  cudaLaunchAttribute attribute[2];
  attribute[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute[0].val.programmaticStreamSerializationAllowed = 1;
  attribute[1].id = cudaLaunchAttributeClusterDimension;
  attribute[1].val.clusterDim.x = unsigned(cluster);
  attribute[1].val.clusterDim.y = attribute[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = attribute;
  config.numAttrs = kernels_compiled_for() < 90 ? 0 : cluster > 1 ? 2 : 1;
  (void)cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

}  // namespace falconet
