// What the kernels of depthwise_tma share: a warp's walk over strips of an image, and the queue of rows that the copy engine fills for it.
//
// A warp is by itself: 16 or 32 lanes side by side hold two channels each, and as many groups of lanes as fit hold neighbouring strips of 7 columns. The
// warp walks down a band of rows; the copy engine brings each row, halo columns with it, into the warp's own queue in shared memory, some rows ahead and
// beyond the end of a band into the next one. One lane asks for it: no addresses, no bounds, no copies in the others. What lies outside the image arrives as 0.
#pragma once
#include "falconet/device/cuda/divide.cuh"
#include "falconet/device/cuda/element.cuh"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/device/cuda/ptx.cuh"
#include "falconet/device/cuda/tensor_map.h"
#include "falconet/device/device.h"
#include "falconet/ops/conv/problem.h"

namespace falconet::depthwise_tma {

constexpr int warps = 4, threads = 32 * warps, columns = 7;   // columns: of a lane, of the smaller grid (y's)
constexpr int blocks_per_multiprocessor = 3, resident = 132 * blocks_per_multiprocessor;   // fixed, so that results do not depend on the card

// y's grid cut into items: a band of rows of a warp's strips. Items follow one another along a row, then down, then through the batch. Neighbouring warps hold
// neighbouring channels of the same items, so that a pixel's bytes are asked for at about one time.
struct Walk {
  int rows = 0, columns = 0;                        // of y
  int band = 0, bands = 0, across = 0, items = 0;
  int blocks = 0, groups = 0, slots = 0;            // groups of channels; warps that share out the items, of each group
  FastDivide by_across, by_bands, by_groups;
};
struct Way {
  int lanes, band;                                  // lanes that hold channels; rows of an item
};

struct Item {
  int n, begin, end, first;                         // image; rows; first column of the warp
};
template <int lanes>
FALCONET_DEVICE Item item_of(Walk const& w, int item) {
  int strip, band;
  int const n = w.by_bands(w.by_across(item, strip), band), begin = band * w.band;
  return {n, begin, min(begin + w.band, w.rows), strip * (32 / lanes) * columns};
}

// The rows of a warp on their way. An item has `before` steps more than rows. fetch(item, step, address, barrier): announces the bytes and asks for them.
template <int lanes, int before, int stage_bytes, int depth>
struct Rows {
  static constexpr int bytes = warps * depth * stage_bytes, memory = bytes + warps * depth * 8;
  Walk const& walk;
  std::uint32_t stages, barriers;
  Item next{};                                      // what is asked for next
  int item, step = 0, place = 0;
  int taken = 0;
  unsigned parity = 0;

  FALCONET_DEVICE Rows(Walk const& w, std::uint32_t shared, int warp, int slot)
      : walk(w), stages(shared + warp * depth * stage_bytes), barriers(shared + bytes + warp * depth * 8), item(slot) {
    if (threadIdx.x % 32 == 0) {
#pragma unroll
      for (int d = 0; d < depth; ++d) ptx::barrier_init(barriers + 8 * d, 1);
      ptx::barrier_init_done();
    }
    __syncwarp();
    if (item < walk.items) next = item_of<lanes>(walk, item);
  }
  template <class Fetch>
  FALCONET_DEVICE void ask(Fetch const& fetch) {
    if (item >= walk.items) return;
    if (threadIdx.x % 32 == 0) fetch(next, step, stages + place * stage_bytes, barriers + 8 * place);
    place = place + 1 == depth ? 0 : place + 1;
    if (++step < next.end - next.begin + before) return;
    step = 0, item += walk.slots;
    if (item < walk.items) next = item_of<lanes>(walk, item);
  }
  // Address of the oldest row, when it is there.
  FALCONET_DEVICE std::uint32_t take() const {
    ptx::barrier_wait(barriers + 8 * taken, parity);
    return stages + taken * stage_bytes;
  }
  template <class Fetch>
  FALCONET_DEVICE void give_back(Fetch const& fetch) {   // it has been read by all lanes
    if (++taken == depth) taken = 0, parity ^= 1;
    __syncwarp();
    ask(fetch);
  }
};

FALCONET_DEVICE std::uint32_t read_pair(std::uint32_t address) {
  std::uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
  return v;
}
// A value that is kept in a register, not read again from the kernel's arguments.
FALCONET_DEVICE float kept(float v) {
  asm volatile("mov.f32 %0, %0;" : "+f"(v));
  return v;
}
// A NaN stays visible.
FALCONET_DEVICE float clip(float v, float least, float most) {
  asm("max.NaN.f32 %0, %0, %1;" : "+f"(v) : "f"(least));
  asm("min.NaN.f32 %0, %0, %1;" : "+f"(v) : "f"(most));
  return v;
}
// Taps of two channels; an f32 filter is rounded first.
FALCONET_DEVICE void read_filter(float (&to)[9][2], void const* filter, bool f32, int c, int channels) {
#pragma unroll
  for (int e = 0; e < 2; ++e)
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) {
      int const at = (c + e) * 9 + tap;
      to[tap][e] = c >= channels ? 0.f : f32 ? to_float(to_bf16(static_cast<float const*>(filter)[at])) : to_float(static_cast<bf16 const*>(filter)[at]);
    }
}
// Writes a warp's sums: partial[sets][channels].
template <int lanes, int sets>
FALCONET_DEVICE void write_sums(float (&sum)[sets][2], int c, int channels, float* partial) {
#pragma unroll
  for (int set = 0; set < sets; ++set) {
    float low = sum[set][0], high = sum[set][1];
    if (lanes == 16) low += __shfl_xor_sync(0xffffffffu, low, 16), high += __shfl_xor_sync(0xffffffffu, high, 16);
    if (threadIdx.x % 32 < lanes && c < channels) *reinterpret_cast<float2*>(partial + std::int64_t(set) * channels + c) = make_float2(low, high);
  }
}

inline int lanes_wide(int lanes) { return 32 / lanes * columns; }   // columns of a warp
Walk walk_of(ConvProblem const&, Way const&);
// A tensor n, h, w, c in boxes of a warp's channels, so many columns and rows.
inline CUtensorMap map_of(void const* data, ConvProblem const& p, int h, int w, int lanes, int wide, int tall) {
  return tiled_map(data, {p.c, w, h, p.n}, {p.c, std::int64_t(w) * p.c, std::int64_t(h) * w * p.c}, {2 * lanes, wide, tall, 1}, 0, false);
}

void launch_forward(ConvProblem const&, Way const&, ConvArgs const&, float* partial, cudaStream_t);
void launch_gradients(ConvProblem const&, Way const&, ConvArgs const&, float* partial, cudaStream_t);

}  // namespace falconet::depthwise_tma
