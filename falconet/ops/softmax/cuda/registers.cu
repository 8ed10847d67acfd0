// Softmax, its logarithm and their gradients over channels that lie side by side: a row is read once, in vectors of 16 bytes, and stays in registers
// until it is written. 1 to 32 lanes of a warp share a short row (several rows a warp), a block of up to 512 threads a long one; each thread keeps
// up to 32 channels. Exponentials are taken once. Bytes: x read, y written; the gradient reads y and dy and writes dx.
// Limits: f32 and bf16; 16384 channels. Rows that are no whole vectors are read a channel at a time (4096 channels).
#include <algorithm>

#include "falconet/device/cuda/check.h"
#include "falconet/ops/softmax/cuda/algorithms.h"
#include "falconet/ops/softmax/cuda/rows.cuh"

namespace falconet {
namespace {

using namespace softmax_rows;

constexpr int threads = 256, most_threads = 512;
constexpr int most_vectors(int v) { return v == 8 ? 4 : 8; }

// lanes: of a warp that share a row; 0: the whole block does.
template <class E, int v, int vectors, bool gradient>
__global__ void __launch_bounds__(most_threads) softmax(std::int64_t rows, int row_vectors, int lanes, bool log_, E const* in, E const* dy, E* out) {
  __shared__ float memory[most_threads / 32];
  int const sharing = lanes ? lanes : int(blockDim.x), mine = threadIdx.x % sharing;
  std::int64_t const row = lanes ? blockIdx.x * std::int64_t(blockDim.x / lanes) + threadIdx.x / lanes : blockIdx.x;
  bool const exists = row < rows;
  auto const* const from = reinterpret_cast<Pack<E, v> const*>(in) + (exists ? row * row_vectors : 0);
  auto const combine = [&](float a, auto const& how) { return lanes ? over_lanes(a, lanes, how) : over_block(a, memory, how); };
  float x[vectors][v], d[gradient ? vectors : 1][v];
#pragma unroll
  for (int i = 0; i < vectors; ++i) {
    int const at = mine + i * sharing;
    Pack<E, v> a{}, b{};
    if (at < row_vectors && exists) {
      a = from[at];
      if constexpr (gradient) b = reinterpret_cast<Pack<E, v> const*>(dy)[row * row_vectors + at];
    }
#pragma unroll
    for (int e = 0; e < v; ++e) {
      x[i][e] = load(a.e[e]);
      if constexpr (gradient) d[i][e] = load(b.e[e]);
    }
  }
  if constexpr (!gradient) {
    float largest = -INFINITY;
#pragma unroll
    for (int i = 0; i < vectors; ++i)
#pragma unroll
      for (int e = 0; e < v; ++e)
        if (mine + i * sharing < row_vectors) largest = larger(largest, x[i][e]);
    largest = combine(largest, larger);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < vectors; ++i)
#pragma unroll
      for (int e = 0; e < v; ++e) {
        x[i][e] -= largest;
        if (mine + i * sharing >= row_vectors) continue;
        float const power = sizeof(E) == 2 ? fast_exp(x[i][e]) : expf(x[i][e]);
        sum += power;
        if (!log_) x[i][e] = power;
      }
    sum = combine(sum, add);
    float const shift = log_ ? logf(sum) : 0, scale = log_ ? 1 : 1 / sum;
#pragma unroll
    for (int i = 0; i < vectors; ++i)
#pragma unroll
      for (int e = 0; e < v; ++e) x[i][e] = log_ ? x[i][e] - shift : x[i][e] * scale;
  } else {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < vectors; ++i)
#pragma unroll
      for (int e = 0; e < v; ++e) sum += log_ ? d[i][e] : d[i][e] * x[i][e];
    sum = combine(sum, add);
#pragma unroll
    for (int i = 0; i < vectors; ++i)
#pragma unroll
      for (int e = 0; e < v; ++e) x[i][e] = log_ ? d[i][e] - expf(x[i][e]) * sum : x[i][e] * (d[i][e] - sum);
  }
#pragma unroll
  for (int i = 0; i < vectors; ++i) {
    int const at = mine + i * sharing;
    if (at >= row_vectors || !exists) continue;
    Pack<E, v> a;
#pragma unroll
    for (int e = 0; e < v; ++e) put(a.e[e], x[i][e]);
    reinterpret_cast<Pack<E, v>*>(out)[row * row_vectors + at] = a;
  }
}

std::string reject(SoftmaxProblem const& p, DeviceFacts const&) {
  if (p.x.dtype != DType::f32 && p.x.dtype != DType::bf16) return "f32 and bf16 only";
  if (p.stride() != 1) return "channels that lie side by side only";
  int const v = vector_of(p.channels(), p.x.dtype);
  if (p.channels() / v > most_vectors(v) * most_threads) return "a row that 512 threads cannot keep";
  return {};
}
double seconds(SoftmaxProblem const& p, DeviceFacts const&) {
  double const bytes = bytes_of(p.operands()), lines = vector_of(p.channels(), p.x.dtype) == 1 ? 1.6e12 : 3.3e12;
  return 2.5e-6 + bytes / lines;
}

template <class E, int v, int vectors>
void launch(SoftmaxProblem const& p, SoftmaxArgs const& a, int row_vectors, int lanes, int block, cudaStream_t stream) {
  std::int64_t const rows = p.n() * p.places(), each = lanes ? block / lanes : 1;
  auto const kernel = p.gradient ? softmax<E, v, vectors, true> : softmax<E, v, vectors, false>;
  kernel<<<unsigned((rows + each - 1) / each), block, 0, stream>>>(rows, row_vectors, lanes, p.log, (p.gradient ? a.y : a.x).as<E>(), a.dy.as<E>(),
                                                                   (p.gradient ? a.dx : a.y).as<E>());
}
template <class E, int v>
void run_with(SoftmaxProblem const& p, SoftmaxArgs const& a, cudaStream_t stream) {
  int const row_vectors = int(p.channels() / v);
  int lanes = 1;
  while (lanes < 32 && lanes < row_vectors) lanes *= 2;
  int block = threads;
  if (row_vectors > lanes * most_vectors(v)) {   // a block per row
    lanes = 0;
    block = std::min(most_threads, ((row_vectors + most_vectors(v) / 2 - 1) / (most_vectors(v) / 2) + 31) / 32 * 32);
  }
  int const sharing = lanes ? lanes : block, each = (row_vectors + sharing - 1) / sharing;
  if (each <= 1) launch<E, v, 1>(p, a, row_vectors, lanes, block, stream);
  else if (each <= 2) launch<E, v, 2>(p, a, row_vectors, lanes, block, stream);
  else if (each <= 4 || most_vectors(v) == 4) launch<E, v, 4>(p, a, row_vectors, lanes, block, stream);
  else if constexpr (most_vectors(v) == 8) launch<E, v, 8>(p, a, row_vectors, lanes, block, stream);
}

void run(SoftmaxProblem const& p, Config const&, SoftmaxArgs const& a, View, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  bool const whole = vector_of(p.channels(), p.x.dtype) > 1;
  if (p.x.dtype == DType::f32) whole ? run_with<float, 4>(p, a, stream) : run_with<float, 1>(p, a, stream);
  else whole ? run_with<bf16, 8>(p, a, stream) : run_with<bf16, 1>(p, a, stream);
  check_launch("softmax registers", p, stream);
}

}  // namespace

Algorithm<SoftmaxProblem> const softmax_cuda_registers{
    .name = "registers", .target = DeviceKind::cuda, .reject = reject, .seconds = seconds, .run = run};

}  // namespace falconet
