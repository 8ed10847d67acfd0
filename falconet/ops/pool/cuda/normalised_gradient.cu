// The gradient d of maximum pooling on its way through the batch norm before it, in bf16, channels last, with windows of 3x3 and stride 2: either its sums
// with the batch norm's input x (sum d x and sum d per channel), or the gradient of x, a d + b x + c. d itself is never written: a thread has 8 channels
// of squares of four pixels, which four windows reach alone (gather.cu), and makes d in registers. Blocks' sums are added in a fixed order by a second
// kernel. Bound by memory: dy, winner, x once, and the gradient of x.
#include <algorithm>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/divide.cuh"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/device/cuda/ptx.cuh"
#include "falconet/device/device.h"
#include "falconet/ops/pool/cuda/algorithms.h"

namespace falconet {
namespace {

constexpr int threads = 256, most_blocks = 2 * 132;   // two of a multiprocessor of the H100 and H200; fixed, so that results do not depend on the card

struct Work {
  bf16 const *dy = nullptr, *x = nullptr;
  std::uint8_t const* winner = nullptr;
  bf16* dx = nullptr;
  float const* vectors = nullptr;        // [3][c]
  StepState const* step = nullptr;
  float* partial = nullptr;              // [blocks][2][c]
  int n, c, h, w, p, q, pad_top, pad_left, squares;
  FastDivide by_vectors, by_columns, by_rows;   // vectors of 8 channels; of squares
};

FALCONET_DEVICE void unpack(uint4 v, float (&to)[8]) {
  to[0] = ptx::low_bf16(v.x), to[1] = ptx::high_bf16(v.x), to[2] = ptx::low_bf16(v.y), to[3] = ptx::high_bf16(v.y);
  to[4] = ptx::low_bf16(v.z), to[5] = ptx::high_bf16(v.z), to[6] = ptx::low_bf16(v.w), to[7] = ptx::high_bf16(v.w);
}

template <bool sums>
__global__ void __launch_bounds__(threads, 2) pool_gradient(const __grid_constant__ Work work) {
  int const vectors = work.c / 8;
  int vector;
  int const line = work.by_vectors(int(threadIdx.x), vector), lines = threads / vectors, c = vector * 8;
  wait_for_work_ahead();
  float a[8] = {}, b[8] = {}, plus[8] = {};           // of sums: sum d x, sum d
  if constexpr (!sums)
#pragma unroll
    for (int e = 0; e < 8; ++e) a[e] = work.vectors[c + e], b[e] = work.vectors[work.c + c + e], plus[e] = work.vectors[2 * work.c + c + e];
  int const valid = sums ? 0 : work.step->valid_count;
#pragma unroll 1
  for (int square = blockIdx.x * lines + line; square < work.squares; square += gridDim.x * lines) {
    int row, column;
    int const n = work.by_rows(work.by_columns(square, column), row), top = 2 * row - work.pad_top, left = 2 * column - work.pad_left;
    uint4 in[2][2], x[2][2];
    uint2 which[2][2];
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 2; ++j) {                   // window (row - 1 + i, column - 1 + j); pixel (top + i, left + j)
        int const p = row - 1 + i, q = column - 1 + j, h = top + i, w = left + j;
        in[i][j] = x[i][j] = make_uint4(0, 0, 0, 0), which[i][j] = make_uint2(~0u, ~0u);
        if (unsigned(p) < unsigned(work.p) && unsigned(q) < unsigned(work.q)) {
          std::int64_t const from = ((std::int64_t(n) * work.p + p) * work.q + q) * work.c + c;
          in[i][j] = __ldg(reinterpret_cast<uint4 const*>(work.dy + from)), which[i][j] = __ldg(reinterpret_cast<uint2 const*>(work.winner + from));
        }
        if (unsigned(h) < unsigned(work.h) && unsigned(w) < unsigned(work.w))
          x[i][j] = __ldg(reinterpret_cast<uint4 const*>(work.x + ((std::int64_t(n) * work.h + h) * work.w + w) * work.c + c));
      }
    float d[2][2][8] = {};
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float dy[8];
        unpack(in[i][j], dy);
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          unsigned const won = (e < 4 ? which[i][j].x : which[i][j].y) >> 8 * (e & 3) & 255;
#pragma unroll
          for (int k = 0; k < 2; ++k)
#pragma unroll
            for (int l = 0; l < 2; ++l) {             // the pixel's place in that window
              int const r = k + 2 * (1 - i), s = l + 2 * (1 - j);
              if (r < 3 && s < 3) d[k][l][e] += won == unsigned(r * 3 + s) ? dy[e] : 0.f;
            }
        }
      }
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        int const h = top + i, w = left + j;
        float of_x[8];
        unpack(x[i][j], of_x);
        bool const exists = unsigned(h) < unsigned(work.h) && unsigned(w) < unsigned(work.w);
        if constexpr (sums) {                         // of a pixel that does not exist x is 0
#pragma unroll
          for (int e = 0; e < 8; ++e) a[e] = fmaf(d[i][j][e], of_x[e], a[e]), b[e] += exists ? d[i][j][e] : 0.f;
        } else if (exists) {
          float v[8];
#pragma unroll
          for (int e = 0; e < 8; ++e) v[e] = n < valid ? fmaf(a[e], d[i][j][e], fmaf(b[e], of_x[e], plus[e])) : 0.f;
          *reinterpret_cast<uint4*>(work.dx + ((std::int64_t(n) * work.h + h) * work.w + w) * work.c + c) =
              make_uint4(ptx::pack_bf16(v[0], v[1]), ptx::pack_bf16(v[2], v[3]), ptx::pack_bf16(v[4], v[5]), ptx::pack_bf16(v[6], v[7]));
        }
      }
  }
  if constexpr (sums) {
    __shared__ float shared[2][threads * 8];
#pragma unroll
    for (int e = 0; e < 8; ++e) shared[0][line * work.c + c + e] = a[e], shared[1][line * work.c + c + e] = b[e];
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * work.c; i += threads) {
      int const set = i / work.c, channel = i - set * work.c;
      float total = 0;
      for (int l = 0; l < lines; ++l) total += shared[set][l * work.c + channel];
      work.partial[std::int64_t(blockIdx.x) * 2 * work.c + i] = total;
    }
  }
}

