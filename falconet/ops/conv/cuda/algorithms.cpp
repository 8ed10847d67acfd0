#include "falconet/ops/conv/cuda/algorithms.h"

namespace falconet {

std::span<Algorithm<ConvProblem> const* const> conv_cuda_algorithms() {
  static Algorithm<ConvProblem> const* const table[] = {
      &conv_cuda_halo_wgmma, &conv_cuda_stem_wgmma, &conv_cuda_halo_mma, &conv_cuda_halo_mma_filter, &conv_cuda_implicit_gemm_wgmma, &conv_cuda_split_k_wgmma,
      &conv_cuda_unstaged, &conv_cuda_direct, &conv_cuda_direct_filter, &conv_cuda_pointwise_mma, &conv_cuda_depthwise_tma, &conv_cuda_depthwise, &conv_cuda_implicit_gemm_tf32, &conv_cuda_implicit_gemm,
      &conv_cuda_naive};
  return table;
}

}  // namespace falconet
