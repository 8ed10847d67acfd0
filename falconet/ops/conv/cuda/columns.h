// The convolution as a product with the matrix of patches written out, as Li, Goebel and Fu, "ResNet with efficient GPU kernels" (2019), section 3.4,
// describe it; every stage is a kernel of its own over all elements (a grid-stride loop), so that each can be read, timed and exchanged:
//   pad             x -> padded[n][c][h + pads][w + pads]
//   im2col          padded -> columns[c*r*s][p*q*n]: a row for every weight of a filter, a column for every result, images innermost
//   the product     products[k][p*q*n] = w[k][c*r*s] * columns
//   transpose 3012  products[k][p][q][n] -> y, through the store slots
// and back: transpose 1230 (dy -> [k][p][q][n]), dw = dy * columns^T, dcolumns = w^T * dy, col2im (dcolumns -> dx).
// Rows stand in the order in which a filter lies in memory, (c,r,s) for nchw and (r,s,c) for nhwc, so that w needs no copy.
// What im2col_v1, im2col_v2, im2col_atomic and im2col_cublas share. Cost: 2 n k p q c r s operations; the matrix, r*s times x (less with a
// stride), written once and read once or more.
#pragma once
#include <functional>

#include "falconet/ops/conv/problem.h"
#include "falconet/ops/gemm/cuda/tiled.h"

namespace falconet::columns {

// per_position: a thread copies (or gathers) all r*s elements of one place of the filter. per_element: a thread for every element of the matrix.
enum class Mapping { per_position, per_element };
enum class Gathering { ordered, atomic };                  // of col2im: every pixel adds what it is owed, or every element adds itself to its pixel

struct Multiply {
  std::size_t (*scratch)(GemmProblem const&);              // bytes
  void (*run)(GemmProblem const&, GemmArgs const&, View scratch, Stream&);
};

// Why this form does not run the problem; empty if it does. f32, no groups; store slots up to the mask, none in the filter gradient.
std::string reject(ConvProblem const&, Gathering);
GemmProblem product(ConvProblem const&);                   // of the problem's direction
std::size_t scratch(ConvProblem const&, Gathering, Multiply const&);
double seconds(ConvProblem const&, Mapping, double product_seconds);
std::vector<Config> configs(ConvProblem const&, DeviceFacts const&);          // threads:256,blocks:0; blocks 0: as many as there is work for
std::vector<LaunchRange> ranges(ConvProblem const&, DeviceFacts const&);
void run(char const* name, ConvProblem const&, Config const&, ConvArgs const&, View scratch, Stream&, Mapping, Gathering, Multiply const&);

}  // namespace falconet::columns
