// Maximum pooling of a batch norm's input, y = max over the window of relu(scale x + shift), in bf16, channels last, with windows of 3x3 and stride 2: the map
// between the two is never written. A value rounded to bf16 and not negative is ordered as its bits are, so that value and place in the window are one
// integer (bits above, places below, the first place the largest) and comparing two of them is one maximum. A thread has 8 channels of a column of
// windows and walks down some of them; the row that two windows share is read once.
// Bound by memory: x, y and winner once. Instructions: some 25 for each element of y.
#include <algorithm>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/divide.cuh"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/device/cuda/ptx.cuh"
#include "falconet/ops/pool/cuda/algorithms.h"

namespace falconet {
namespace {

constexpr int threads = 256, rows_of_thread = 4;

struct Work {
  bf16 const* x = nullptr;
  float const* load_x = nullptr;         // [2][c]
  bf16* y = nullptr;
  std::uint8_t* winner = nullptr;        // or nothing
  int c, h, w, p, q, pad_top, pad_left, all;
  FastDivide by_channels, by_columns, by_bands;   // in vectors of 8 channels; bands of rows_of_thread rows
};

// Maxima of three pixels of a row: bits of the value above, 2 - s below. Pixels that do not exist are 0, which is no more than any that does.
FALCONET_DEVICE void maxima_of_row(uint4 const (&in)[3], bool const (&exists)[3], float const (&scale)[8], float const (&shift)[8], std::uint32_t (&best)[8]) {
#pragma unroll
  for (int e = 0; e < 8; ++e) best[e] = 0;
#pragma unroll
  for (int s = 0; s < 3; ++s) {
    std::uint32_t const pairs[4] = {in[s].x, in[s].y, in[s].z, in[s].w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      std::uint32_t z;
      asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(z) : "f"(fmaf(scale[2 * i + 1], ptx::high_bf16(pairs[i]), shift[2 * i + 1])),
          "f"(fmaf(scale[2 * i], ptx::low_bf16(pairs[i]), shift[2 * i])));
      if (!exists[s]) continue;
      best[2 * i] = max(best[2 * i], __byte_perm(z, 2 - s, 0x1054)), best[2 * i + 1] = max(best[2 * i + 1], __byte_perm(z, 2 - s, 0x3254));
    }
  }
}

__global__ void __launch_bounds__(threads) pool_normalised(const __grid_constant__ Work work) {
  int const index = blockIdx.x * threads + threadIdx.x;
  wait_for_work_ahead();
  if (index >= work.all) return;
  int c, column, band;
  int const rest = work.by_channels(index, c), n = work.by_bands(work.by_columns(rest, column), band), left = 2 * column - work.pad_left;
  c *= 8;
  float scale[8], shift[8];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float4 const a = *reinterpret_cast<float4 const*>(work.load_x + c + 4 * i), b = *reinterpret_cast<float4 const*>(work.load_x + work.c + c + 4 * i);
    scale[4 * i] = a.x, scale[4 * i + 1] = a.y, scale[4 * i + 2] = a.z, scale[4 * i + 3] = a.w;
    shift[4 * i] = b.x, shift[4 * i + 1] = b.y, shift[4 * i + 2] = b.z, shift[4 * i + 3] = b.w;
  }
  bf16 const* const image = work.x + std::int64_t(n) * work.h * work.w * work.c + c;
  bool exists[3];
#pragma unroll
  for (int s = 0; s < 3; ++s) exists[s] = unsigned(left + s) < unsigned(work.w);
  auto const fetch = [&](int row, uint4 (&in)[3]) {
#pragma unroll
    for (int s = 0; s < 3; ++s)
      in[s] = exists[s] && unsigned(row) < unsigned(work.h) ? __ldg(reinterpret_cast<uint4 const*>(image + (std::int64_t(row) * work.w + left + s) * work.c)) : make_uint4(0, 0, 0, 0);
  };
  auto const maxima = [&](int row, uint4 const (&in)[3], std::uint32_t (&best)[8]) {
    bool const inside = unsigned(row) < unsigned(work.h), here[3] = {inside && exists[0], inside && exists[1], inside && exists[2]};
    maxima_of_row(in, here, scale, shift, best);
  };
  int const begin = band * rows_of_thread, end = min(begin + rows_of_thread, work.p);
  std::uint32_t top[8];
  uint4 first[3], second[3];
  fetch(2 * begin - work.pad_top, first);
  maxima(2 * begin - work.pad_top, first, top);
#pragma unroll 1
  for (int p = begin; p < end; ++p) {
    int const row = 2 * p - work.pad_top;
    fetch(row + 1, first), fetch(row + 2, second);
    std::uint32_t best[8], next[8];
    maxima(row + 1, first, best);
    maxima(row + 2, second, next);
    std::uint32_t const above = row >= 0 ? 8 : 0, middle = unsigned(row + 1) < unsigned(work.h) ? 4 : 0;   // 4 (2 - r); a row that does not exist wins nothing
    std::uint32_t of_y[4];
    std::uint64_t of_winner = 0;
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      best[e] = max(max(top[e] + above, best[e] + middle), next[e]), top[e] = next[e];
      of_winner |= std::uint64_t(8 - (best[e] >> 2 & 3) * 3 - (best[e] & 3)) << 8 * e;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) of_y[i] = __byte_perm(best[2 * i], best[2 * i + 1], 0x7632);
    std::int64_t const to = ((std::int64_t(n) * work.p + p) * work.q + column) * work.c + c;
    *reinterpret_cast<uint4*>(work.y + to) = make_uint4(of_y[0], of_y[1], of_y[2], of_y[3]);
    if (work.winner) *reinterpret_cast<std::uint64_t*>(work.winner + to) = of_winner;
  }
}

std::string reject(PoolProblem const& p, DeviceFacts const& facts) {
  if (facts.compute_capability < 80) return "bf16 with a lower bound needs compute capability 8.0";
  if (p.load_x.affine != Affine::scale_shift || p.load_x.act != Activation::relu) return "only of scale x + shift and relu";
  if (p.kind != PoolKind::max || p.gradient) return "maximum pooling forwards only";
  if (p.type != DType::bf16 || p.layout != Layout::nhwc || p.c % 8) return "bf16 and nhwc of a multiple of 8 channels only";
  if (p.r != 3 || p.s != 3 || p.stride_h != 2 || p.stride_w != 2) return "windows of 3x3 with stride 2 only";
  if (std::int64_t(p.n) * p.c * p.p * p.q >= std::int64_t(1) << 31) return "2^31 elements or more";
  return {};
}
double seconds(PoolProblem const& p, DeviceFacts const&) { return 3e-6 + bytes_of(p.operands()) / 3.3e12; }

void run(PoolProblem const& p, Config const&, PoolArgs const& a, View, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  int const bands = (p.p + rows_of_thread - 1) / rows_of_thread;
  Work const work{a.x.as<bf16>(), a.load_x.as<float>(), a.y.as<bf16>(), p.winner ? a.winner.as<std::uint8_t>() : nullptr, p.c, p.h, p.w, p.p, p.q, p.pad_top, p.pad_left,
                  p.n * bands * p.q * (p.c / 8), FastDivide(p.c / 8), FastDivide(p.q), FastDivide(bands)};
  launch_ahead(pool_normalised, dim3(unsigned((work.all + threads - 1) / threads)), dim3(threads), 0, 1, stream, work);
  check_launch("pool normalised", p, stream);
}

}  // namespace

Algorithm<PoolProblem> const pool_cuda_normalised{.name = "normalised", .target = DeviceKind::cuda, .reject = reject, .seconds = seconds, .run = run};

}  // namespace falconet
