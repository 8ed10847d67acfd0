// What the direct kernels (direct, direct_filter) share: maps of f32, channels last, that may lie in their pooled form, and vectors of them.
#pragma once
#include <cstdint>

#include "falconet/device/cuda/divide.cuh"
#include "falconet/ops/conv/problem.h"

namespace falconet {

struct PooledMap {
  int height, width, channels;                     // before pooling
  int pool, stored_height, stored_width;           // as it lies in memory; pool: the window's side, 1 where it is not pooled
  FastDivide by_pool;
};
inline PooledMap pooled_map(int height, int width, int channels, ConvProblem const& p) {   // dy of a problem, or x
  int const pool = p.load_dy.unpool.kind != PoolSlot::none ? p.pool_size() : 1;
  return {height, width, channels, pool, p.stored_p(), p.stored_q(), FastDivide(pool)};
}

// Where the channels of a pixel of image n lie, or -1 outside. here: the winner that means this pixel, where the map is read in its pooled form.
__device__ __forceinline__ std::int64_t place_of(PooledMap const& m, bool unpool, int n, int row, int column, int& here) {
  if (unsigned(row) >= unsigned(m.height) || unsigned(column) >= unsigned(m.width)) return -1;
  if (!unpool) return ((std::int64_t(n) * m.height + row) * m.width + column) * m.channels;
  int down, right;
  int const p = m.by_pool(row, down), q = m.by_pool(column, right);
  here = down * m.pool + right;
  return p < m.stored_height && q < m.stored_width ? ((std::int64_t(n) * m.stored_height + p) * m.stored_width + q) * m.channels : -1;
}

template <int v>
struct alignas(sizeof(float) * v) Vector {
  float e[v];
};
template <int v>
struct alignas(v) Bytes {
  std::uint8_t e[v];
};

}  // namespace falconet
