// A convolution of few channels (16 and 32, forward also fewer than 16 in; 3x3 and 1x1 in bf16, as conv's halo_mma) with the batch norm at its
// result, both ways, in one launch whose blocks are all on the card at once: a tile a block. Each block makes its tile, keeps the rounded results
// in registers, writes its channel sums and waits until all blocks have; then it adds the blocks' sums itself, in the same order as all others, makes
// the vectors in f64 and applies them to what it holds. What is saved is not arithmetic: the last block's turn that adds the sums, a launch, and
// reading the results again, which together cost more than the waiting (docs/adr/0120).
// Waiting needs all blocks at once, so the launch is cooperative, and tiles that are too many are rejected.
#include <algorithm>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/ops/conv/cuda/halo_mma.cuh"
#include "falconet/ops/conv_norm/algorithms.h"
#include "falconet/ops/conv_norm/cuda/one_wave.cuh"

namespace falconet {
namespace {

using namespace small_channels;
using namespace one_wave_parts;

template <int C, int N, int side, int threads, bool gradient>
__global__ void __launch_bounds__(threads, 1) one_wave(const __grid_constant__ Work w) {
  using namespace ptx;
  constexpr int pixel = pixel_bytes<C>, across = N / 4, words = N / 8, warps = threads / 32, held = gradient ? 3 : 2;
  constexpr int filter_bytes = side * side * C * N * 2;
  extern __shared__ __align__(128) char dynamic[];
  __shared__ __align__(16) float table[warps][2 * N];
  __shared__ __align__(16) float vectors[held][N];
  __shared__ float totals[2 * N];
  char* const filter = dynamic;
  std::uint32_t const image = shared_address(dynamic) + filter_bytes;
  Tiles const& t = w.tiles;
  int const warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int const channel = (lane & 3) * across;
  Place const at = place_of_block(w);
  std::uint32_t from[2];           // where the matrix loads of this lane's rows begin
  int to[4], image_of[4];          // of this lane's pixels in the result: the first of its channels, -1 for none; the image
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    Pixel const p = locate<N>(w, at, (warp * 2 + m) * 16 + (lane & 15), pixel);
    from[m] = image + p.matrix + (lane >> 4) * 16;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int const place = __shfl_sync(~0u, p.to, lane / 4 + 8 * half);
      to[2 * m + half] = place < 0 ? -1 : place + channel;
      image_of[2 * m + half] = __shfl_sync(~0u, p.image, lane / 4 + 8 * half);
    }
  }

  wait_for_work_ahead();           // nothing is read or written before
  fetch<C>(image, w.in, t.group, t.in_rows, t.in_columns, at.n, at.row * w.stride - w.pad_top, at.column * w.stride - w.pad_left, w.n, w.height, w.width,
           w.real);
  copies_done();
  place_filter<C, N, side>(filter, w.filter, w.filter_f32, gradient, w.real);
  int const valid = w.step->valid_count;
  Own<N, gradient> const own(w);

  copies_wait<0>();
  __syncthreads();
  float d[2][N / 8][4];
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int j = 0; j < N / 8; ++j) d[m][j][0] = d[m][j][1] = d[m][j][2] = d[m][j][3] = 0;
#pragma unroll
  for (int r = 0; r < side; ++r) {
    int const line = r * t.in_columns * pixel;
#pragma unroll
    for (int s = 0; s < side; ++s)
#pragma unroll
      for (int kk = 0; kk < C / 16; ++kk) {
        uint4 b[N / 16];
#pragma unroll
        for (int j = 0; j < N / 16; ++j) b[j] = reinterpret_cast<uint4 const*>(filter)[(((r * side + s) * (C / 16) + kk) * (N / 16) + j) * 32 + lane];
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          std::uint32_t a[4];
          load_matrices(a, from[m] + line + s * pixel + kk * 32);
#pragma unroll
          for (int j = 0; j < N / 16; ++j) mma_bf16(d[m][2 * j], a, b[j].x, b[j].y), mma_bf16(d[m][2 * j + 1], a, b[j].z, b[j].w);
        }
      }
  }

  float sums[2 * across] = {}, (&first)[across] = reinterpret_cast<float(&)[across]>(sums[0]), (&second)[across] = reinterpret_cast<float(&)[across]>(sums[across]);
  std::uint32_t result[4][words], other[4][words];   // other: what the gradient's sums are taken with, or the skip
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < words; ++j) result[i][j] = other[i][j] = 0;
    if (to[i] < 0) continue;
    if constexpr (gradient) read_words(other[i], w.other + to[i]);
    else if (w.skip) read_words(other[i], w.skip + to[i]);
    std::uint32_t residual[words], mask[words];
    if constexpr (gradient) {
      if (w.residual) read_words(residual, w.residual + to[i]);
      if (w.mask) read_words(mask, w.mask + to[i]);
    }
    bool const counts = image_of[i] < valid;
