// Pooling and its gradients on an NVIDIA GPU: a thread per element of the result (channels last: per several channels, 16 bytes at a time)
// gathers what it needs; the gradient looks at the few windows that hold its pixel, so nothing is written twice. Sums in f32, f64 for f64.
// Bound by memory: x and y once; overlapping windows come from the caches.
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

constexpr int threads = 256;

struct Geometry {
  int n, c, h, w, p, q, r, s, st_h, st_w, pad_top, pad_left, pad_bottom, pad_right, channel_step, pixel_step;   // steps: between channels, pixels
  bool include_pad;
  FastDivide by_channels, by_columns, by_rows;   // of the result, channels in vectors
  __device__ int divisor(int row, int column) const {
    auto const clip = [&](int start, int size, int window, int after) {
      int const end = start + window;
      return include_pad ? min(end, size + after) - start : min(end, size) - max(start, 0);
    };
    return clip(row * st_h - pad_top, h, r, pad_bottom) * clip(column * st_w - pad_left, w, s, pad_right);
  }
  // Where channel c of pixel (y, x) of image i lies, in an image of `pixels` pixels.
  __device__ std::int64_t at(int i, int c_, std::int64_t pixel, std::int64_t pixels) const {
    return std::int64_t(i) * c * pixels + pixel * pixel_step + std::int64_t(c_) * (channel_step == 1 ? 1 : pixels);
  }
};

// size: of a square window, known when compiled, a row of it under way before the first is compared; 0: any window.
template <class E, class A, class W, bool maximum, int size, int v>
__global__ void __launch_bounds__(threads) pool_forward(Geometry const g, int elements, E const* x, E* y, W* winner) {
  int const index = blockIdx.x * threads + threadIdx.x;
  if (index >= elements) return;
  Place const t = place_of<v>(g, index);
  A best[v];
  int which[v];
#pragma unroll
  for (int e = 0; e < v; ++e) best[e] = 0, which[e] = -1;
  int const top = t.row * g.st_h - g.pad_top, left = t.column * g.st_w - g.pad_left;
  auto const exists = [&](int r, int s) { return unsigned(top + r) < unsigned(g.h) && unsigned(left + s) < unsigned(g.w); };
  auto const fetch = [&](int r, int s) {
    return *reinterpret_cast<Pack<E, v> const*>(x + g.at(t.n, t.c, std::int64_t(top + r) * g.w + left + s, std::int64_t(g.h) * g.w));
  };
  auto const take = [&](Pack<E, v> const& in, int place) {
#pragma unroll
    for (int e = 0; e < v; ++e) {
      A const value = load(in.e[e]);
      if constexpr (!maximum) best[e] += value;
      else if (which[e] < 0 || value > best[e] || value != value) best[e] = value, which[e] = place;
    }
  };
  if constexpr (size > 0) {
#pragma unroll 1
    for (int r = 0; r < size; ++r) {
      Pack<E, v> in[size];
#pragma unroll
      for (int s = 0; s < size; ++s)
        if (exists(r, s)) in[s] = fetch(r, s);
#pragma unroll
      for (int s = 0; s < size; ++s)
        if (exists(r, s)) take(in[s], r * size + s);
    }
  } else {
    for (int r = 0; r < g.r; ++r)
      for (int s = 0; s < g.s; ++s)
        if (exists(r, s)) take(fetch(r, s), r * g.s + s);
  }
  std::int64_t const to = g.at(t.n, t.c, std::int64_t(t.row) * g.q + t.column, std::int64_t(g.p) * g.q);
  Pack<E, v> out;
  A const divisor = maximum ? A(1) : A(g.divisor(t.row, t.column));
#pragma unroll
  for (int e = 0; e < v; ++e) put(out.e[e], maximum ? best[e] : best[e] / divisor);
  *reinterpret_cast<Pack<E, v>*>(y + to) = out;
  if (maximum && winner) {
    Pack<W, v> index_out;
#pragma unroll
    for (int e = 0; e < v; ++e) index_out.e[e] = W(which[e]);
    *reinterpret_cast<Pack<W, v>*>(winner + to) = index_out;
  }
}

