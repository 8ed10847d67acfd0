// As one_wave, for 64 channels out (32 or 64 in; forward 3x3 with stride 1 or 2, data gradient 3x3 of 64 to 64 with stride 1): a tile is 64 pixels, a warp
// makes 16 of them by 32 channels by mma.sync. The filter (72 KB) is copied as it lies, a row of taps at a time, so that products begin before all of
// it has come; the matrix loads turn it for the data gradient. Small maps of late blocks: 8x8 pixels of 128 images are 128 tiles.
#include <algorithm>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/ops/conv_norm/algorithms.h"
#include "falconet/ops/conv_norm/cuda/one_wave.cuh"

namespace falconet {
namespace {

using namespace small_channels;
using namespace one_wave_parts;

constexpr int N = 64, side = 3, taps = side * side, threads = 256, warps = threads / 32, tile = 64;
template <int C>
constexpr int filter_pitch = taps * C * 2 + 16;   // bytes from one filter to the next: an odd number of matrix rows

template <int C, bool gradient>
__global__ void __launch_bounds__(threads, 1) one_wave_64(const __grid_constant__ Work w) {
  using namespace ptx;
  constexpr int pixel = pixel_bytes<C>, pitch = filter_pitch<C>, held = gradient ? 3 : 2, across = 4;   // across: eights of channels of a warp
  extern __shared__ __align__(128) char dynamic[];
  __shared__ __align__(16) float table[warps][2 * N];
  __shared__ __align__(16) float vectors[held][N];
  __shared__ float totals[2 * N];
  std::uint32_t const filter = shared_address(dynamic), image = filter + N * pitch;
  Tiles const& t = w.tiles;
  int const warp = threadIdx.x / 32, lane = threadIdx.x % 32, part = warp % 4, half = warp / 4 * 32;   // the warp's pixels and first channel
  Place const at = place_of_block(w);
  Pixel const p = locate<N>(w, at, part * 16 + (lane & 15), pixel);
  std::uint32_t const from = image + p.matrix + (lane >> 4) * 16;
  int to[2], image_of[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    int const place = __shfl_sync(~0u, p.to, lane / 4 + 8 * i);
    to[i] = place < 0 ? -1 : place + half + 2 * (lane & 3);
    image_of[i] = __shfl_sync(~0u, p.image, lane / 4 + 8 * i);
  }
  // Where this lane's row of the matrices of 16 channels in by 16 out begins.
  std::uint32_t const b_from = gradient ? filter + ((lane & 7) + (lane >> 3 & 1) * 8) * pitch + (half + (lane >> 4) * 8) * 2
                                        : filter + (half + (lane & 7) + (lane >> 4) * 8) * pitch + (lane >> 3 & 1) * 16;

  wait_for_work_ahead();           // nothing is read or written before
  fetch<C>(image, w.in, t.group, t.in_rows, t.in_columns, at.n, at.row * w.stride - w.pad_top, at.column * w.stride - w.pad_left, w.n, w.height, w.width, C);
  // Three groups of copies: the filter's rows in the order in which they are used.
#pragma unroll
  for (int r = 0; r < side; ++r) {
    constexpr int chunks = side * C / 8;
    int const row = gradient ? side - 1 - r : r;
    for (int i = threadIdx.x; i < N * chunks; i += threads) {
      int const k = i / chunks, at_byte = row * side * C * 2 + (i - k * chunks) * 16;
      copy_16(filter + k * pitch + at_byte, static_cast<char const*>(w.filter) + k * taps * C * 2 + at_byte, true);
    }
    copies_done();
  }

  int const valid = w.step->valid_count;
  Own<N, gradient> const own(w);
  auto const read = [&](std::uint32_t (&v)[2][across], bf16 const* tensor) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < across; ++j) v[i][j] = to[i] < 0 ? 0 : *reinterpret_cast<std::uint32_t const*>(tensor + to[i] + 8 * j);
  };
  std::uint32_t other[2][across] = {}, residual[2][across] = {}, mask[2][across] = {};   // other: the skip, forward
  if constexpr (gradient) {
    read(other, w.other);
    if (w.residual) read(residual, w.residual);
    if (w.mask) read(mask, w.mask);
  } else {
    if (w.skip) read(other, w.skip);
  }

  float d[across][4] = {};
#pragma unroll
  for (int r = 0; r < side; ++r) {
    r == 0 ? copies_wait<2>() : r == 1 ? copies_wait<1>() : copies_wait<0>();
    __syncthreads();
#pragma unroll
    for (int s = 0; s < side; ++s)
#pragma unroll
      for (int kk = 0; kk < C / 16; ++kk) {
        std::uint32_t a[4], b[2][4];
        load_matrices(a, from + (r * t.in_columns + s) * pixel + kk * 32);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          if constexpr (gradient) load_matrices_transposed(b[j], b_from + kk * 16 * pitch + ((taps - 1 - r * side - s) * C + 16 * j) * 2);
          else load_matrices(b[j], b_from + 16 * j * pitch + ((r * side + s) * C + kk * 16) * 2);
          mma_bf16(d[2 * j], a, b[j][0], b[j][1]), mma_bf16(d[2 * j + 1], a, b[j][2], b[j][3]);
        }
      }
  }

  float sums[4 * across] = {}, (&first)[across][2] = reinterpret_cast<float(&)[across][2]>(sums[0]), (&second)[across][2] = reinterpret_cast<float(&)[across][2]>(sums[2 * across]);
  std::uint32_t result[2][across];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    bool const counts = to[i] >= 0 && image_of[i] < valid;
