// Descriptors (CUtensorMap) for Hopper's copy engine, encoded on the host: pure arithmetic, about 1 us, no driver library linked.
#pragma once
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <initializer_list>

namespace falconet {

// A box of up to five dimensions, innermost first, of bf16 elements. dims in elements; strides in elements for dimensions 1.. (each a
// multiple of 8); box in elements. Elements out of bounds read 0 and are not written. swizzle_bytes: 0, 32, 64 or 128, at least the
// bytes of box[0]. promotes: reads bring whole 128-byte lines into L2; without, the 32-byte sectors that are asked for.
CUtensorMap tiled_map(void const* data, std::initializer_list<std::int64_t> dims, std::initializer_list<std::int64_t> strides,
                      std::initializer_list<int> box, int swizzle_bytes = 128, bool promotes = true);

// A walk over pixels (w, then h, then n) of an n,h,w,c tensor of bf16, possibly a sub-lattice of a larger one. The walk covers, per
// image, rows lower_h .. h-1+upper_h and columns lower_w .. w-1+upper_w in steps of stride; pixels outside the image read 0.
struct PixelWalk {
  std::int64_t n, h, w, c;                         // extents
  std::int64_t stride_n, stride_h, stride_w;       // elements from one image, row, column to the next
  int lower_h = 0, lower_w = 0, upper_h = 0, upper_w = 0;   // corners, each -128..127
  int step_h = 1, step_w = 1;                      // 1..8
};
CUtensorMap im2col_map(void const* data, PixelWalk const&, int channels, int pixels, int swizzle_bytes = 128);

}  // namespace falconet