#pragma unroll
    for (int j = 0; j < words; ++j) {
      float low = d[i / 2][j][i % 2 * 2], high = d[i / 2][j][i % 2 * 2 + 1];
      if constexpr (gradient) {
        if (w.residual) low += low_bf16(residual[j]), high += high_bf16(residual[j]);
        if (w.mask) low = low_bf16(mask[j]) > 0 ? low : 0.f, high = high_bf16(mask[j]) > 0 ? high : 0.f;
      }
      result[i][j] = pack_bf16(low, high);
      if (!counts) continue;
      low = low_bf16(result[i][j]), high = high_bf16(result[i][j]);
      if constexpr (gradient) {
        first[2 * j] = fmaf(low, low_bf16(other[i][j]), first[2 * j]), first[2 * j + 1] = fmaf(high, high_bf16(other[i][j]), first[2 * j + 1]);
        second[2 * j] += low, second[2 * j + 1] += high;
      } else {
        first[2 * j] += low, first[2 * j + 1] += high;
        second[2 * j] = fmaf(low, low, second[2 * j]), second[2 * j + 1] = fmaf(high, high, second[2 * j + 1]);
      }
    }
  }

  add_lanes(sums, lane);           // lanes of one channel, then the warps in order, then the blocks
#pragma unroll
  for (int i = 0; i < 2 * across / 8; ++i) {
    int const kept = first_kept<2 * across>(lane) + i;
    table[warp][kept / across * N + channel + kept % across] = sums[i];
  }
  make_vectors<N, threads, warps, gradient>(w, table, totals, vectors, own, [&] {
    if (w.out)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (to[i] >= 0) write_words(w.out + to[i], result[i]);
  });
