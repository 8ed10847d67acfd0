// Sums over rows of f32 in a fixed order: the bias gradient of a convolution whose dy has been transformed tile by tile, of which one element is the tile's sum.
#pragma once
#include <algorithm>
#include <cstdint>

namespace falconet {
namespace {

// sums[part][k] = the sum of rows_of_part rows of values[row][k], 8 threads a column taking every eighth, then added in order.
constexpr int rows_of_part = 256;
__global__ void __launch_bounds__(256) add_rows(float const* values, int rows, int row, int columns, int sums_row, float* sums) {
  __shared__ float part[8][32];
  int const column = blockIdx.x * 32 + threadIdx.x, first = blockIdx.y * rows_of_part, end = min(rows, first + rows_of_part);
  float sum = 0;
  if (column < columns)
#pragma unroll 8
    for (int i = first + threadIdx.y; i < end; i += 8) sum += values[std::int64_t(i) * row + column];
  part[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || column >= columns) return;
  for (int i = 1; i < 8; ++i) sum += part[i][threadIdx.x];
  sums[std::int64_t(blockIdx.y) * sums_row + column] = sum;
}
// Floats of `between` below.
inline std::size_t row_sums_floats(int rows, int columns) { return std::size_t(rows / rows_of_part * 2 + 64) * std::size_t(columns); }
// result[k] = the sum of values[row][k] over all rows, which lie `row` floats apart.
inline void add_all_rows(float const* values, int rows, int row, int columns, float* between, float* result, cudaStream_t stream) {
  for (;;) {
    int const parts = (rows + rows_of_part - 1) / rows_of_part;
    add_rows<<<dim3(unsigned((columns + 31) / 32), unsigned(parts)), dim3(32, 8), 0, stream>>>(values, rows, row, columns, columns,
                                                                                              parts == 1 ? result : between);
    if (parts == 1) return;
    values = between, row = columns, rows = parts;
    between += std::int64_t(parts) * columns;
  }
}

}  // namespace
}  // namespace falconet
