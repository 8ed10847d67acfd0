// Without CUDA in the build no operation has CUDA algorithms.
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/batch_norm/algorithms.h"
#include "falconet/ops/conv_norm/algorithms.h"
#include "falconet/ops/copy/algorithms.h"
#include "falconet/ops/dropout/algorithms.h"
#include "falconet/ops/elementwise/algorithms.h"
#include "falconet/ops/gemm/algorithms.h"
#include "falconet/ops/loss/algorithms.h"
#include "falconet/ops/optimizer/algorithms.h"
#include "falconet/ops/pool/algorithms.h"
#include "falconet/ops/reduce/algorithms.h"
#include "falconet/ops/softmax/algorithms.h"

namespace falconet {

std::span<Algorithm<ConvProblem> const* const> conv_cuda_algorithms() { return {}; }
std::vector<Algorithm<BatchNormProblem>> batch_norm_cuda_algorithms() { return {}; }
std::vector<Algorithm<ConvNormProblem>> conv_norm_cuda_algorithms() { return {}; }
std::vector<Algorithm<CopyProblem>> copy_cuda_algorithms() { return {}; }
std::vector<Algorithm<ElementwiseProblem>> elementwise_cuda_algorithms() { return {}; }
std::vector<Algorithm<DropoutProblem>> dropout_cuda_algorithms() { return {}; }
std::vector<Algorithm<GemmProblem>> gemm_cuda_algorithms() { return {}; }
std::vector<Algorithm<LossProblem>> loss_cuda_algorithms() { return {}; }
std::vector<Algorithm<OptimizerProblem>> optimizer_cuda_algorithms() { return {}; }
std::vector<Algorithm<PoolProblem>> pool_cuda_algorithms() { return {}; }
std::vector<Algorithm<ReduceProblem>> reduce_cuda_algorithms() { return {}; }
std::vector<Algorithm<SoftmaxProblem>> softmax_cuda_algorithms() { return {}; }

}  // namespace falconet
