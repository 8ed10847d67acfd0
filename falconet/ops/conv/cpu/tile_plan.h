// Host half of the convolutions in a transformed domain: what winograd.cpp and fft.cpp tell the drivers of tile_products.h.
#pragma once
#include <algorithm>
#include <cstdint>

#include "falconet/ops/conv/cpu/tile_products.h"
#include "falconet/ops/conv/problem.h"

namespace falconet::tiles {

inline std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
inline std::int64_t round_up(std::int64_t a, std::int64_t b) { return divide_up(a, b) * b; }

struct Domain {
  int size, elements, parts;   // see tile_products.h
  int step_h, step_w;          // results of a tile
  int extent_h, extent_w;      // pixels of a tile that are read
  TileKernels const& (*kernels)(Isa);
};

constexpr std::int64_t max_block = 192;  // columns of a packed B block: four panels of three vectors

// Columns, whole 16s of them, in even blocks of at most max_block each.
inline std::int64_t block_of(std::int64_t columns) {
  std::int64_t const sixteens = columns / 16;
  return divide_up(sixteens, divide_up(sixteens, max_block / 16)) * 16;
}

// Forward and data gradient: how many products, and in which rounds. A function of the problem alone.
struct GatherSplit {
  int elements, rows, columns;                // of the domain; of tiles in an image
  int channels, outputs;                      // summed over; of the result
  std::int64_t tiles, round, wide, depth, wide_columns, piece, block;
  GatherSplit(ConvProblem const&, Domain const&);
  std::int64_t blocks() const { return divide_up(wide_columns, block); }
  std::int64_t filter_floats() const { return elements * wide_columns * depth; }
  std::int64_t round_floats() const { return elements * round * (wide_columns + depth); }
};

std::string reject(ConvProblem const&);       // what neither domain does
std::size_t scratch(ConvProblem const&, Domain const&);
// The transformed filter, with which the scratch memory begins if it is not made beforehand; 0 bytes for the filter gradient.
std::size_t prepared(ConvProblem const&, Domain const&);
void prepare(ConvProblem const&, Domain const&, ConvArgs const&, View to, Stream&);
void run(ConvProblem const&, Domain const&, ConvArgs const&, View scratch, Stream&);

std::size_t filter_scratch(ConvProblem const&, Domain const&);
void filter_run(ConvProblem const&, Domain const&, ConvArgs const&, View scratch, Stream&);

// Estimated cycles of one core: the products, and what is moved through transforms that take `work` vector operations for an element.
double cycles(ConvProblem const&, Domain const&, DeviceFacts const&, double work);

}  // namespace falconet::tiles
