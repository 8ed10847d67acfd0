// Input rows as they lie in memory, copied to shared memory tile after tile, with zeros beside and beyond them: where the few channels of a
// network's first convolution are nothing for the copy engine's im2col, its kernels read their windows from such rows.
#pragma once
#include "falconet/device/cuda/ptx.cuh"
#include "falconet/tensor/bf16.h"

namespace falconet {

struct RawRows {
  static constexpr int left_bytes = 32, right_bytes = 32;   // zeros beside an input row in shared memory; left so that copies are aligned
  bf16 const* x = nullptr;
  int h = 0, row_bytes = 0;                                 // of an image; row_bytes a multiple of 16
  int tiles = 0, tiles_of_image = 0;
  int step = 0, pad_top = 0;                                // a tile's first row: step * its number in the image - pad_top
  int rows = 0, pitch = 0, slots = 0;                       // of a tile in shared memory, bytes from one to the next; tiles there
  __host__ __device__ int slot_bytes() const { return rows * pitch; }
};

// The copying warp: input rows of tile after tile, rows outside the image as zeros.
FALCONET_DEVICE void copy_rows(RawRows const& raw, std::uint64_t* full, std::uint64_t* empty, char* memory) {
  using namespace ptx;
  int const lane = threadIdx.x % 32;
  int slot = 0, phase = 1;
  for (int tile = blockIdx.x; tile < raw.tiles; tile += gridDim.x) {
    int const n = tile / raw.tiles_of_image, first = (tile - n * raw.tiles_of_image) * raw.step - raw.pad_top;
    barrier_wait(shared_address(empty + slot), phase);
    char* const to = memory + slot * raw.slot_bytes() + RawRows::left_bytes;
    int present = 0;
    for (int i = 0; i < raw.rows; ++i) {
      if (first + i >= 0 && first + i < raw.h) ++present;
      else
        for (int b = lane * 16; b < raw.row_bytes; b += 512) *reinterpret_cast<uint4*>(to + i * raw.pitch + b) = make_uint4(0, 0, 0, 0);
    }
    fence_async_shared();   // zeros written here may later be overwritten by a copy
    __syncwarp();
    if (lane == 0) {
      std::uint32_t const ready = shared_address(full + slot);
      barrier_expect(ready, present * raw.row_bytes);
      for (int i = 0; i < raw.rows; ++i)
        if (first + i >= 0 && first + i < raw.h)
          FALCONET_HOPPER_ASM("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to + i * raw.pitch)),
                       "l"(raw.x + (std::int64_t(n) * raw.h + first + i) * (raw.row_bytes / 2)), "r"(raw.row_bytes), "r"(ready)
                       : "memory");
    }
    __syncwarp();
    if (++slot == raw.slots) slot = 0, phase ^= 1;
  }
}

// Zeros beside the input rows, which the copies never touch.
FALCONET_DEVICE void clear_margins(RawRows const& raw, char* memory, int threads) {
  for (int i = threadIdx.x; i < raw.slots * raw.rows; i += threads) {
    char* const row = memory + i * raw.pitch;
    for (int b = 0; b < RawRows::left_bytes; b += 16) *reinterpret_cast<uint4*>(row + b) = make_uint4(0, 0, 0, 0);
    for (int b = 0; b < RawRows::right_bytes; b += 16) *reinterpret_cast<uint4*>(row + RawRows::left_bytes + raw.row_bytes + b) = make_uint4(0, 0, 0, 0);
  }
}

}  // namespace falconet
