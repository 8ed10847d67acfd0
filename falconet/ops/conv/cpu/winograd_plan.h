// Host half of the Winograd convolution: sizes that winograd.cpp and winograd_filter.cpp share.
#pragma once
#include <algorithm>
#include <cstdint>

#include "falconet/ops/conv/cpu/winograd.h"
#include "falconet/ops/conv/problem.h"
#include "falconet/ops/gemm/cpu/packed.h"

namespace falconet::winograd {

inline std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
inline std::int64_t round_up(std::int64_t a, std::int64_t b) { return divide_up(a, b) * b; }

constexpr std::int64_t max_block = 192;  // columns of a packed B block: four panels of three vectors

// A dimension of the products in even blocks of whole 16s, at most max_block each.
inline std::int64_t block_of(std::int64_t columns) {
  std::int64_t const sixteens = divide_up(columns, 16);
  return divide_up(sixteens, divide_up(sixteens, max_block / 16)) * 16;
}

inline int tile_of(ConvProblem const&, Config const& config) { return config.get("tile", 2) == 4 ? 4 : 2; }
inline WinogradTiles tiles_of(float const* data, int height, int width, int channels, int m, int pad_top, int pad_left, int rows, int columns) {
  return {data, height, width, channels, m, -pad_top, -pad_left, rows, columns};
}

std::size_t filter_scratch(ConvProblem const&, int m);
void filter_run(ConvProblem const&, int m, ConvArgs const&, View scratch, Stream&);

}  // namespace falconet::winograd
