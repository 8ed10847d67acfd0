// The sums of blocks, added in a fixed order by a second kernel of 32 x 32 threads, 32 elements a block.
#pragma once
#include <cstdint>

#include "falconet/device/cuda/launch.cuh"

namespace falconet {

// finish(i, total) for each element i, by one thread: total = sum over the blocks of partial[block][i], in f64, 32 shares of the blocks first.
template <class Finish>
__device__ __forceinline__ void add_over_blocks(float const* partial, int blocks, int elements, Finish const& finish) {
  constexpr int batch = 16;
  __shared__ double shares[32][33];
  int const lane = threadIdx.x, share = threadIdx.y, i = blockIdx.x * 32 + lane;
  wait_for_work_ahead();
  double total = 0;
  for (int first = share; first < blocks; first += 32 * batch) {
    float v[batch];   // all under way before the first is added
#pragma unroll
    for (int u = 0; u < batch; ++u) {
      int const b = first + 32 * u;
      v[u] = b < blocks && i < elements ? partial[std::int64_t(b) * elements + i] : 0.f;
    }
#pragma unroll
    for (int u = 0; u < batch; ++u) total += double(v[u]);
  }
  shares[share][lane] = total;
  __syncthreads();
  if (share > 0 || i >= elements) return;
  total = 0;
#pragma unroll
  for (int s = 0; s < 32; ++s) total += shares[s][lane];
  finish(i, total);
}

}  // namespace falconet
