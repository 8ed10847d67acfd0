// The products of convolutions in a transformed domain (winograd, fft): for each element e of the domain
//   sums(e) [m,n] = sum over d of a(e) [m,d] * b(e) [n,d]
// in f32 by three TF32 products: with v = high + low, both TF32 values (11 bits each, so that at most one of 24 is lost), u * v is taken as
// low u * high v + high u * low v + high u * high v; what is left out is below 2^-23 of the product, as f32's own rounding. Tensor cores cut the
// sums' last bits off, so they sum 32 deep at a time only, and those parts are added with rounding. Source: Ootomo and Yokota, "Recovering single
// precision accuracy from Tensor Cores while surpassing the FP32 theoretical peak performance", 2022.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace falconet::tile_products {

struct Tile {
  int m, n;
};
// block: 128, 96 or 64 as configs say it, for tiles of 128x128, 128x64 and 64x64; 0: the best by estimate.
inline Tile tile_of(int block) { return block >= 128 ? Tile{128, 128} : block >= 96 ? Tile{128, 64} : block > 0 ? Tile{64, 64} : Tile{0, 0}; }

// Rows of operands and sums are multiples of 4 floats long and lie at multiples of 16 bytes; what pads them is zero.
struct Products {
  float const *a, *b;
  float* sums;
  int m, n, sum, elements;
  bool a_across, b_across;             // false: [row][depth], the sum runs along a row; true: [depth][row]
  int a_row, b_row, sums_row;          // floats of a row in memory
  std::int64_t a_element, b_element, sums_element;
  int part = 0, parts = 1;             // the sum is cut into parts of so much depth (a multiple of 32), each with sums of its own, parts first
  Tile tile = {0, 0};                  // of a block of the kernel; 0: the best by estimate
};
// across: operand b is.
Tile tile_for(std::int64_t m, std::int64_t n, std::int64_t sum, int elements, int parts, bool across);
double seconds(std::int64_t m, std::int64_t n, std::int64_t sum, int elements, int parts, bool across);
int parts_for(std::int64_t m, std::int64_t n, std::int64_t sum, int elements);   // parts of a sum whose operands both lie across it
constexpr int shared_bytes = 139264;     // of the largest tile, four slabs of two operands of 32 x (128 + 8) floats
// Errors are left to check_launch. Operands across both or none, or b alone.
void multiply(Products const&, cudaStream_t);

}  // namespace falconet::tile_products