// sums[i] = the sum of partial[block][i] over the blocks; a warp per element, lanes and then their sums in a fixed order.
__global__ void __launch_bounds__(256) add_blocks(float const* partial, int blocks, int elements, float* sums) {
  int const element = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
  wait_for_work_ahead();
  if (element >= elements) return;
  double sum = 0;
  for (int i = lane; i < blocks; i += 32) sum += partial[std::int64_t(i) * elements + element];
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  if (lane == 0) sums[element] = float(sum);
}

int squares_of(PoolProblem const& p) { return p.n * ((p.h - 1 + p.pad_top) / 2 + 1) * ((p.w - 1 + p.pad_left) / 2 + 1); }
int blocks_of(PoolProblem const& p) {
  int const lines = threads / (p.c / 8);
  return std::min(most_blocks, (squares_of(p) + lines - 1) / lines);
}

std::string reject(PoolProblem const& p, DeviceFacts const& facts) {
  if (facts.compute_capability < 80) return "bf16 needs compute capability 8.0";
  if (p.result == PoolResult::plain) return "only on its way through a batch norm";
  if (p.type != DType::bf16 || p.layout != Layout::nhwc || p.c % 8 || p.c > threads * 8 || threads % (p.c / 8)) return "bf16 and nhwc of 8 to 2048 channels, a power of two, only";
  if (p.r != 3 || p.s != 3 || p.stride_h != 2 || p.stride_w != 2) return "windows of 3x3 with stride 2 only";
  if (std::int64_t(p.n) * p.c * p.h * p.w >= std::int64_t(1) << 31) return "2^31 elements or more";
  return {};
}
std::size_t scratch(PoolProblem const& p, Config const&) { return p.result == PoolResult::sums ? sizeof(float) * std::size_t(blocks_of(p)) * 2 * std::size_t(p.c) : 0; }
double seconds(PoolProblem const& p, DeviceFacts const&) { return (p.result == PoolResult::sums ? 6e-6 : 3e-6) + bytes_of(p.operands()) / 3.5e12; }

void run(PoolProblem const& p, Config const&, PoolArgs const& args, View memory, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  bool const sums = p.result == PoolResult::sums;
  Work work{};
  work.dy = args.y.as<bf16>(), work.winner = args.winner.as<std::uint8_t>(), work.x = args.other.as<bf16>();
  if (sums) work.partial = memory.as<float>();
  else work.dx = args.x.as<bf16>(), work.vectors = args.vectors.as<float>(), work.step = args.step;
  work.n = p.n, work.c = p.c, work.h = p.h, work.w = p.w, work.p = p.p, work.q = p.q, work.pad_top = p.pad_top, work.pad_left = p.pad_left, work.squares = squares_of(p);
  work.by_vectors = FastDivide(p.c / 8), work.by_columns = FastDivide((p.w - 1 + p.pad_left) / 2 + 1), work.by_rows = FastDivide((p.h - 1 + p.pad_top) / 2 + 1);
  int const blocks = blocks_of(p);
  launch_ahead(sums ? pool_gradient<true> : pool_gradient<false>, dim3(unsigned(blocks)), dim3(threads), 0, 1, stream, work);
  if (sums)
    launch_ahead(add_blocks, dim3(unsigned((2 * p.c + 7) / 8)), dim3(256), 0, 1, stream, static_cast<float const*>(work.partial), blocks, 2 * p.c, args.sums.as<float>());
  check_launch("pool normalised_gradient", p, stream);
}

}  // namespace

Algorithm<PoolProblem> const pool_cuda_normalised_gradient{
    .name = "normalised_gradient", .target = DeviceKind::cuda, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run};

}  // namespace falconet
