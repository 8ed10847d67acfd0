// Whether this GPU has machine code in this library.
#pragma once
#include <cuda_runtime.h>

namespace falconet {
cudaError_t find_a_kernel();   // on the current device; makes a context
}  // namespace falconet
