// The algorithms of the matrix product.
#pragma once
#include "falconet/device/cpu/threads.h"
#include "falconet/ops/gemm/problem.h"

namespace falconet {

Algorithm<GemmProblem> gemm_blocked();    // packed and cache-blocked, any size, f32 and bf16
Algorithm<GemmProblem> gemm_dot();        // both operands contiguous along k, nothing packed
Algorithm<GemmProblem> gemm_unpacked();   // small and skinny sizes, A is not packed
Algorithm<GemmProblem> gemm_onednn();     // a rival
Algorithm<GemmProblem> gemm_openblas();   // a rival
Algorithm<GemmProblem> gemm_reference();  // the definition

std::vector<Algorithm<GemmProblem>> gemm_cuda_algorithms();  // cuda/; empty without CUDA in the build
TableOf<GemmProblem> const& gemm_algorithms();               // best first, the reference last

}  // namespace falconet
