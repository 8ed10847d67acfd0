#include "falconet/device/cuda/limits.h"

#include <algorithm>
#include <cstdint>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/handles.h"
#include "falconet/device/cuda/wgmma.cuh"

namespace falconet {
namespace {

constexpr int threads = 256, chains = 16;      // independent sums of a thread: more than the latency of a multiply-add takes

template <class T>
__global__ void __launch_bounds__(threads) multiply_adds(T* out, int turns) {
  T sum[chains], x = T(threadIdx.x) * T(1e-3), y = T(0.999);
#pragma unroll
  for (int c = 0; c < chains; ++c) sum[c] = T(c) * x;
  for (int i = 0; i < turns; ++i)
#pragma unroll
    for (int c = 0; c < chains; ++c) sum[c] = sum[c] * y + x;
  T all = 0;
#pragma unroll
  for (int c = 0; c < chains; ++c) all += sum[c];
  if (all == T(-1)) *out = all;                // never, but the compiler does not know
}

constexpr int products = 16;                   // of a turn

// Two warpgroups multiply 64 x 16 by 16 x 256 tiles in shared memory, again and again.
__global__ void __launch_bounds__(threads) tensor_products(float* out, int turns) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ std::uint8_t memory[];
  std::uint32_t const base = (std::uint32_t(__cvta_generic_to_shared(memory)) + 1023) / 1024 * 1024;
  std::uint8_t* const aligned = memory + (base - std::uint32_t(__cvta_generic_to_shared(memory)));
  for (int i = threadIdx.x; i < (2 * 64 + 256) * 64; i += threads) {     // numbers of about one: zeros would draw less power
    std::uint32_t const bits = (std::uint32_t(i) * 2654435761u) >> 16;
    reinterpret_cast<std::uint16_t*>(aligned)[i] = std::uint16_t(0x3f00 | (bits & 0x80ff));
  }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  float d[128];
#pragma unroll
  for (int i = 0; i < 128; ++i) d[i] = 0;
  auto const a = ptx::k_major_operand(base + threadIdx.x / 128 * 8192), b = ptx::k_major_operand(base + 16384);
  for (int i = 0; i < turns; ++i) {
    ptx::hold(d);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < products; ++k) ptx::wgmma<0, 0>(d, a + k % 4 * ptx::k_major_step, b + k % 4 * ptx::k_major_step, 1);
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
  }
  ptx::hold(d);
  float all = 0;
#pragma unroll
  for (int i = 0; i < 128; ++i) all += d[i];
  if (all == -1.f) *out = all;
#else
  (void)out, (void)turns;
#endif
}
constexpr int tensor_bytes = (2 * 64 + 256) * 64 * 2 + 1024;

// The same for other GPUs than Hopper: warps multiply 16 x 16 by 16 x 8 fragments in registers, `chains` sums at a time.
__global__ void __launch_bounds__(threads) tensor_products_of_warps(float* out, int turns) {
  std::uint32_t a[4], b[2];
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = 0x3f003f00u | (threadIdx.x * 2654435761u + std::uint32_t(i)) >> 9 & 0x007f007fu;
#pragma unroll
  for (int i = 0; i < 2; ++i) b[i] = a[i] ^ 0x00150015u;
  float d[chains][4] = {};
  for (int i = 0; i < turns; ++i)
#pragma unroll
    for (int c = 0; c < chains; ++c) ptx::mma_bf16(d[c], a, b[0], b[1]);
  float all = 0;
#pragma unroll
  for (int c = 0; c < chains; ++c) all += d[c][0] + d[c][1] + d[c][2] + d[c][3];
  if (all == -1.f) *out = all;
}

// The best of five runs, after one that finds out how many turns take a millisecond.
template <class Launch>
double best_rate(Device device, double operations_of_a_turn, Launch&& launch) {
  CudaStream const stream(device.index);
  CudaEvent begin(device.index), end(device.index);
  double rate = 0;
  int turns = 64;
  for (int i = 0; i < 7; ++i) {
    begin.record(stream);
    auto const s = static_cast<cudaStream_t>(stream.stream().cuda());
    launch(s, turns);
    check_cuda(launch_result(s), "measuring multiply-adds");
    end.record(stream);
    end.synchronize();
    double const seconds = end.milliseconds_since(begin) * 1e-3;
    if (i > 1) rate = std::max(rate, operations_of_a_turn * turns / seconds);
    else turns = std::clamp(int(turns * 1e-3 / std::max(seconds, 1e-6)), 64, 1 << 20);
  }
  return rate;
}

}  // namespace

double multiply_adds_per_second(Device device, Arithmetic arithmetic) {
  DeviceFacts const facts = facts_of(device);
  CudaMemory const out(device.index, 64);
  int const sms = facts.multiprocessors;
  if (arithmetic == Arithmetic::f32 || arithmetic == Arithmetic::f64) {
    int const blocks = sms * 8;
    double const operations = 2.0 * blocks * threads * chains;
    if (arithmetic == Arithmetic::f64) return best_rate(device, operations, [&](cudaStream_t s, int turns) { multiply_adds<double><<<blocks, threads, 0, s>>>(static_cast<double*>(out.data()), turns); });
    return best_rate(device, operations, [&](cudaStream_t s, int turns) { multiply_adds<float><<<blocks, threads, 0, s>>>(static_cast<float*>(out.data()), turns); });
  }
  if (facts.compute_capability != 90) {
    int const blocks = sms * 8;
    double const rate = best_rate(device, 2.0 * blocks * (threads / 32) * chains * 16 * 8 * 16,
                                  [&](cudaStream_t s, int turns) { tensor_products_of_warps<<<blocks, threads, 0, s>>>(static_cast<float*>(out.data()), turns); });
    return arithmetic == Arithmetic::tf32 ? rate / 2 : rate;
  }
  allow_shared_memory(tensor_products, tensor_bytes);
  double const rate =
      best_rate(device, 2.0 * sms * 2 * products * 64 * 256 * 16, [&](cudaStream_t s, int turns) { tensor_products<<<sms, threads, tensor_bytes, s>>>(static_cast<float*>(out.data()), turns); });
  return arithmetic == Arithmetic::tf32 ? rate / 2 : rate;
}

double copy_bytes_per_second(Device device) {
  constexpr std::size_t bytes = std::size_t(256) << 20;
  CudaMemory const from(device.index, bytes), to(device.index, bytes);
  CudaStream const stream(device.index);
  CudaEvent begin(device.index), end(device.index);
  fill_bytes(from.data(), 1, bytes, stream);
  double rate = 0;
  for (int i = 0; i < 6; ++i) {
    begin.record(stream);
    copy_on_device(to.data(), from.data(), bytes, stream);
    end.record(stream);
    end.synchronize();
    if (i > 0) rate = std::max(rate, 2.0 * double(bytes) / (end.milliseconds_since(begin) * 1e-3));
  }
  return rate;
}

}  // namespace falconet
