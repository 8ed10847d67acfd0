// What the kernels of pointwise_mma share: tiles of 64 or 128 pixels in shared memory, and how a block's threads move vectors of 8 channels.
#pragma once
#include "falconet/device/cuda/divide.cuh"
#include "falconet/device/cuda/element.cuh"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/device/cuda/ptx.cuh"
#include "falconet/device/device.h"
#include "falconet/ops/conv/problem.h"

namespace falconet::pointwise_mma {

constexpr int most_shared = 227 << 10;

constexpr int whole(int channels) { return (channels + 15) / 16 * 16; }
// Bytes from one pixel to the next: an odd number of 16-byte units, so that eight rows of a matrix lie in different banks.
constexpr int pitch(int channels) { return whole(channels) * 2 + 16; }

// The vectors of 8 channels that a thread moves: always the same channels, of rows `apart` from one another.
template <int pixels_, int threads, int channels_>
struct Vectors {
  static constexpr int pixels = pixels_, channels = channels_, across = channels / 8, apart = threads / across, turns = (pixels + apart - 1) / apart;
  int vector, first;                                                   // first >= pixels: none
  FALCONET_DEVICE Vectors() : vector(threadIdx.x % across), first(int(threadIdx.x) / across < apart ? threadIdx.x / across : pixels) {}
};
template <class V, class Each>   // each(row, its number)
FALCONET_DEVICE void for_rows(V const& v, Each const& each) {
#pragma unroll
  for (int i = 0; i < V::turns; ++i)
    if (int const row = v.first + i * V::apart; row < V::pixels) each(row, i);
}

FALCONET_DEVICE void copy_16(std::uint32_t to, void const* from, bool read) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(read ? 16 : 0) : "memory");
}
FALCONET_DEVICE void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int others>   // all groups of copies but the youngest
FALCONET_DEVICE void copies_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(others) : "memory"); }
// A tile of a tensor of so many channels; pixels at or past `end` as zeros.
template <class V>
FALCONET_DEVICE void fetch(std::uint32_t to, bf16 const* from, std::int64_t pixel, std::int64_t end) {
  constexpr int channels = V::channels;
  V const v;
  bf16 const* const mine = from + pixel * channels + v.vector * 8;
  for_rows(v, [&](int row, int) {
    bool const read = pixel + row < end;
    copy_16(to + row * pitch(channels) + v.vector * 16, read ? mine + row * channels : from, read);
  });
}
FALCONET_DEVICE uint4 read_16(std::uint32_t at) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at) : "memory");
  return v;
}
// each(row, a's vector, b's vector) for a thread's vectors of two tiles, some read before the first is needed.
template <class V, class Each>
FALCONET_DEVICE void for_pairs(V const& v, std::uint32_t a, std::uint32_t b, Each const& each) {
  constexpr int turns = V::turns, batch = turns < 4 ? turns : 4;
#pragma unroll
  for (int begin = 0; begin < turns; begin += batch) {
    uint4 of_a[batch], of_b[batch];
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      if (begin + i >= turns) continue;
      int const row = v.first + (begin + i) * V::apart, at = (row < V::pixels ? row : 0) * pitch(V::channels) + v.vector * 16;
      of_a[i] = read_16(a + at);
      if (b) of_b[i] = read_16(b + at);
    }
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      if (begin + i >= turns) continue;
      int const row = v.first + (begin + i) * V::apart;
      if (row < V::pixels) each(row, of_a[i], of_b[i]);
    }
  }
}
template <class V, class Each>   // each(row, vector)
FALCONET_DEVICE void for_vectors(V const& v, std::uint32_t tile, Each const& each) {
  for_pairs(v, tile, 0, [&](int row, uint4 a, uint4) { each(row, a); });
}
FALCONET_DEVICE void write_16(std::uint32_t at, uint4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
FALCONET_DEVICE void unpack(uint4 v, float (&to)[8]) {
  to[0] = ptx::low_bf16(v.x), to[1] = ptx::high_bf16(v.x), to[2] = ptx::low_bf16(v.y), to[3] = ptx::high_bf16(v.y);
  to[4] = ptx::low_bf16(v.z), to[5] = ptx::high_bf16(v.z), to[6] = ptx::low_bf16(v.w), to[7] = ptx::high_bf16(v.w);
}
FALCONET_DEVICE uint4 packed(float const (&v)[8]) {
  return make_uint4(ptx::pack_bf16(v[0], v[1]), ptx::pack_bf16(v[2], v[3]), ptx::pack_bf16(v[4], v[5]), ptx::pack_bf16(v[6], v[7]));
}
FALCONET_DEVICE void read_8(float const* from, float (&to)[8]) {
  float4 const a = *reinterpret_cast<float4 const*>(from), b = *reinterpret_cast<float4 const*>(from + 4);
  to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w, to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
}
// A NaN stays visible.
FALCONET_DEVICE float clip(float v, float least, float most) {
  asm("max.NaN.f32 %0, %0, %1;" : "+f"(v) : "f"(least));
  asm("min.NaN.f32 %0, %0, %1;" : "+f"(v) : "f"(most));
  return v;
}

// The filter [K][C] in shared memory, rows of pitch(C), what is beyond K or C zero; an f32 filter is rounded first.
template <int C, int K>
FALCONET_DEVICE void place_filter(char* to, void const* filter, bool f32) {
  for (int i = threadIdx.x; i < whole(K) * whole(C) / 2; i += blockDim.x) {
    int const k = i / (whole(C) / 2), c = i % (whole(C) / 2) * 2;
    std::uint32_t v = 0;
    if (k < K && c < C) {
      if (f32) {
        float2 const pair = *reinterpret_cast<float2 const*>(static_cast<float const*>(filter) + k * C + c);
        v = ptx::pack_bf16(pair.x, pair.y);
      } else {
        v = *reinterpret_cast<std::uint32_t const*>(static_cast<bf16 const*>(filter) + k * C + c);
      }
    }
    *reinterpret_cast<std::uint32_t*>(to + k * pitch(C) + c * 2) = v;
  }
}
// Zeros in the channels that fill up a tile's rows; nothing writes there again.
template <int channels, int pixels>
FALCONET_DEVICE void clear_rest(std::uint32_t tile) {
  if constexpr (channels % 16)
    if (threadIdx.x < pixels) write_16(tile + threadIdx.x * pitch(channels) + channels * 2, make_uint4(0, 0, 0, 0));
}

// Addresses of the four 8x8 matrices of a 16x16 block for ldmatrix, from the lane, for the block at (0, 0): rows first, or columns first.
FALCONET_DEVICE int rows_first(int pitch) { int const lane = threadIdx.x % 32; return (lane & 15) * pitch + (lane >> 4) * 16; }
FALCONET_DEVICE int columns_first(int pitch) { int const lane = threadIdx.x % 32; return ((lane & 7) + (lane >> 4) * 8) * pitch + (lane >> 3 & 1) * 16; }

// Adds the threads' sums of 8 channels in the order of the rows and writes them: partial[sets][channels]. memory: shared, free, sets * threads * 32 bytes.
template <class V, int sets>
FALCONET_DEVICE void add_rows(float (&sum)[sets][8], float* memory, float* partial) {
  constexpr int channels = V::channels, pixels = V::pixels;
  V const v;
  __syncthreads();
  if (v.first < pixels)
#pragma unroll
    for (int set = 0; set < sets; ++set)
#pragma unroll
      for (int e = 0; e < 8; ++e) memory[(set * V::apart + v.first) * channels + v.vector * 8 + e] = sum[set][e];
  __syncthreads();
  for (int i = threadIdx.x; i < sets * channels; i += blockDim.x) {
    float total = 0;
    for (int row = 0; row < (V::apart < pixels ? V::apart : pixels); ++row) total += memory[(i / channels * V::apart + row) * channels + i % channels];
    partial[i] = total;
  }
}

// Whether the kernels are built for these channels of x and y.
bool has_forward(int c, int k);
bool has_gradients(int c, int k, bool loads_x);
struct Launch {
  int pixels, blocks;                                                  // of a tile; of a multiprocessor
};
Launch forward_launch(ConvProblem const&), gradients_launch(ConvProblem const&);
int tiles_of(ConvProblem const&, Launch);
int blocks_of(ConvProblem const&);
void launch_forward(ConvProblem const&, ConvArgs const&, float* partial, cudaStream_t);
void launch_gradients(ConvProblem const&, ConvArgs const&, float* partial, cudaStream_t);

}  // namespace falconet::pointwise_mma
