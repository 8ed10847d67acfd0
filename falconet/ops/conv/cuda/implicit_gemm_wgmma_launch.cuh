// The launch of implicit_gemm_wgmma's kernel, and the ordered sum of its per-block statistics.
#pragma once
#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/device/cuda/tensor_map.h"
#include "falconet/ops/conv/cuda/implicit_gemm_wgmma.cuh"
#include "falconet/ops/conv/cuda/implicit_gemm_wgmma.h"

namespace falconet::wgmma_conv {

// stats[0][c], stats[1][c]: the blocks' partial sums, in the order of the blocks; one warp per channel.
static __global__ void __launch_bounds__(256) sum_partials(float const* partial, int blocks, int channel_tiles, int channels_of_tile, int channels, bool dot,
                                                           float* stats) {
  int const channel = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
  wait_for_work_ahead();
  if (channel >= channels) return;
  double total = 0, product = 0;
  for (int i = lane; i < 2 * (blocks / channel_tiles); i += 32) {
    int const block = i / 2 * channel_tiles + channel / channels_of_tile;
    float const* const p = partial + (block * 2 + i % 2) * 2 * channels_of_tile + channel % channels_of_tile;
    total += p[0], product += p[channels_of_tile];
  }
  for (int step = 16; step > 0; step /= 2) {
    total += __shfl_xor_sync(~0u, total, step);
    product += __shfl_xor_sync(~0u, product, step);
  }
  if (lane == 0) stats[channel] = float(dot ? product : total), stats[channels + channel] = float(dot ? total : product);
}

template <class F>
void launch_form(ConvProblem const& problem, Work work, View scratch, float* stats, cudaStream_t stream) {
  static bool const allowed = (allow_shared_memory(implicit_gemm<F>, F::shared_bytes), true);
  (void)allowed;
  work.partial = scratch.as<float>();
  int const blocks = blocks_for(work.tiles, work.channel_tiles, work.has_stats);
  launch_ahead(implicit_gemm<F>, dim3(unsigned(blocks)), dim3(F::threads), F::shared_bytes, 1, stream, work);
  if (work.has_stats)
    launch_ahead(sum_partials, dim3(unsigned((work.channels + 7) / 8)), dim3(256), 0, 1, stream, work.partial, blocks, work.channel_tiles, F::channels, work.channels,
                 F::beside, stats);
  check_launch("conv implicit_gemm_wgmma", problem, stream);
}

}  // namespace falconet::wgmma_conv
