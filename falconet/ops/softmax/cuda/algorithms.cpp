#include "falconet/ops/softmax/cuda/algorithms.h"

namespace falconet {

std::vector<Algorithm<SoftmaxProblem>> softmax_cuda_algorithms() {
  return {softmax_cuda_registers, softmax_cuda_online, softmax_cuda_columns, softmax_cuda_warp, softmax_cuda_naive};
}

}  // namespace falconet
