// Cross-entropy with the linear layer ahead of it, both ways (f32, Hopper).
#pragma once
#include "falconet/ops/loss/problem.h"

namespace falconet {

Algorithm<LossProblem> loss_cuda_linear_rows();

}  // namespace falconet
