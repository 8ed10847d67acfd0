// Softmax, its logarithm and their gradients where the channels of a place lie a whole map apart (nchw images): neighbouring lanes take neighbouring
// places, so that every channel of 32 places is one line of memory; 8 warps share the channels. Up to 128 channels a thread keeps its 16 in registers, all
// under way at once. More: maximum and sum in one pass as in online.cu, a second pass writes. Bytes: x read (more channels: twice, the second time from the
// caches); y written.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "falconet/device/cuda/check.h"
#include "falconet/ops/softmax/cuda/algorithms.h"
#include "falconet/ops/softmax/cuda/rows.cuh"

namespace falconet {
namespace {

using namespace softmax_rows;

constexpr int lines = 8, most_kept = 16;   // of a block; channels of a thread

// each: channels of a thread, kept in registers; 0: any number, read twice.
template <class E, bool gradient, int each>
__global__ void __launch_bounds__(32 * lines)
    softmax(std::int64_t channels, std::int64_t places, std::int64_t blocks, bool log_, E const* in, E const* dy, E* out) {
  __shared__ float largests[lines][32], sums[lines][32];
  std::int64_t const n = blockIdx.x / blocks, place = (blockIdx.x - n * blocks) * 32 + threadIdx.x, first = n * channels * places + place;
  bool const exists = place < places;
  float sum = 0, largest = -INFINITY;
  float x[each > 0 ? each : 1], d[each > 0 && gradient ? each : 1];
  if constexpr (each > 0) {
#pragma unroll
    for (int i = 0; i < each; ++i) {
      std::int64_t const c = threadIdx.y + i * lines;
      bool const in_row = exists && c < channels;
      x[i] = in_row ? load(in[first + c * places]) : gradient ? 0.0f : -INFINITY;
      if constexpr (gradient) d[i] = in_row ? load(dy[first + c * places]) : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < each; ++i)
      if constexpr (gradient) sum += log_ ? d[i] : d[i] * x[i];
      else largest = larger(largest, x[i]);
    if constexpr (!gradient) {
#pragma unroll
      for (int i = 0; i < each; ++i)
        if (threadIdx.y + i * lines < channels) sum += largest == -INFINITY ? 0 : expf(x[i] - largest);
    }
  } else if (exists) {
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
  if constexpr (each > 0) {
#pragma unroll
    for (int i = 0; i < each; ++i) {
      std::int64_t const c = threadIdx.y + i * lines;
      if (c >= channels) continue;
      if constexpr (gradient) put(out[first + c * places], log_ ? d[i] - expf(x[i]) * total : x[i] * (d[i] - total));
      else put(out[first + c * places], log_ ? (x[i] - all) - shift : expf(x[i] - all) * scale);
    }
  } else {
#pragma unroll 4
    for (std::int64_t c = threadIdx.y; c < channels; c += lines) {
      float const v = load(in[first + c * places]);
      if constexpr (!gradient) {
        put(out[first + c * places], log_ ? (v - all) - shift : expf(v - all) * scale);
      } else {
        float const d_ = load(dy[first + c * places]);
        put(out[first + c * places], log_ ? d_ - expf(v) * total : v * (d_ - total));
      }
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
  auto const with = [&](auto each) { return p.gradient ? softmax<E, true, decltype(each)::value> : softmax<E, false, decltype(each)::value>; };
  std::int64_t const of_thread = (p.channels() + lines - 1) / lines;
  auto const kernel = of_thread <= 4           ? with(std::integral_constant<int, 4>{})
                      : of_thread <= 8         ? with(std::integral_constant<int, 8>{})
                      : of_thread <= most_kept ? with(std::integral_constant<int, most_kept>{})
                                               : with(std::integral_constant<int, 0>{});
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
