#include "falconet/device/cuda/probe_kernel.h"

namespace falconet {
namespace {
__global__ void nothing() {}
}  // namespace

cudaError_t find_a_kernel() {
  if (cudaError_t const code = cudaFree(nullptr); code != cudaSuccess) return code;   // the context
  cudaFuncAttributes found{};
  return cudaFuncGetAttributes(&found, nothing);
}

}  // namespace falconet
