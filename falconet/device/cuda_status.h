// Whether NVIDIA GPUs can be used, and if not, why, in one line. The questions go through a table of functions, so that every answer of
// driver and runtime can be tried out where no GPU is; the codes are cudaError_t's numbers. Free of CUDA's own headers.
#pragma once
#include <functional>
#include <string>

namespace falconet {

struct CudaStatus {
  bool built = false;            // this library has its CUDA side
  int devices = 0;               // seen by the runtime; cuda_refusal() says which of them can be used
  int driver_version = 0;        // 13000 for 13.0; 0: no driver
  int runtime_version = 0;       // the runtime inside this library
  std::string architectures;     // kernels built for: "sm_90a", or "sm_80, sm_90a, PTX 8.0"
  std::string reason;            // why devices == 0, one line; empty otherwise
};

struct CudaProbe {
  bool built = false;
  std::string architectures;
  std::function<int(int& version)> driver_version, runtime_version;
  std::function<int(int& count)> device_count;
  std::function<int(int device)> try_device;               // makes a context and looks up a kernel of this library
  std::function<std::string(int device)> device_name;      // "NVIDIA H200 (compute capability 9.0)"
  std::function<std::string(int code)> describe;           // "out of memory (cudaErrorMemoryAllocation)"
};
CudaProbe const& real_cuda_probe();              // of this library: device/cuda/, or device/no_cuda.cpp

// Never throw. Answers are kept: a machine's GPUs do not change under a program.
CudaStatus cuda_status();
std::string cuda_refusal(int device);            // why this GPU cannot be used, one line; empty when it can

// For tests: ask this instead of the machine; nullptr: the machine again.
void set_cuda_probe(CudaProbe const*);

// "CALL failed: DESCRIPTION; kernel K, problem 'P'": what a failed launch says. Codes that a kernel causes while it runs surface at a
// later call; unless launches are being checked one by one, the text then says how to find the kernel.
std::string cuda_failure(std::string const& call, int code, std::string const& description, std::string const& context, bool checked);

}  // namespace falconet