// The maximum alone, in bf16, channels last: eight channels a thread, two at a time (with winners, comparing takes longer than the memory).
// NaN wins, as everywhere.
template <int size>
__global__ void __launch_bounds__(threads) max_of_pairs(Geometry const g, int elements, bf16 const* x, bf16* y) {
  int const index = blockIdx.x * threads + threadIdx.x;
  if (index >= elements) return;
  Place const t = place_of<8>(g, index);
  int const top = t.row * g.st_h - g.pad_top, left = t.column * g.st_w - g.pad_left;
  uint4 const lowest = make_uint4(0xff80ff80u, 0xff80ff80u, 0xff80ff80u, 0xff80ff80u);
  auto const larger = [](std::uint32_t a, std::uint32_t b) {
    std::uint32_t out;
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
    return out;
  };
  uint4 best = lowest;
#pragma unroll
  for (int r = 0; r < size; ++r) {
    uint4 in[size];
#pragma unroll
    for (int s = 0; s < size; ++s) {
      bool const exists = unsigned(top + r) < unsigned(g.h) && unsigned(left + s) < unsigned(g.w);
      in[s] = exists ? __ldg(reinterpret_cast<uint4 const*>(x + g.at(t.n, t.c, std::int64_t(top + r) * g.w + left + s, std::int64_t(g.h) * g.w))) : lowest;
    }
#pragma unroll
    for (int s = 0; s < size; ++s)
      best = make_uint4(larger(best.x, in[s].x), larger(best.y, in[s].y), larger(best.z, in[s].z), larger(best.w, in[s].w));
  }
  *reinterpret_cast<uint4*>(y + g.at(t.n, t.c, std::int64_t(t.row) * g.q + t.column, std::int64_t(g.p) * g.q)) = best;
}

// The gradient of 3x3 windows of stride 2, channels last: the four pixels whose distances from the padding's corner are 2i and 2i+1, 2j and
// 2j+1 are reached by windows i-1 and i, j-1 and j alone, so a thread reads those four and writes the four pixels. Geometry's divisions
// are by such squares here.
template <class E, class A, class W, int v>
__global__ void __launch_bounds__(threads) max_backward_of_squares(Geometry const g, int squares, E const* dy, W const* winner, E* dx) {
  int const index = blockIdx.x * threads + threadIdx.x;
  if (index >= squares) return;
  Place const t = place_of<v>(g, index);
  Pack<E, v> in[2][2];
  Pack<W, v> which[2][2];
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int j = 0; j < 2; ++j) {   // window (row - 1 + i, column - 1 + j)
      int const row = t.row - 1 + i, column = t.column - 1 + j;
      bool const exists = unsigned(row) < unsigned(g.p) && unsigned(column) < unsigned(g.q);
      std::int64_t const from = exists ? g.at(t.n, t.c, std::int64_t(row) * g.q + column, std::int64_t(g.p) * g.q) : 0;
      in[i][j] = *reinterpret_cast<Pack<E, v> const*>(dy + from);
      which[i][j] = *reinterpret_cast<Pack<W, v> const*>(winner + from);
      if (!exists)
#pragma unroll
        for (int e = 0; e < v; ++e) which[i][j].e[e] = W(-1);
    }
#pragma unroll
  for (int a = 0; a < 2; ++a)
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      int const h = 2 * t.row + a - g.pad_top, w = 2 * t.column + b - g.pad_left;
      if (unsigned(h) >= unsigned(g.h) || unsigned(w) >= unsigned(g.w)) continue;
      Pack<E, v> out;
#pragma unroll
      for (int e = 0; e < v; ++e) {
        A sum = 0;
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            int const r = a + 2 * (1 - i), s = b + 2 * (1 - j);   // the pixel's place in that window
            if (r < 3 && s < 3) sum += which[i][j].e[e] == W(r * 3 + s) ? A(load(in[i][j].e[e])) : A(0);
          }
        put(out.e[e], sum);
      }
      *reinterpret_cast<Pack<E, v>*>(dx + g.at(t.n, t.c, std::int64_t(h) * g.w + w, std::int64_t(g.h) * g.w)) = out;
    }
}

// The gradient of windows of size x size side by side, channels last: a thread reads one and writes its pixels. Geometry's divisions are by
// windows here; rows and columns that no window covers belong to the last one's thread.
template <class E, class A, class W, int size, int v>
__global__ void __launch_bounds__(threads) max_backward_of_windows(Geometry const g, int windows, E const* dy, W const* winner, E* dx) {
  int const index = blockIdx.x * threads + threadIdx.x;
  if (index >= windows) return;
  Place const t = place_of<v>(g, index);
  std::int64_t const from = g.at(t.n, t.c, std::int64_t(t.row) * g.q + t.column, std::int64_t(g.p) * g.q);
  Pack<E, v> const in = *reinterpret_cast<Pack<E, v> const*>(dy + from);
  Pack<W, v> const which = *reinterpret_cast<Pack<W, v> const*>(winner + from);
  int const row_end = t.row == g.p - 1 ? g.h : (t.row + 1) * size, column_end = t.column == g.q - 1 ? g.w : (t.column + 1) * size;
  for (int h = t.row * size; h < row_end; ++h)
    for (int w = t.column * size; w < column_end; ++w) {
      int const r = h - t.row * size, s = w - t.column * size, place = r < size && s < size ? r * size + s : -1;
      Pack<E, v> out;
#pragma unroll
      for (int e = 0; e < v; ++e) put(out.e[e], int(which.e[e]) == place ? A(load(in.e[e])) : A(0));
      *reinterpret_cast<Pack<E, v>*>(dx + g.at(t.n, t.c, std::int64_t(h) * g.w + w, std::int64_t(g.h) * g.w)) = out;
    }
}

