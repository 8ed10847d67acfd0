// Without CUDA in the build no operation has CUDA algorithms.
#include "falconet/ops/conv/cuda/algorithms.h"

namespace falconet {

std::span<Algorithm<ConvProblem> const* const> conv_cuda_algorithms() { return {}; }

}  // namespace falconet
