// falconet's own f32 matrix product as the middle stage of im2col_v1 and im2col_v2.
#pragma once
#include "falconet/ops/conv/cuda/columns.h"
#include "falconet/ops/gemm/cuda/tiled.h"

namespace falconet::columns {

inline Multiply own_product() {
  return {[](GemmProblem const& p) { return gemm_cuda_tiled().scratch(p, {}); },
          [](GemmProblem const& p, GemmArgs const& args, View memory, Stream& on) { gemm_cuda_tiled().run(p, {}, args, memory, on); }};
}
inline double own_product_seconds(GemmProblem const& p, DeviceFacts const& facts) { return gemm_cuda_tiled().seconds(p, facts); }

}  // namespace falconet::columns
