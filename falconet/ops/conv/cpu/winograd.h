// What the halves of winograd.cpp, winograd_filter.cpp and winograd_transforms.cpp share: plain data, and the kernels that bring tiles
// into the transformed domain and back. Letters: a tile has m x m results (m = 2 or 4) and a x a elements in the domain, a = m + 2.
#pragma once
#include <cstdint>

#include "falconet/device/cpu/isa.h"

namespace falconet {

// An image [n][height][width][channels] cut into tiles, counted through all images: tile (n, i, j) begins at row i * m + first_h and
// column j * m + first_w. What lies outside the image is zero.
struct WinogradTiles {
  float const* data = nullptr;
  int height = 0, width = 0, channels = 0;
  int m = 2, first_h = 0, first_w = 0;
  int rows = 0, columns = 0;  // of tiles in an image
  std::int64_t grid() const { return std::int64_t(rows) * columns; }
};

// The filter [k][3][3][c] as packed B blocks of ops/gemm/cpu/packed.h, a block per element of the domain and piece of the depth.
struct WinogradFilter {
  float const* data = nullptr;
  int k = 0, c = 0, m = 2;
  bool data_gradient = false;                      // flipped, depth k and columns c; else depth c and columns k
  std::int64_t first_depth = 0, depth = 0;         // of the piece
  std::int64_t first_column = 0, columns = 0;      // of the block; columns: a multiple of 16, zero from the filter's own end
  float* packed = nullptr;                         // of domain element 0
  std::int64_t domain_stride = 0;
};

// Results of `count` tiles from first on: sums [domain element][tile][stride], through the store slots.
struct WinogradResult {
  float* out = nullptr;
  int height = 0, width = 0, channels = 0;
  int m = 2, rows = 0, columns = 0;                // of tiles in an image
  float const *bias = nullptr, *residual = nullptr, *mask = nullptr;  // null: unused
  bool relu = false;
};

// Tiles in the form of a sum over tiles (filter gradient), `count` of them a round.
struct WinogradOperands {
  WinogradTiles tiles;
  std::int64_t count = 0;
  float* packed = nullptr;
  std::int64_t domain_stride = 0;
  std::int64_t block = 0;                          // x: columns of a packed B block
};

struct WinogradKernels {
  // Channels [first, first + count) of a filter piece: of its depth.
  void (*filter)(WinogradFilter const&, std::int64_t first, std::int64_t count);
  // A tile's a x a elements of all channels, for `rows` tiles: an A panel [channel][rows] per domain element.
  void (*input)(WinogradTiles const&, std::int64_t first, int rows, float* panel);
  void (*output)(WinogradResult const&, std::int64_t first, int count, float const* sums, std::int64_t stride);
  // Filter gradient: tiles [first, first + count) of x and dy, the first of the round being `base`; dy also adds its pixels to db, if given.
  void (*gather_x)(WinogradOperands const&, std::int64_t base, std::int64_t first, std::int64_t count);
  void (*gather_dy)(WinogradOperands const&, std::int64_t base, std::int64_t first, std::int64_t count, float* db);
  // dw of one filter [3][3][c] from its sums [domain element][c].
  void (*filter_gradient)(int m, float const* sums, std::int64_t domain_stride, int c, float* dw);
};
FALCONET_DECLARE_KERNELS(WinogradKernels, winograd_kernels)
WinogradKernels const& winograd_kernels_of(Isa);

}  // namespace falconet