#pragma unroll
  for (int j = 0; j < words; ++j) {
    float low[held], high[held];
#pragma unroll
    for (int k = 0; k < held; ++k) {
      float2 const v = *reinterpret_cast<float2 const*>(&vectors[k][channel + 2 * j]);
      low[k] = v.x, high[k] = v.y;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
      result[i][j] = pack_bf16(apply<gradient>(w, low_bf16(result[i][j]), low_bf16(other[i][j]), low, image_of[i] < valid),
                               apply<gradient>(w, high_bf16(result[i][j]), high_bf16(other[i][j]), high, image_of[i] < valid));
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (to[i] >= 0) write_words(w.result + to[i], result[i]);
  if (threadIdx.x == 0) leave(w.arrivals);
}

// ---------------------------------------------------------------- host

struct Layout4 {
  Tiles tiles;
  int threads = 0, shared = 0;   // no threads: more tiles than can be on the card at once
};
// The smallest tiles of which there is one a multiprocessor at most: 256 pixels, 512, and with 16 channels 1024, 32 a warp.
Layout4 layout_of(ConvProblem const& p) {
  Shape4 const s = shape_of(p);
  int const C = padded(s.in_channels), filter = p.r * p.r * C * s.out_channels * 2;
  for (int pixels : {256, 512, 1024}) {
    if (pixels == 1024 && s.out_channels != 16) break;
    Layout4 l;
    l.tiles = tiles_of(p.n, s.rows, s.columns, p.r, p.stride_h, pixels);
    l.threads = pixels;
    l.shared = filter + l.tiles.group * l.tiles.in_rows * l.tiles.in_columns * (C * 2 + 16);
    if (l.tiles.count <= multiprocessors && l.shared <= 200 * 1024) return l;
  }
  return {};
}

std::string reject(ConvNormProblem const& whole, DeviceFacts const& facts) {
  auto const& p = whole.conv;
  if (std::string why = rejects_one_wave(whole, facts); !why.empty()) return why;
  if (p.w_type != DType::bf16 && p.w_type != DType::f32) return "a filter in bf16 or f32 only";
  if (p.r != 3 && p.r != 1) return "3x3 and 1x1 filters only";
  bool const forward = p.direction == Direction::fwd;
  Shape4 const s = shape_of(p);
  int const in = padded(s.in_channels), out = s.out_channels;
  if (!forward && s.in_channels < 16) return "a data gradient of fewer than 16 channels";
  if (!(in == 16 && out == 32) && !(p.r == 3 && in == 16 && out == 16) && !(p.r == 3 && in == 32 && out == 32))
    return "3x3 of 16 to 16, 16 to 32 or 32 to 32 channels, 1x1 of 16 to 32 only";
  if (!forward && (in != out || p.r != 3)) return "a data gradient of 3x3 with as many channels in as out only";
  Layout4 const l = layout_of(p);
  if (l.threads == 0) return "more tiles than multiprocessors";
  if (l.shared > facts.shared_memory_bytes - 8192) return "a tile does not fit in shared memory";
  return {};
}

std::size_t scratch(ConvNormProblem const& p, Config const&) {
  return std::size_t(layout_of(p.conv).tiles.count) * 2 * std::size_t(shape_of(p.conv).out_channels) * sizeof(float);
}

double seconds(ConvNormProblem const& p, DeviceFacts const&) {
  Shape4 const s = shape_of(p.conv);
  Layout4 const l = layout_of(p.conv);
  return 3e-6 + std::max(l.threads * (2.0 * padded(s.in_channels) * s.out_channels * p.conv.r * p.conv.r) / 1.9e12, bytes_of(p.operands()) / 5e12);
}

template <int C, int N, int side, int threads, bool gradient>
void launch_form(Work const& w, Layout4 const& l, cudaStream_t stream) {
  static bool const allowed = (allow_shared_memory(one_wave<C, N, side, threads, gradient>, 200 * 1024), true);
  (void)allowed;
  launch_together(one_wave<C, N, side, threads, gradient>, dim3(unsigned(l.tiles.count)), dim3(threads), std::size_t(l.shared), stream, w);
}
template <int C, int N, int side, bool gradient>
void launch_threads(Work const& w, Layout4 const& l, cudaStream_t stream) {
  if (l.threads == 256) return launch_form<C, N, side, 256, gradient>(w, l, stream);
  if (l.threads == 512) return launch_form<C, N, side, 512, gradient>(w, l, stream);
  if constexpr (N == 16) launch_form<C, N, side, 1024, gradient>(w, l, stream);
}

void run(ConvNormProblem const& whole, Config const&, ConvNormArgs const& args, View memory, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  auto const& p = whole.conv;
  bool const gradient = p.direction == Direction::bwd_data;
  Shape4 const s = shape_of(p);
  Layout4 const l = layout_of(p);
  Work const w = work_of(whole, l.tiles, args, memory, on);
  int const C = padded(s.in_channels);
  if (gradient) C == 16 ? launch_threads<16, 16, 3, true>(w, l, stream) : launch_threads<32, 32, 3, true>(w, l, stream);
  else if (p.r == 1) launch_threads<16, 32, 1, false>(w, l, stream);
  else if (C == 32) launch_threads<32, 32, 3, false>(w, l, stream);
  else s.out_channels == 16 ? launch_threads<16, 16, 3, false>(w, l, stream) : launch_threads<16, 32, 3, false>(w, l, stream);
  check_launch("conv_norm one_wave", whole, stream);
}

}  // namespace

extern Algorithm<ConvNormProblem> const conv_norm_cuda_one_wave = {
    .name = "one_wave", .target = DeviceKind::cuda, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run};
std::vector<Algorithm<ConvNormProblem>> conv_norm_cuda_algorithms() { return {conv_norm_cuda_one_wave}; }

}  // namespace falconet
