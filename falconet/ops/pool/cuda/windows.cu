// Maxima of windows, channels last, and their gradient, with several windows or a whole window a thread, 16 bytes of channels at a time.
//   forward    2x2 and 3x3 windows of stride 2: a thread makes 2x2 results, so that overlapping windows share what is read: 25 vectors of x for
//              four 3x3 windows in place of 36, and a row of 4 or 5 loads is under way at once
//   gradient   windows that do not overlap: a thread reads dy and the winner of one window and writes all pixels up to the next, zeros but one
// Limits: f32 and bf16, whole vectors of channels, windows that u8 counts. Bytes: x, y and the winner once (3x3 halos from L1); dy, winner and dx once.
#include <algorithm>
#include <type_traits>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/divide.cuh"
#include "falconet/device/cuda/element.cuh"
#include "falconet/ops/pool/cuda/algorithms.h"
#include "falconet/ops/pool/cuda/place.cuh"

namespace falconet {
namespace {

using pooling::Place, pooling::place_of;

constexpr int threads = 256, block = 2, no_place = 256;   // block: results of a thread, each way; no_place: of no winner

struct Geometry {
  int c, h, w, p, q, r, s, st_h, st_w, pad_top, pad_left;
  FastDivide by_channels, by_columns, by_rows;   // of the squares of results, or of windows
};

template <class E, int size, int v>
__global__ void __launch_bounds__(threads) max_of_squares(Geometry const g, int squares, E const* x, E* y, std::uint8_t* winner) {
  constexpr int span = size + 2 * (block - 1);
  int const index = blockIdx.x * threads + threadIdx.x;
  if (index >= squares) return;
  Place const t = place_of<v>(g, index);
  int const row0 = t.row * block, column0 = t.column * block, top = row0 * 2 - g.pad_top, left = column0 * 2 - g.pad_left;
  float best[block][block][v];
  int which[block][block][v];
#pragma unroll
  for (int i = 0; i < block * block * v; ++i) best[i / v / block][i / v % block][i % v] = 0, which[i / v / block][i / v % block][i % v] = -1;
  E const* const first = x + ((std::int64_t(t.n) * g.h + top) * g.w + left) * g.c + t.c;
#pragma unroll
  for (int i = 0; i < span; ++i) {
    if (unsigned(top + i) >= unsigned(g.h)) continue;
    Pack<E, v> in[span];
#pragma unroll
    for (int j = 0; j < span; ++j)
      if (unsigned(left + j) < unsigned(g.w)) in[j] = *reinterpret_cast<Pack<E, v> const*>(first + (std::int64_t(i) * g.w + j) * g.c);
#pragma unroll
    for (int a = 0; a < block; ++a) {
      int const r = i - 2 * a;
      if (r < 0 || r >= size) continue;
#pragma unroll
      for (int b = 0; b < block; ++b)
#pragma unroll
        for (int s = 0; s < size; ++s) {
          if (unsigned(left + 2 * b + s) >= unsigned(g.w)) continue;
#pragma unroll
          for (int e = 0; e < v; ++e) {
            float const value = load(in[2 * b + s].e[e]);
            if (which[a][b][e] < 0 || value > best[a][b][e] || value != value) best[a][b][e] = value, which[a][b][e] = r * size + s;
          }
        }
    }
  }
#pragma unroll
  for (int a = 0; a < block; ++a)
#pragma unroll
    for (int b = 0; b < block; ++b) {
      if (row0 + a >= g.p || column0 + b >= g.q) continue;
      std::int64_t const to = ((std::int64_t(t.n) * g.p + row0 + a) * g.q + column0 + b) * g.c + t.c;
      Pack<E, v> out;
      Pack<std::uint8_t, v> index_out;
#pragma unroll
      for (int e = 0; e < v; ++e) put(out.e[e], best[a][b][e]), index_out.e[e] = std::uint8_t(which[a][b][e]);
      *reinterpret_cast<Pack<E, v>*>(y + to) = out;
      if (winner) *reinterpret_cast<Pack<std::uint8_t, v>*>(winner + to) = index_out;
    }
}

// The same in bf16, where comparing two numbers at a time with their places would take longer than the memory: a number and its place become one integer, so
// that a maximum is one instruction, and of overlapping windows each pixel is brought into this form once.
//   upper half  the number's bits, the lower 15 turned over below zero: integers in the numbers' order; -0 is made 0 first, and every NaN the largest
//   lower half  last - (size * row + column) in the square: within a window the first of equals is the largest, and that less the window's own share is the place
// Of several NaNs the last wins: windows with one are done again, plainly.
template <int size>
__global__ void __launch_bounds__(threads) max_by_keys(Geometry const g, int squares, bf16 const* x, bf16* y, std::uint8_t* winner) {
  constexpr int span = size + 2 * (block - 1), last = size * (span - 1) + span - 1, v = 8, of_nan = 0x7fff0000;
  constexpr std::uint32_t below_all = 0x80008000u;
  int const index = blockIdx.x * threads + threadIdx.x;
  if (index >= squares) return;
  Place const t = place_of<v>(g, index);
  int const row0 = t.row * block, column0 = t.column * block, top = row0 * 2 - g.pad_top, left = column0 * 2 - g.pad_left;
  bf16 const* const first = x + ((std::int64_t(t.n) * g.h + top) * g.w + left) * g.c + t.c;
  int best[block][block][v];
#pragma unroll
  for (int i = 0; i < block * block * v; ++i) best[i / v / block][i / v % block][i % v] = int(below_all);
#pragma unroll
  for (int i = 0; i < span; ++i) {
    if (unsigned(top + i) >= unsigned(g.h)) continue;
    uint4 in[span];
#pragma unroll
    for (int j = 0; j < span; ++j)
      if (unsigned(left + j) < unsigned(g.w)) in[j] = __ldg(reinterpret_cast<uint4 const*>(first + (std::int64_t(i) * g.w + j) * g.c));
#pragma unroll
    for (int pair = 0; pair < v / 2; ++pair) {
      int low[span], high[span];
#pragma unroll
      for (int j = 0; j < span; ++j) {
        std::uint32_t bits = pair == 0 ? in[j].x : pair == 1 ? in[j].y : pair == 2 ? in[j].z : in[j].w, negative;
        asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(bits) : "r"(bits), "r"(0x3f803f80u), "r"(0u));
        asm("prmt.b32 %0, %1, 0, 0xbb99;" : "=r"(negative) : "r"(bits));   // of each half, all ones below zero
        bits ^= negative & 0x7fff7fffu;
        if (unsigned(left + j) >= unsigned(g.w)) bits = below_all;
        low[j] = int(bits << 16 | std::uint32_t(last - size * i - j)), high[j] = int((bits & 0xffff0000u) | std::uint32_t(last - size * i - j));
      }
#pragma unroll
      for (int b = 0; b < block; ++b) {
        int const of_low = size == 2 ? max(low[2 * b], low[2 * b + 1]) : __vimax3_s32(low[2 * b], low[2 * b + 1], low[2 * b + size - 1]);
        int const of_high = size == 2 ? max(high[2 * b], high[2 * b + 1]) : __vimax3_s32(high[2 * b], high[2 * b + 1], high[2 * b + size - 1]);
#pragma unroll
        for (int a = 0; a < block; ++a)
          if (i >= 2 * a && i < 2 * a + size) {
            best[a][b][2 * pair] = max(best[a][b][2 * pair], of_low);
            best[a][b][2 * pair + 1] = max(best[a][b][2 * pair + 1], of_high);
          }
      }
    }
  }
  int most = int(below_all);
#pragma unroll
  for (int a = 0; a < block; ++a)
#pragma unroll
    for (int b = 0; b < block; ++b) {
      if (row0 + a >= g.p || column0 + b >= g.q) continue;
      std::int64_t const to = ((std::int64_t(t.n) * g.p + row0 + a) * g.q + column0 + b) * g.c + t.c;
      std::uint32_t out[v / 2], places[v / 4];
#pragma unroll
      for (int pair = 0; pair < v / 2; ++pair) {
        std::uint32_t negative;
        out[pair] = __byte_perm(std::uint32_t(best[a][b][2 * pair]), std::uint32_t(best[a][b][2 * pair + 1]), 0x7632);
        asm("prmt.b32 %0, %1, 0, 0xbb99;" : "=r"(negative) : "r"(out[pair]));
        out[pair] ^= negative & 0x7fff7fffu;
        most = __vimax3_s32(most, best[a][b][2 * pair], best[a][b][2 * pair + 1]);
      }
#pragma unroll
      for (int four = 0; four < v / 4; ++four) {
        auto const* const key = &best[a][b][4 * four];
        std::uint32_t const bytes = __byte_perm(__byte_perm(std::uint32_t(key[0]), std::uint32_t(key[1]), 0x0040),
                                                __byte_perm(std::uint32_t(key[2]), std::uint32_t(key[3]), 0x0040), 0x5410);
        places[four] = std::uint32_t(last - 2 * size * a - 2 * b) * 0x01010101u - bytes;   // no byte borrows from the next
      }
      *reinterpret_cast<uint4*>(y + to) = make_uint4(out[0], out[1], out[2], out[3]);
      *reinterpret_cast<uint2*>(winner + to) = make_uint2(places[0], places[1]);
    }
  if (most < of_nan) return;
#pragma unroll 1
  for (int i = 0; i < block * block * v; ++i) {
    int const row = row0 + i / v / block, column = column0 + i / v % block, c = t.c + i % v;
    if (row >= g.p || column >= g.q) continue;
    float largest = 0;
    int which = -1;
    for (int place = 0; place < size * size; ++place) {
      int const h = row * 2 - g.pad_top + place / size, w = column * 2 - g.pad_left + place % size;
      if (unsigned(h) >= unsigned(g.h) || unsigned(w) >= unsigned(g.w)) continue;
      float const value = load(x[((std::int64_t(t.n) * g.h + h) * g.w + w) * g.c + c]);
      if (which < 0 || value > largest || value != value) largest = value, which = place;
    }
    std::int64_t const to = ((std::int64_t(t.n) * g.p + row) * g.q + column) * g.c + c;
    put(y[to], largest);
    winner[to] = std::uint8_t(which);
  }
}

template <class E, int v>
__global__ void __launch_bounds__(threads) spread_of_windows(Geometry const g, int windows, E const* dy, std::uint8_t const* winner, E* dx) {
  int const index = blockIdx.x * threads + threadIdx.x;
  if (index >= windows) return;
  Place const t = place_of<v>(g, index);
  bool const exists = t.row < g.p && t.column < g.q;
  std::int64_t const from = exists ? ((std::int64_t(t.n) * g.p + t.row) * g.q + t.column) * g.c + t.c : 0;
  Pack<E, v> const d = *reinterpret_cast<Pack<E, v> const*>(dy + from);
  Pack<std::uint8_t, v> const which = *reinterpret_cast<Pack<std::uint8_t, v> const*>(winner + from);
  int const top = t.row * g.st_h - g.pad_top, left = t.column * g.st_w - g.pad_left;
  for (int r = 0; r < g.st_h; ++r)
    for (int s = 0; s < g.st_w; ++s) {
      if (unsigned(top + r) >= unsigned(g.h) || unsigned(left + s) >= unsigned(g.w)) continue;
      int const here = exists && r < g.r && s < g.s ? r * g.s + s : no_place;
      Pack<E, v> out;
#pragma unroll
      for (int e = 0; e < v; ++e) out.e[e] = which.e[e] == here ? d.e[e] : E{};
      *reinterpret_cast<Pack<E, v>*>(dx + ((std::int64_t(t.n) * g.h + top + r) * g.w + left + s) * g.c + t.c) = out;
    }
}

int vector_of(PoolProblem const& p) { return p.type == DType::f32 ? 4 : 8; }
// Squares of results, or windows to the edge of the image and the padding before it.
std::pair<int, int> extent(PoolProblem const& p) {
  if (!p.gradient) return {(p.p + block - 1) / block, (p.q + block - 1) / block};
  return {(p.h + p.pad_top + p.stride_h - 1) / p.stride_h, (p.w + p.pad_left + p.stride_w - 1) / p.stride_w};
}

std::string reject(PoolProblem const& p, DeviceFacts const&) {
  if (p.load_x != OnLoad{} || p.result != PoolResult::plain) return "a batch norm in the same launch";
  if (p.kind != PoolKind::max) return "maxima only";
  if (p.type != DType::f32 && p.type != DType::bf16) return "f32 and bf16 only";
  if (p.layout != Layout::nhwc || p.c % vector_of(p)) return "whole vectors of 16 bytes of channels, nhwc, only";
  if (PoolProblem::winner_type(p.r, p.s) != DType::u8) return "windows of more than 254 pixels";
  if (!p.gradient && (p.r != p.s || (p.r != 2 && p.r != 3) || p.stride_h != 2 || p.stride_w != 2)) return "windows of 2x2 and 3x3 with stride 2 only";
  if (p.gradient && (p.r > p.stride_h || p.s > p.stride_w)) return "windows that overlap";
  auto const [rows, columns] = extent(p);
  if (std::int64_t(p.n) * rows * columns * p.c >= std::int64_t(1) << 31) return "2^31 elements or more";
  return {};
}
double seconds(PoolProblem const& p, DeviceFacts const&) {
  double const bytes = bytes_of(p.operands());
  if (p.gradient) return 2e-6 + bytes / 3.4e12;
  return 2.1e-6 + bytes / ((p.r == 3 && p.type == DType::f32) || (p.type == DType::bf16 && p.winner) ? 3.4e12 : 2.9e12);   // elsewhere gather is as fast or faster
}

void run(PoolProblem const& p, Config const&, PoolArgs const& a, View, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  auto const typed = [&](auto element) {
    using E = decltype(element);
    constexpr int v = 16 / sizeof(E);
    auto const [rows, columns] = extent(p);
    int const all = p.n * rows * columns * (p.c / v);
    Geometry const g{
        p.c, p.h, p.w, p.p, p.q, p.r, p.s, p.stride_h, p.stride_w, p.pad_top, p.pad_left, FastDivide(p.c / v), FastDivide(columns), FastDivide(rows)};
    unsigned const blocks = unsigned((all + threads - 1) / threads);
    auto* const winner = a.winner.as<std::uint8_t>();
    if (p.gradient) spread_of_windows<E, v><<<blocks, threads, 0, stream>>>(g, all, a.y.as<E>(), winner, a.x.as<E>());
    else if (std::is_same_v<E, bf16> && winner) {
      auto const kernel = p.r == 2 ? max_by_keys<2> : max_by_keys<3>;
      kernel<<<blocks, threads, 0, stream>>>(g, all, a.x.as<bf16>(), a.y.as<bf16>(), winner);
    } else if (p.r == 2) max_of_squares<E, 2, v><<<blocks, threads, 0, stream>>>(g, all, a.x.as<E>(), a.y.as<E>(), winner);
    else max_of_squares<E, 3, v><<<blocks, threads, 0, stream>>>(g, all, a.x.as<E>(), a.y.as<E>(), winner);
  };
  if (p.type == DType::f32) typed(float{});
  else typed(bf16{});
  check_launch("pool windows", p, stream);
}

}  // namespace

Algorithm<PoolProblem> const pool_cuda_windows{.name = "windows", .target = DeviceKind::cuda, .reject = reject, .seconds = seconds, .run = run};

}  // namespace falconet
