// The fused form of winograd.cu, forward and data gradient: see winograd_fused.cu.
#pragma once
#include "falconet/ops/conv/cuda/winograd.cuh"

namespace falconet::winograd {

// Channels of the source in whole vectors of four, up to fused_most_channels; read plainly or through scale_shift and an activation.
constexpr int fused_most_channels = 64;   // the tensor cores' sums run over all of them, their last bits cut off; and beyond, the unfused form is as fast
inline bool fused_accepts(ConvProblem const& p) {
  bool const data = p.direction == Direction::bwd_data;
  int const in = data ? p.k : p.c;
  return p.direction != Direction::bwd_filter && in % 4 == 0 && in <= fused_most_channels && p.load_dy == OnLoad{} &&
         std::int64_t(p.n) * in * (data ? std::int64_t(p.p()) * p.q() : std::int64_t(p.h) * p.w) < std::int64_t(1) << 31;
}
std::size_t fused_filter_floats(int m, int in, int out);
int fused_shared_bytes(int m);   // of a block
double fused_seconds(int m, std::int64_t tiles, int in, int out);
// w as [k][3][3][c]; data: of the data gradient, turned by 180 degrees, channels the results. Errors are left to check_launch.
void transform_filter_fused(int m, float const* w, int c, int k, bool data, float* to, cudaStream_t);
void run_fused(int m, Source const&, Result const&, Tiles const&, float const* filters, cudaStream_t);

}  // namespace falconet::winograd
