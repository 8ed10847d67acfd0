// The convolution algorithms that run on NVIDIA GPUs. conv/algorithms.cpp appends conv_cuda_algorithms() to its table; without
// CUDA in the build the list is empty (ops/no_cuda.cpp).
#pragma once
#include <span>

#include "falconet/ops/conv/problem.h"

namespace falconet {

// Best first.
std::span<Algorithm<ConvProblem> const* const> conv_cuda_algorithms();

extern Algorithm<ConvProblem> const conv_cuda_halo_wgmma;             // 3x3 of 64 channels, bf16 nhwc, Hopper
extern Algorithm<ConvProblem> const conv_cuda_halo_mma;               // 16, 32, 64 channels, 3x3 and 1x1, forward and data gradient, bf16 nhwc
extern Algorithm<ConvProblem> const conv_cuda_halo_mma_filter;        // their filter gradient
extern Algorithm<ConvProblem> const conv_cuda_stem_wgmma;             // 7x7 stride 2, 3 to 64 channels, bf16 nhwc, Hopper
extern Algorithm<ConvProblem> const conv_cuda_stem_3x3_wgmma;         // 3x3 stride 1 and 2, 3 to 32 or 64 channels, forward and filter gradient, bf16 nhwc, Hopper
extern Algorithm<ConvProblem> const conv_cuda_stem_data_wgmma;        // data gradient of a first convolution: 3 channels, stride 2, up to 7x7, bf16 nhwc, Hopper
extern Algorithm<ConvProblem> const conv_cuda_implicit_gemm_wgmma;    // forward and data gradient, bf16 nhwc, Hopper
extern Algorithm<ConvProblem> const conv_cuda_split_k_wgmma;          // filter gradient, bf16 nhwc, Hopper
extern Algorithm<ConvProblem> const conv_cuda_unstaged;               // the smallest 3x3 problems, f32 nhwc
extern Algorithm<ConvProblem> const conv_cuda_unstaged_clusters;      // their filter gradient, Hopper
extern Algorithm<ConvProblem> const conv_cuda_unstaged_mma;           // small 3x3 problems by tensor cores at f32's accuracy, Hopper and later, f32 nhwc
extern Algorithm<ConvProblem> const conv_cuda_direct_lanes;           // the same problems as direct, input channels shared among lanes
extern Algorithm<ConvProblem> const conv_cuda_direct;                 // forward and data gradient, few channels, 3x3 and 5x5, f32 nhwc
extern Algorithm<ConvProblem> const conv_cuda_direct_filter;          // filter gradient of the same, Hopper
extern Algorithm<ConvProblem> const conv_cuda_fused_pool;             // with max-pooling of 2x2, any filter without groups, bf16 and f32 nhwc
extern Algorithm<ConvProblem> const conv_cuda_depthwise;              // groups = channels = filters, 3x3 and 5x5, bf16 and f32 nhwc
extern Algorithm<ConvProblem> const conv_cuda_grouped;                // more than one group, not depthwise, bf16 and f32 nhwc
extern Algorithm<ConvProblem> const conv_cuda_winograd;               // 3x3 of stride 1, f32 nhwc, tensor cores at f32's accuracy
extern Algorithm<ConvProblem> const conv_cuda_fft;                    // large filters of stride 1, f32 nhwc, tensor cores at f32's accuracy
extern Algorithm<ConvProblem> const conv_cuda_depthwise_tma;          // the same 3x3 in bf16 between batch norms: forward, and both gradients at once, Hopper
extern Algorithm<ConvProblem> const conv_cuda_pointwise_mma;          // 1x1 between few and many channels in bf16: forward, and both gradients at once, Hopper
extern Algorithm<ConvProblem> const conv_cuda_implicit_gemm_tf32;     // any f32 nhwc problem without groups that allows TF32, tensor cores
extern Algorithm<ConvProblem> const conv_cuda_implicit_gemm;          // any nhwc problem without groups, f32 and bf16, ordinary cores
extern Algorithm<ConvProblem> const conv_cuda_tiled;                  // many channels, f32 nhwc; filter gradient 3x3
extern Algorithm<ConvProblem> const conv_cuda_im2col_v2;              // f32, both layouts: the matrix of patches written out, a thread per element
extern Algorithm<ConvProblem> const conv_cuda_im2col_v1;              // the same, a thread per place of the filter
extern Algorithm<ConvProblem> const conv_cuda_im2col_atomic;          // its data gradient with atomicAdd: in bench alone
extern Algorithm<ConvProblem> const conv_cuda_im2col_cublas;          // im2col_v2 with cuBLASLt's product: a rival
extern Algorithm<ConvProblem> const conv_cuda_cudnn;                  // every engine of cuDNN: a rival
extern Algorithm<ConvProblem> const conv_cuda_naive;                  // any problem, f64, f32, bf16

}  // namespace falconet