// The mean of whole images, channels last: a block per image and set of channels, its threads share the pixels; their sums are added in order.
template <class E, class A, int v>
__global__ void __launch_bounds__(threads) average_whole(E const* x, int pixels, int vectors, int across, A divisor, E* y) {
  __shared__ A sums[threads][v];
  int const column = threadIdx.x % across, first = threadIdx.x / across, lines = threads / across, vector = blockIdx.y * across + column;
  A sum[v] = {};
  if (vector < vectors) {
#pragma unroll 4
    for (int pixel = first; pixel < pixels; pixel += lines) {
      Pack<E, v> const in = reinterpret_cast<Pack<E, v> const*>(x)[(std::int64_t(blockIdx.x) * pixels + pixel) * vectors + vector];
#pragma unroll
      for (int e = 0; e < v; ++e) sum[e] += load(in.e[e]);
    }
  }
#pragma unroll
  for (int e = 0; e < v; ++e) sums[threadIdx.x][e] = sum[e];
  __syncthreads();
  for (int i = threadIdx.x; i < across * v; i += threads) {
    int const set = i / v, e = i % v;
    if (blockIdx.y * across + set >= vectors) continue;
    A all = 0;
    for (int line = 0; line < lines; ++line) all += sums[line * across + set][e];
    put(y[(std::int64_t(blockIdx.x) * vectors + blockIdx.y * across + set) * v + e], all / divisor);
  }
}

template <class E, class A, class W, bool maximum, int v>
__global__ void __launch_bounds__(threads) pool_backward(Geometry const g, int elements, E const* dy, W const* winner, E* dx) {
  int const index = blockIdx.x * threads + threadIdx.x;
  if (index >= elements) return;
  Place const t = place_of<v>(g, index);
  int const up = t.row + g.pad_top, left = t.column + g.pad_left;
  int const row_begin = max(0, (up - g.r + g.st_h) / g.st_h), row_end = min(g.p, up / g.st_h + 1);
  int const column_begin = max(0, (left - g.s + g.st_w) / g.st_w), column_end = min(g.q, left / g.st_w + 1);
  A sum[v] = {};
  for (int row = row_begin; row < row_end; ++row)
    for (int column = column_begin; column < column_end; ++column) {
      int const r = up - row * g.st_h, s = left - column * g.st_w;
      if (r >= g.r || s >= g.s) continue;
      std::int64_t const from = g.at(t.n, t.c, std::int64_t(row) * g.q + column, std::int64_t(g.p) * g.q);
      Pack<E, v> const in = *reinterpret_cast<Pack<E, v> const*>(dy + from);
      if constexpr (maximum) {
        Pack<W, v> const which = *reinterpret_cast<Pack<W, v> const*>(winner + from);
#pragma unroll
        for (int e = 0; e < v; ++e)
          if (int(which.e[e]) == r * g.s + s) sum[e] += load(in.e[e]);
      } else {
        A const divisor = A(g.divisor(row, column));
#pragma unroll
        for (int e = 0; e < v; ++e) sum[e] += load(in.e[e]) / divisor;
      }
    }
  Pack<E, v> out;
#pragma unroll
  for (int e = 0; e < v; ++e) put(out.e[e], sum[e]);
  *reinterpret_cast<Pack<E, v>*>(dx + g.at(t.n, t.c, std::int64_t(t.row) * g.w + t.column, std::int64_t(g.h) * g.w)) = out;
}

std::string reject(PoolProblem const& p, DeviceFacts const&) {
  if (p.load_x != OnLoad{} || p.result != PoolResult::plain) return "a batch norm in the same launch";
  if (p.type != DType::f64 && p.type != DType::f32 && p.type != DType::bf16) return "f64, f32 and bf16 only";
  if (std::int64_t(p.n) * p.c * std::max(std::int64_t(p.h) * p.w, std::int64_t(p.p) * p.q) >= std::int64_t(1) << 31) return "2^31 elements or more";
  return {};
}
double seconds(PoolProblem const& p, DeviceFacts const&) { return 2e-6 + bytes_of(p.operands()) / 3e12; }