#pragma unroll
    for (int j = 0; j < across; ++j) {
      float low = d[j][2 * i], high = d[j][2 * i + 1];
      if constexpr (gradient) {
        if (w.residual) low += low_bf16(residual[i][j]), high += high_bf16(residual[i][j]);
        if (w.mask) low = low_bf16(mask[i][j]) > 0 ? low : 0.f, high = high_bf16(mask[i][j]) > 0 ? high : 0.f;
      }
      result[i][j] = pack_bf16(low, high);
      if (!counts) continue;
      low = low_bf16(result[i][j]), high = high_bf16(result[i][j]);
      if constexpr (gradient) {
        first[j][0] = fmaf(low, low_bf16(other[i][j]), first[j][0]), first[j][1] = fmaf(high, high_bf16(other[i][j]), first[j][1]);
        second[j][0] += low, second[j][1] += high;
      } else {
        first[j][0] += low, first[j][1] += high;
        second[j][0] = fmaf(low, low, second[j][0]), second[j][1] = fmaf(high, high, second[j][1]);
      }
    }
  }
  add_lanes(sums, lane);
#pragma unroll
  for (int i = 0; i < 4 * across / 8; ++i) {
    int const kept = first_kept<4 * across>(lane) + i, of = kept % (2 * across);
    table[part][kept / (2 * across) * N + half + of / 2 * 8 + 2 * (lane & 3) + of % 2] = sums[i];
  }
  auto const write = [&](bf16* tensor) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < across; ++j)
        if (to[i] >= 0) *reinterpret_cast<std::uint32_t*>(tensor + to[i] + 8 * j) = result[i][j];
  };
  make_vectors<N, threads, 4, gradient>(w, table, totals, vectors, own, [&] {
    if (w.out) write(w.out);
  });
#pragma unroll
  for (int j = 0; j < across; ++j) {
    float low[held], high[held];
#pragma unroll
    for (int k = 0; k < held; ++k) {
      float2 const v = *reinterpret_cast<float2 const*>(&vectors[k][half + 8 * j + 2 * (lane & 3)]);
      low[k] = v.x, high[k] = v.y;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i)
      result[i][j] = pack_bf16(apply<gradient>(w, low_bf16(result[i][j]), low_bf16(other[i][j]), low, image_of[i] < valid),
                               apply<gradient>(w, high_bf16(result[i][j]), high_bf16(other[i][j]), high, image_of[i] < valid));
  }
  write(w.result);
  if (threadIdx.x == 0) leave(w.arrivals);
}

// ---------------------------------------------------------------- host

Tiles tiles_of_problem(ConvProblem const& p) {
  return p.direction == Direction::fwd ? tiles_of(p.n, p.p(), p.q(), p.r, p.stride_h, tile) : tiles_of(p.n, p.h, p.w, p.r, 1, tile);
}
int channels_in(ConvProblem const& p) { return p.direction == Direction::fwd ? p.c : p.k; }
int shared_of(ConvProblem const& p) {
  Tiles const t = tiles_of_problem(p);
  int const C = channels_in(p);
  return N * (taps * C * 2 + 16) + t.group * t.in_rows * t.in_columns * (C * 2 + 16);
}

std::string reject(ConvNormProblem const& whole, DeviceFacts const& facts) {
  auto const& p = whole.conv;
  if (std::string why = rejects_one_wave(whole, facts); !why.empty()) return why;
  bool const forward = p.direction == Direction::fwd;
  if (p.w_type != DType::bf16) return "a filter in bf16 only";
  if (p.r != 3) return "3x3 filters only";
  if ((forward ? p.k : p.c) != 64 || (channels_in(p) != 64 && !(forward && p.c == 32))) return "64 channels out of 64, forward also of 32 only";
  if (tiles_of_problem(p).count > multiprocessors) return "more tiles than multiprocessors";
  if (shared_of(p) > std::min<std::int64_t>(200 * 1024, facts.shared_memory_bytes - 8192)) return "a tile does not fit in shared memory";
  return {};
}

std::size_t scratch(ConvNormProblem const& p, Config const&) { return std::size_t(tiles_of_problem(p.conv).count) * 2 * N * sizeof(float); }

double seconds(ConvNormProblem const& p, DeviceFacts const&) { return 3.5e-6 + 64 * (2.0 * channels_in(p.conv) * N * taps) / 1.9e12 + bytes_of(p.operands()) / 5e12; }

void run(ConvNormProblem const& whole, Config const&, ConvNormArgs const& args, View memory, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  Work const w = work_of(whole, tiles_of_problem(whole.conv), args, memory, on);
  auto const launch = [&](auto kernel) {
    allow_shared_memory(kernel, 200 * 1024);
    launch_together(kernel, dim3(unsigned(w.tiles.count)), dim3(threads), std::size_t(shared_of(whole.conv)), stream, w);
  };
  if (whole.conv.direction != Direction::fwd) launch(one_wave_64<64, true>);
  else whole.conv.c == 64 ? launch(one_wave_64<64, false>) : launch(one_wave_64<32, false>);
  check_launch("conv_norm one_wave_64", whole, stream);
}

}  // namespace

extern Algorithm<ConvNormProblem> const conv_norm_cuda_one_wave_64 = {
    .name = "one_wave_64", .target = DeviceKind::cuda, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run};

}  // namespace falconet
