#include "falconet/ops/conv/cuda/algorithms.h"

#include "falconet/ops/conv/cuda/implicit_gemm_3xtf32.h"

namespace falconet {

std::span<Algorithm<ConvProblem> const* const> conv_cuda_algorithms() {
  static Algorithm<ConvProblem> const* const table[] = {
      &conv_cuda_halo_wgmma, &conv_cuda_stem_wgmma, &conv_cuda_stem_3x3_wgmma, &conv_cuda_stem_data_wgmma, &conv_cuda_halo_mma,
      &conv_cuda_halo_mma_filter, &conv_cuda_implicit_gemm_wgmma, &conv_cuda_split_k_wgmma, &conv_cuda_unstaged, &conv_cuda_unstaged_clusters, &conv_cuda_unstaged_mma, &conv_cuda_direct_lanes,
      &conv_cuda_direct, &conv_cuda_winners_filter, &conv_cuda_direct_filter, &conv_cuda_tiled, &conv_cuda_pointwise_mma, &conv_cuda_depthwise_tma, &conv_cuda_depthwise,
      &conv_cuda_grouped, &conv_cuda_winograd, &conv_cuda_fft, &conv_cuda_fused_pool, &conv_cuda_implicit_gemm_tf32, &conv_cuda_implicit_gemm_3xtf32, &conv_cuda_implicit_gemm,
      &conv_cuda_im2col_v2, &conv_cuda_im2col_v1, &conv_cuda_im2col_atomic, &conv_cuda_im2col_cublas, &conv_cuda_cudnn, &conv_cuda_naive};
  return table;
}

}  // namespace falconet