template <class E, class A, class W, int v>
void launch(PoolProblem const& p, PoolArgs const& a, cudaStream_t stream) {
  bool const nhwc = p.layout == Layout::nhwc, maximum = p.kind == PoolKind::max;
  int const rows = p.gradient ? p.h : p.p, columns = p.gradient ? p.w : p.q, elements = p.n * rows * columns * (p.c / v);
  Geometry const g{p.n, p.c, p.h, p.w, p.p, p.q, p.r, p.s, p.stride_h, p.stride_w, p.pad_top, p.pad_left, p.pad_bottom, p.pad_right, nhwc ? 1 : 0, nhwc ? p.c : 1,
                   p.count_include_pad, FastDivide(p.c / v), FastDivide(columns), FastDivide(rows)};
  unsigned const blocks = unsigned((elements + threads - 1) / threads);
  E *const x = a.x.as<E>(), *const y = a.y.as<E>();
  W* const winner = a.winner.as<W>();
  if (p.gradient && maximum && v > 1 && p.r == 3 && p.s == 3 && p.stride_h == 2 && p.stride_w == 2) {
    Geometry squares = g;
    int const down = (p.h - 1 + p.pad_top) / 2 + 1, across = (p.w - 1 + p.pad_left) / 2 + 1, count = p.n * down * across * (p.c / v);
    squares.by_columns = FastDivide(across), squares.by_rows = FastDivide(down);
    max_backward_of_squares<E, A, W, v><<<unsigned((count + threads - 1) / threads), threads, 0, stream>>>(squares, count, y, winner, x);
  } else if (p.gradient && maximum && v > 1 && p.r == 2 && p.s == 2 && p.stride_h == 2 && p.stride_w == 2 && !p.pad_top && !p.pad_left && p.h / 2 == p.p &&
             p.w / 2 == p.q) {
    Geometry windows = g;
    int const count = p.n * p.p * p.q * (p.c / v);
    windows.by_columns = FastDivide(p.q), windows.by_rows = FastDivide(p.p);
    max_backward_of_windows<E, A, W, 2, v><<<unsigned((count + threads - 1) / threads), threads, 0, stream>>>(windows, count, y, winner, x);
  } else if (p.gradient) {
    if (maximum) pool_backward<E, A, W, true, v><<<blocks, threads, 0, stream>>>(g, elements, y, winner, x);
    else pool_backward<E, A, W, false, v><<<blocks, threads, 0, stream>>>(g, elements, y, winner, x);
  } else if (!maximum && nhwc && p.p == 1 && p.q == 1 && p.r == p.h && p.s == p.w && !p.pad_top && !p.pad_left && !p.pad_bottom && !p.pad_right) {
    int const vectors = p.c / v;
    int across = 1;
    while (across < vectors && across < 32) across *= 2;
    average_whole<E, A, v><<<dim3(unsigned(p.n), unsigned((vectors + across - 1) / across)), threads, 0, stream>>>(x, p.h * p.w, vectors,
                                                                                                                   across, A(p.h * p.w), y);
  } else {
    void (*forward)(Geometry, int, E const*, E*, W*) = pool_forward<E, A, W, false, 0, v>;
    if (maximum) forward = pool_forward<E, A, W, true, 0, v>;
    if constexpr (v > 1) {
      if (maximum && p.r == 2 && p.s == 2) forward = pool_forward<E, A, W, true, 2, v>;
      if (maximum && p.r == 3 && p.s == 3) forward = pool_forward<E, A, W, true, 3, v>;
    }
    if constexpr (std::is_same_v<E, bf16> && v == 8) {
      if (maximum && !winner && p.r == p.s && (p.r == 2 || p.r == 3)) {
        (p.r == 2 ? max_of_pairs<2> : max_of_pairs<3>)<<<blocks, threads, 0, stream>>>(g, elements, x, y);
        return check_launch("pool gather", p, stream);
      }
    }
    forward<<<blocks, threads, 0, stream>>>(g, elements, x, y, winner);
  }
  check_launch("pool gather", p, stream);
}

void run(PoolProblem const& p, Config const&, PoolArgs const& a, View, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  auto const typed = [&](auto e, auto acc, auto w) {
    using E = decltype(e);
    using A = decltype(acc);
    using W = decltype(w);
    constexpr int most = 16 / sizeof(E);
    if (p.layout == Layout::nhwc && p.c % most == 0) launch<E, A, W, most>(p, a, stream);
    else launch<E, A, W, 1>(p, a, stream);
  };
  bool const small = PoolProblem::winner_type(p.r, p.s) == DType::u8;
  if (p.type == DType::f64) small ? typed(double{}, double{}, std::uint8_t{}) : typed(double{}, double{}, std::int32_t{});
  else if (p.type == DType::f32) small ? typed(float{}, float{}, std::uint8_t{}) : typed(float{}, float{}, std::int32_t{});
  else small ? typed(bf16{}, float{}, std::uint8_t{}) : typed(bf16{}, float{}, std::int32_t{});
}

}  // namespace

Algorithm<PoolProblem> const pool_cuda_gather{.name = "gather", .target = DeviceKind::cuda, .reject = reject, .seconds = seconds, .run = run};

}  // namespace falconet
