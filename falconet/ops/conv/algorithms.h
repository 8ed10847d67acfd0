// All algorithms for convolution. One algorithm is one file with all its directions; its object is named conv_<name>.
#pragma once
#include "falconet/ops/conv/problem.h"

namespace falconet {

extern Algorithm<ConvProblem> const conv_pointwise;     // cpu/pointwise.cpp
extern Algorithm<ConvProblem> const conv_direct;        // cpu/direct.cpp
extern Algorithm<ConvProblem> const conv_im2col_gemm;   // cpu/im2col_gemm.cpp
extern Algorithm<ConvProblem> const conv_amx;           // cpu/amx.cpp
extern Algorithm<ConvProblem> const conv_winograd;      // cpu/winograd.cpp
extern Algorithm<ConvProblem> const conv_depthwise;     // cpu/depthwise.cpp
extern Algorithm<ConvProblem> const conv_dot;           // cpu/dot.cpp
extern Algorithm<ConvProblem> const conv_pixel_groups;  // cpu/pixel_groups.cpp
extern Algorithm<ConvProblem> const conv_grouped;       // cpu/grouped.cpp
extern Algorithm<ConvProblem> const conv_matrix;        // cpu/matrix.cpp
extern Algorithm<ConvProblem> const conv_fft;           // cpu/fft.cpp
extern Algorithm<ConvProblem> const conv_onednn;        // cpu/onednn.cpp, a rival
extern Algorithm<ConvProblem> const conv_openblas;      // cpu/openblas.cpp, a rival
extern Algorithm<ConvProblem> const conv_naive;         // cpu/naive.cpp
extern Algorithm<ConvProblem> const conv_reference;     // reference.cpp

TableOf<ConvProblem> const& conv_algorithms();          // best first, reference last

}  // namespace falconet
