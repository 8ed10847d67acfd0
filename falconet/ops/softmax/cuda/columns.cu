// Softmax, its logarithm and their gradients where the channels of a place lie a whole map apart (nchw images): neighbouring lanes take neighbouring
// places, so that every channel of 32 places is one line of memory; 8 warps share the channels. Maximum and sum in one pass as in online.cu, a second
// pass writes. Bytes: x read twice, the second time from the caches; y written.
#include <algorithm>
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/ops/softmax/cuda/algorithms.h"
#include "falconet/ops/softmax/cuda/rows.cuh"

namespace falconet {
namespace {

using namespace softmax_rows;

constexpr int lines = 8;

template <class E, bool gradient>
__global__ void __launch_bounds__(32 * lines)
    softmax(std::int64_t channels, std::int64_t places, std::int64_t blocks, bool log_, E const* in, E const* dy, E* out) {
  __shared__ float largests[lines][32], sums[lines][32];
  std::int64_t const n = blockIdx.x / blocks, place = (blockIdx.x - n * blocks) * 32 + threadIdx.x, first = n * channels * places + place;
  bool const exists = place < places;
  float sum = 0, largest = -INFINITY;
  if (exists) {
#pragma unroll 4
    for (std::int64_t c = threadIdx.y; c < channels; c += lines) {
      float const v = load(in[first + c * places]);
      if constexpr (!gradient) {
        float const most = larger(largest, v);
        if (most != largest) sum = largest == -INFINITY ? 0 : sum * expf(largest - most), largest = most;
        if (largest != -INFINITY) sum += expf(v - largest);
      } else {
        float const d = load(dy[first + c * places]);
        sum += log_ ? d : d * v;
      }
    }
  }
  largests[threadIdx.y][threadIdx.x] = largest, sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  float all = largests[0][threadIdx.x], total = 0;
  for (int l = 1; l < lines; ++l) all = larger(all, largests[l][threadIdx.x]);
  for (int l = 0; l < lines; ++l) {
    float const here = largests[l][threadIdx.x];
    total += gradient ? sums[l][threadIdx.x] : here == -INFINITY ? 0 : sums[l][threadIdx.x] * expf(here - all);
  }
  if (!exists) return;
  float const shift = log_ ? logf(total) : 0, scale = 1 / total;
#pragma unroll 4
  for (std::int64_t c = threadIdx.y; c < channels; c += lines) {
    float const v = load(in[first + c * places]);
    if constexpr (!gradient) {
      put(out[first + c * places], log_ ? (v - all) - shift : expf(v - all) * scale);
    } else {
      float const d = load(dy[first + c * places]);
      put(out[first + c * places], log_ ? d - expf(v) * total : v * (d - total));
    }
  }
}

std::string reject(SoftmaxProblem const& p, DeviceFacts const&) {
  if (p.x.dtype != DType::f32 && p.x.dtype != DType::bf16) return "f32 and bf16 only";
  if (p.stride() == 1) return "channels that lie apart only (nchw images)";
  return {};
}
double seconds(SoftmaxProblem const& p, DeviceFacts const&) { return 2.5e-6 + bytes_of(p.operands()) / 2.2e12; }

template <class E>
void launch(SoftmaxProblem const& p, SoftmaxArgs const& a, cudaStream_t stream) {
  auto const kernel = p.gradient ? softmax<E, true> : softmax<E, false>;
  std::int64_t const blocks = (p.places() + 31) / 32;
  kernel<<<unsigned(p.n() * blocks), dim3(32, lines), 0, stream>>>(p.channels(), p.places(), blocks, p.log, (p.gradient ? a.y : a.x).as<E>(),
                                                                   a.dy.as<E>(), (p.gradient ? a.dx : a.y).as<E>());
  check_launch("softmax columns", p, stream);
}
void run(SoftmaxProblem const& p, Config const&, SoftmaxArgs const& a, View, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  if (p.x.dtype == DType::f32) launch<float>(p, a, stream);
  else launch<bf16>(p, a, stream);
}

}  // namespace

Algorithm<SoftmaxProblem> const softmax_cuda_columns{.name = "columns", .target = DeviceKind::cuda, .reject = reject, .seconds = seconds, .run = run};

}  // namespace falconet
