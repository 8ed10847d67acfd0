// The parts of halo_wgmma, which stand in files of their own.
#pragma once
#include <cuda_runtime.h>

#include "falconet/ops/conv/problem.h"

namespace falconet {

// The filter gradient: memory for blocks * 64 * (576 + 3 with a bias gradient) floats.
void launch_halo_filter(ConvProblem const&, ConvArgs const&, int blocks, View memory, cudaStream_t);

}  // namespace falconet
