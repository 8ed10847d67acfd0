#include "falconet/ops/conv/algorithms.h"

#include "falconet/ops/conv/cuda/algorithms.h"

namespace falconet {

TableOf<ConvProblem> const& conv_algorithms() {
  static TableOf<ConvProblem> const table([] {
    std::vector<Algorithm<ConvProblem>> all;
    for (auto const* algorithm : conv_cuda_algorithms()) all.push_back(*algorithm);
    all.insert(all.end(), {conv_depthwise, conv_pointwise, conv_direct, conv_amx, conv_im2col_gemm, conv_winograd, conv_dot, conv_pixel_groups, conv_grouped, conv_matrix, conv_fft, conv_onednn,
                           conv_openblas, conv_naive,
                           conv_reference});
    return all;
  }());
  return table;
}

}  // namespace falconet
