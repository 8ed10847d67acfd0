// A classifier's last linear layer, cross-entropy and the gradients of both in one launch, for the few samples and classes of small networks:
//   x = features * weight^T + bias,   dx = (softmax(x) - target) / N,   dfeatures = dx * weight, kept where features are positive if asked for
// A warp takes a sample: its features lie in registers, the weight in shared memory; a lane then holds one class. A cluster of 8 blocks covers the
// batch; the samples' shares of the loss are added, in order and in f64, by its first block through the others' shared memory.
// Limits: f32, at most 32 classes, inputs a multiple of 4 up to 512, 32 KiB of weight, 512 samples. Cost: 4 N C inputs operations; its latency is its time.
#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/cluster.cuh"
#include "falconet/device/cuda/copy_async.cuh"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/ops/loss/cuda/linear_rows.h"

namespace falconet {
namespace {

constexpr int threads = 256, warps = threads / 32, together = 8, most_weight = 8192, most_samples = 512, most_inputs = 512;

struct Work {
  int n, classes, inputs;
  double smoothing, dloss;
  bool mask;
  StepState const* step;
  float const *features, *weight, *bias;
  std::int32_t const* labels;
  float *loss, *correct, *dx, *dfeatures;
};

// each: of a sample's features, per lane.
template <int each>
__global__ void __launch_bounds__(threads) linear_rows(Work const w) {
  __shared__ __align__(16) float weight[most_weight];
  __shared__ double shares[2][warps];
  auto const cluster = this_cluster();
  int const t = threadIdx.x, lane = t % 32, warp = t / 32, rank = int(cluster.block_rank());
  wait_for_work_ahead();
  let_next_begin();
  for (int i = t * 4; i < w.classes * w.inputs; i += threads * 4) copy_async<16>(weight + i, w.weight + i, true);
  float const bias = w.bias && lane < w.classes ? w.bias[lane] : 0;
  int const valid = max(0, min(int(w.step->valid_count), w.n));
  float const factor = valid ? float(w.dloss / double(valid)) : 0, nan = __int_as_float(0x7fc00000), smoothing = float(w.smoothing);
  double share = 0, right = 0;
  for (int n = rank * warps + warp, turn = 0; turn * together * warps < w.n; n += together * warps, ++turn) {
    bool const in = n < w.n, counts = n < valid;
    float h[each];
#pragma unroll
    for (int j = 0; j < each; ++j) h[j] = in && lane + 32 * j < w.inputs ? w.features[n * w.inputs + lane + 32 * j] : 0;
    int const label = in ? w.labels[n] : 0;
    if (turn == 0) {
      copy_async_wait();
      __syncthreads();
    }
    float v = 0;
#pragma unroll 4
    for (int c = 0; c < w.classes; ++c) {
      float sum = 0;
#pragma unroll
      for (int j = 0; j < each; ++j)
        if (lane + 32 * j < w.inputs) sum = fmaf(h[j], weight[c * w.inputs + lane + 32 * j], sum);
#pragma unroll
      for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
      if (lane == c) v = sum + bias;
    }
    bool const has = lane < w.classes, known = label >= 0 && label < w.classes;
    float const first = __shfl_sync(~0u, v, 0);
    float best = has && v > first ? v : first;
    int where = has && v > first ? lane : 0;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {   // the first of equal maxima
      float const other = __shfl_xor_sync(~0u, best, step);
      int const other_where = __shfl_xor_sync(~0u, where, step);
      if (other > best || (other == best && other_where < where)) best = other, where = other_where;
    }
    float const exponential = has ? expf(v - best) : 0;
    float all = exponential, logits = has ? v : 0;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) all += __shfl_xor_sync(~0u, all, step), logits += __shfl_xor_sync(~0u, logits, step);
    float const log_sum = logf(all) + best, at_label = __shfl_sync(~0u, v, known ? label : 0);
    if (counts) {
      share += known ? (1 - w.smoothing) * double(log_sum - at_label) + w.smoothing * (double(log_sum) - double(logits) / w.classes) : double(nan);
      right += where == label;
    }
    float const target = (lane == label ? 1 - smoothing : 0) + smoothing / float(w.classes);
    float const dx = !counts || !has ? 0 : known ? (exponential / all - target) * factor : nan;
    if (in && has) w.dx[n * w.classes + lane] = dx;
    float d[each] = {};
#pragma unroll 4
    for (int c = 0; c < w.classes; ++c) {
      float const of_class = __shfl_sync(~0u, dx, c);
#pragma unroll
      for (int j = 0; j < each; ++j)
        if (lane + 32 * j < w.inputs) d[j] = fmaf(of_class, weight[c * w.inputs + lane + 32 * j], d[j]);
    }
#pragma unroll
    for (int j = 0; j < each; ++j)
      if (in && lane + 32 * j < w.inputs) w.dfeatures[n * w.inputs + lane + 32 * j] = w.mask && !(h[j] > 0) ? 0 : counts ? d[j] : 0;
  }
  if (lane == 0) shares[0][warp] = share, shares[1][warp] = right;
  cluster.sync();
  if (rank == 0 && warp == 0) {
    // Lane l takes block l / 4 and two of its warps; then the lanes in a fixed tree.
    double sums[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      double const* const from = cluster.map_shared_rank(&shares[i][0], lane / 4) + lane % 4 * 2;
      sums[i] = from[0] + from[1];
#pragma unroll
      for (int step = 16; step > 0; step /= 2) sums[i] += __shfl_xor_sync(~0u, sums[i], step);
    }
    if (lane == 0) *w.loss = float(valid ? sums[0] / double(valid) : 0), *w.correct = float(sums[1]);
  }
  cluster.sync();   // nobody leaves while its shares are read
}

std::string reject(LossProblem const& p, DeviceFacts const& facts) {
  if (!p.product.inputs) return "logits without their product";
  if (p.x.dtype != DType::f32) return "f32 only";
  if (facts.compute_capability < 90) return "clusters of blocks need compute capability 9.0";
  if (p.row() > 32) return "more than 32 classes";
  if (p.product.inputs % 4 || p.product.inputs > most_inputs) return "inputs that are no multiple of 4 up to 512";
  if (p.product.inputs * p.row() > most_weight) return "more than 32 KiB of weight";
  if (p.n() > most_samples) return "more than 512 samples";
  return {};
}
double seconds(LossProblem const& p, DeviceFacts const&) {
  return 4e-6 + double((p.n() + 63) / 64) * double(p.row()) * (double(p.product.inputs) / 32 + 5) * 10e-9;
}

void run(LossProblem const& p, Config const&, LossArgs const& a, View, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  Work const w{int(p.n()), int(p.row()), int(p.product.inputs), p.label_smoothing, p.dloss, p.product.mask, a.step, a.features.as<float>(), a.weight.as<float>(),
               a.bias.as<float>(), a.target.as<std::int32_t>(), a.loss.as<float>(), a.correct.as<float>(), a.dx.as<float>(), a.dfeatures.as<float>()};
  auto const launch = [&](auto kernel) { launch_ahead(kernel, dim3(together), dim3(threads), 0, together, stream, w); };
  if (p.product.inputs <= 64) launch(linear_rows<2>);
  else if (p.product.inputs <= 128) launch(linear_rows<4>);
  else launch(linear_rows<16>);
  check_launch("loss linear_rows", p, stream);
}

}  // namespace

Algorithm<LossProblem> loss_cuda_linear_rows() { return {.name = "linear_rows", .target = DeviceKind::cuda, .reject = reject, .seconds = seconds, .run = run}; }

}  // namespace falconet
