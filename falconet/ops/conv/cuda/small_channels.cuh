// What the kernels for few channels (halo_mma, halo_mma_filter) share: how the result's pixels are cut into tiles, and how a tile of a
// channels-last image with its halo comes into shared memory.
//
// A tile is `group` images (where whole images fit), or a band of `rows` by `columns` pixels of one image. In shared memory a pixel takes
// channels * 2 + 16 bytes: eight neighbouring pixels then lie in different banks for the 8x8 matrix loads, and taps are plain
// displacements.
#pragma once
#include <algorithm>

#include "falconet/device/cuda/ptx.cuh"
#include "falconet/ops/conv/problem.h"

namespace falconet::small_channels {

template <int channels>
constexpr int pixel_bytes = channels * 2 + 16;

struct Tiles {
  int group = 1, rows = 1, columns = 1;  // of the pixels that a tile has a result for
  int in_rows = 1, in_columns = 1;       // of the image it reads, halo included
  int down = 1, across = 1, count = 1;   // tiles of an image (or group), and in all
};

// side: of the filter. pixels: at most, of a tile.
inline Tiles tiles_of(int n, int rows, int columns, int side, int stride, int pixels) {
  Tiles t;
  t.columns = std::min(columns, std::min(pixels, 32));
  t.rows = std::max(1, std::min(rows, pixels / t.columns));
  t.down = (rows + t.rows - 1) / t.rows, t.across = (columns + t.columns - 1) / t.columns;
  t.rows = (rows + t.down - 1) / t.down;
  if (t.down == 1 && t.across == 1) t.group = std::max(1, std::min(n, pixels / (t.rows * t.columns)));
  t.in_rows = (t.rows - 1) * stride + side, t.in_columns = (t.columns - 1) * stride + side;
  t.count = (n + t.group - 1) / t.group * t.down * t.across;
  return t;
}

struct Place {  // of a tile: its first image, row and column of the result
  int n, row, column;
};
FALCONET_DEVICE Place place_of(Tiles const& t, int tile) {
  int const line = tile / t.across, n = line / t.down;
  return {n * t.group, (line - n * t.down) * t.rows, (tile - line * t.across) * t.columns};
}

FALCONET_DEVICE void copy_16(std::uint32_t to, void const* from, bool exists) {  // or 16 zero bytes
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(exists ? 16 : 0) : "memory");
}
FALCONET_DEVICE void copies_done() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending>
FALCONET_DEVICE void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// Starts the copies of an image's part into `to`: group x in_rows x in_columns pixels of `channels` channels, the first at (n, row, column)
// of the image [images, height, width, real]; zeros outside and in channels from `real` on. A warp takes a row at a time.
template <int channels>
FALCONET_DEVICE void fetch(std::uint32_t to, bf16 const* image, int group, int in_rows, int in_columns, int n, int row, int column,
                           int images, int height, int width, int real) {
  constexpr int chunks = channels / 8;
  int const warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  bool const whole = real == channels;
  for (int line = warp; line < group * in_rows; line += warps) {
    int const g = group == 1 ? 0 : line / in_rows, h = row + line - g * in_rows;
    bool const inside = n + g < images && h >= 0 && h < height;
    bf16 const* const from = image + (std::int64_t(n + g) * height + h) * width * real;
    std::uint32_t const at = to + line * in_columns * pixel_bytes<channels>;
    if (whole) {
      for (int j = lane; j < in_columns * chunks; j += 32) {
        int const x = j / chunks, chunk = j % chunks, w = column + x;
        bool const exists = inside && w >= 0 && w < width;
        copy_16(at + x * pixel_bytes<channels> + chunk * 16, exists ? from + w * channels + chunk * 8 : image, exists);
      }
    } else {
      for (int x = lane; x < in_columns; x += 32) {
        int const w = column + x;
        bool const exists = inside && w >= 0 && w < width;
#pragma unroll
        for (int c = 0; c < channels; c += 2) {
          auto const value = [&](int i) {
            return exists && i < real ? std::uint32_t(reinterpret_cast<std::uint16_t const*>(from)[w * real + i]) : 0u;
          };
          std::uint32_t const pair = value(c) | value(c + 1) << 16;
          asm volatile("st.shared.u32 [%0], %1;" ::"r"(at + x * pixel_bytes<channels> + c * 2), "r"(pair) : "memory");
        }
      }
    }
  }
}

}  // namespace falconet::small_channels
