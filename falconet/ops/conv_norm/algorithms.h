// The algorithms for a convolution with batch norm at its result, best first.
#pragma once
#include "falconet/ops/conv_norm/problem.h"

namespace falconet {

extern Algorithm<ConvNormProblem> const conv_norm_reference;
extern Algorithm<ConvNormProblem> const conv_norm_cuda_one_wave;   // 16 and 32 channels, all blocks at once

std::vector<Algorithm<ConvNormProblem>> conv_norm_cuda_algorithms();   // cuda/; empty without CUDA in the build
TableOf<ConvNormProblem> const& conv_norm_algorithms();

}  // namespace falconet
