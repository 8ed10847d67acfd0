// Turns CUDA's return codes into device errors that name the call and what ran. For sources of the CUDA side only.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <string>

namespace falconet {

// Throws a device error "CALL failed: DESCRIPTION (NAME)[; WHILE]" unless the code is cudaSuccess.
void check_cuda(cudaError_t code, char const* call, std::string const& context = {});
#define FALCONET_CUDA(call) ::falconet::check_cuda((call), #call)

// To be called after every launch: reports a refused launch, and under CudaCheck::sync also a fault of the kernel itself. The
// problem's text is only made when there is something to report.
template <class Problem>
void check_launch(char const* kernel, Problem const& problem, cudaStream_t stream);
cudaError_t launch_result(cudaStream_t stream);
// A device error "launching kernel K failed: DESCRIPTION (NAME); problem 'P'"; the session that ran it adds layer and direction.
[[noreturn]] void fail_launch(cudaError_t code, char const* kernel, std::string const& problem);

template <class Problem>
void check_launch(char const* kernel, Problem const& problem, cudaStream_t stream) {
  if (cudaError_t code = launch_result(stream); code != cudaSuccess) fail_launch(code, kernel, problem.text());
}

// Allows a kernel its dynamic shared memory, or as much as a block may have on the current device where that is less: a launch that needs more than
// that is refused by itself. Steady steps replay a graph and never come here.
template <class Kernel>
void allow_shared_memory(Kernel* kernel, int bytes) {
  if (bytes <= 48 << 10) return;
  int device = 0, most = 0;
  cudaFuncAttributes own{};   // what the kernel declares counts too
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "cudaDeviceGetAttribute");
  check_cuda(cudaFuncGetAttributes(&own, kernel), "cudaFuncGetAttributes");
  bytes = std::min(bytes, most - int(own.sharedSizeBytes));
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "cudaFuncSetAttribute",
             std::to_string(bytes) + " bytes of shared memory");
}

}  // namespace falconet
