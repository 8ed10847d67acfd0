// Convolution in a transformed domain, tile by tile: images are cut into tiles, a transform of each tile makes the convolution a product
// for each element of the domain by itself, and so one matrix product over channels (or, for the filter gradient, over tiles) per element.
// The drivers are tile_products.cpp (forward, data gradient) and tile_products_filter.cpp; the transforms are those of winograd.cpp and fft.cpp.
// Plain data, and the kernels of a domain.
//
// A domain has `elements` elements of `parts` real numbers: 1, or 2 where they are complex. A complex product, which conjugates the filter
// (or dy), is a real one of twice the depth and columns: [Xr Xi] [[Wr, -Wi], [Wi, Wr]] = [Yr Yi]. Along the depth the parts of a channel are
// neighbours (parts * channel + part), among the columns all real ones come first (part * wide + channel).
#pragma once
#include <cstdint>

#include "falconet/device/cpu/isa.h"

namespace falconet {

// An image [n][height][width][channels] cut into tiles, counted through all images: tile (n, i, j) begins at row i * step_h + first_h and
// column j * step_w + first_w. What lies outside the image is zero.
struct TileGrid {
  void const* data = nullptr;                // f32, or (winograd) bf16
  bool bf16 = false;
  int height = 0, width = 0, channels = 0;
  int size = 0;                              // of the domain: results of a tile (winograd), elements along an axis (fft)
  int extent_h = 0, extent_w = 0;            // rows and columns of a tile that are read; the rest counts as zero (fft)
  int step_h = 0, step_w = 0, first_h = 0, first_w = 0;
  int rows = 0, columns = 0;                 // of tiles in an image
  std::int64_t grid() const { return std::int64_t(rows) * columns; }
};

// The filter [k][r][s][c] as packed B blocks of ops/gemm/cpu/packed.h: per block of columns, element of the domain and piece of the depth.
// Depth: `parts` times the channels summed over; columns: `parts` times `wide`, the channels of the result in whole 16s, zero past their end.
struct TileFilter {
  void const* data = nullptr;                // f32, or (winograd) bf16
  bool bf16 = false;
  int k = 0, c = 0, r = 0, s = 0, dilation_h = 1, dilation_w = 1, size = 0;
  bool data_gradient = false;                // flipped, depth k and columns c; else depth c and columns k
  int elements = 0;
  std::int64_t wide = 0, columns = 0, depth = 0, block = 0, piece = 0;
  float* packed = nullptr;
};

// Results of `count` tiles from first on: sums [domain element][tile][columns], through the store slots.
struct TileResult {
  void* out = nullptr;
  bool bf16 = false;                         // so are out, residual and mask, else f32
  int height = 0, width = 0, channels = 0;
  int size = 0, step_h = 0, step_w = 0, rows = 0, columns = 0;        // rows, columns: of tiles in an image
  std::int64_t wide = 0;                                              // channels in whole 16s
  float const* bias = nullptr;                                        // null: unused, like the next
  void const *residual = nullptr, *mask = nullptr;
  bool relu = false;
};

// Tiles in the form of a sum over tiles (filter gradient), `count` of them a round.
struct TileOperands {
  TileGrid tiles;
  std::int64_t count = 0;
  float* packed = nullptr;
  std::int64_t domain_stride = 0;
  std::int64_t block = 0;                    // x: columns of a packed B block
};

// Where the taps of dw are found: one filter [r][s][c] from its sums [domain element][columns].
struct TileTaps {
  int size = 0, c = 0, r = 0, s = 0, dilation_h = 1, dilation_w = 1;
  std::int64_t wide = 0, domain_stride = 0;
};

struct TileKernels {
  // Channels [first, first + count) summed over, for results [out, out + out_count); first and out are multiples of 16.
  void (*filter)(TileFilter const&, std::int64_t first, std::int64_t count, std::int64_t out, std::int64_t out_count);
  // All elements of `rows` tiles: an A panel [depth][rows] per domain element.
  void (*input)(TileGrid const&, std::int64_t first, int rows, float* panel);
  void (*output)(TileResult const&, std::int64_t first, int count, float const* sums);
  // Filter gradient: tiles [first, first + count) of x and dy, the first of the round being `base`; dy also adds its pixels to db, if given.
  //   x   rows of packed B blocks, each of o.block columns (the last may be narrower), all of the round's tiles deep; complex: below
  //       [Xr Xi] of all tiles lies [Xi -Xr]
  //   dy  A panels of 16 filters each, [tile][16]; complex: below Yr of all tiles lies Yi
  void (*gather_x)(TileOperands const&, std::int64_t base, std::int64_t first, std::int64_t count);
  void (*gather_dy)(TileOperands const&, std::int64_t base, std::int64_t first, std::int64_t count, float* db);
  void (*filter_gradient)(TileTaps const&, float const* sums, float* dw);
};
FALCONET_DECLARE_KERNELS(TileKernels, winograd_kernels)
FALCONET_DECLARE_KERNELS(TileKernels, fft_kernels)

}  // namespace falconet
