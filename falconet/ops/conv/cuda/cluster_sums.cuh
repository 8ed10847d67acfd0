// The last step of filter gradients whose clusters of blocks each write a sum: dw and db are the clusters' sums in order.
#pragma once
#include <cstdint>

#include "falconet/device/cuda/launch.cuh"

namespace falconet {

// partial: [clusters][elements], the filter's first; db may be null. 128 threads a block, a thread an element.
static __global__ void __launch_bounds__(128) add_clusters(float const* partial, int clusters, int elements, int filter_elements, float* dw, float* db) {
  wait_for_work_ahead();
  int const i = blockIdx.x * 128 + threadIdx.x;
  if (i >= elements) return;
  float total = 0;
#pragma unroll 16
  for (int j = 0; j < clusters; ++j) total += partial[std::int64_t(j) * elements + i];
  if (i < filter_elements) dw[i] = total;
  else if (db) db[i - filter_elements] = total;
}

}  // namespace falconet
