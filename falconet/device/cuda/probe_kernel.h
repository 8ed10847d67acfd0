// Whether this library has kernels for this GPU, and for which architecture they were compiled.
#pragma once
#include <cuda_runtime.h>

namespace falconet {
cudaError_t find_a_kernel();   // on the current device; makes a context
// Compute capability, 80 for 8.0, of the code that runs on the current device: its own, or a smaller one whose machine code or PTX serves it too. 90
// means sm_90a, with all that Hopper has (cmake/FalconetCuda.cmake builds no other code of 9.0). Asked once for each device; 0 when it cannot be told.
int kernels_compiled_for();
}  // namespace falconet
