// Losses and their gradients on an NVIDIA GPU: a warp per sample makes its share of the loss and its row of the gradient, then one block adds
// the shares in a fixed order: a second launch, or the same one where the samples are few enough for one block. Arithmetic in f64: the data are
// small.
#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/element.cuh"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/ops/loss/algorithms.h"
#include "falconet/ops/loss/cuda/linear_rows.h"

namespace falconet {
namespace {

constexpr int threads = 256, threads_alone = 1024;   // alone: one block makes it all

struct Work {
  std::int64_t n, row;
  double smoothing, dloss;
  StepState const* step;
  double* partial;      // [2][n]: loss and correct of each sample
};

__device__ double warp_sum(double v) {
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
  return v;
}
__device__ std::int64_t valid_rows(Work const& w) { return max(std::int64_t(0), min(std::int64_t(w.step->valid_count), w.n)); }
template <class L>
__device__ double factor_of(Work const& w, L const* dloss) {
  std::int64_t const valid = valid_rows(w);
  return valid ? (dloss ? double(*dloss) : w.dloss) / double(valid) : 0;
}

// The mean of the samples' shares, by one block.
template <class L>
__device__ void add_samples(Work const& w, L* loss, L* correct) {
  __shared__ double sums[2][threads];
  int const block = blockDim.x;
  double a = 0, b = 0;
  for (std::int64_t n = threadIdx.x; n < w.n; n += block) a += w.partial[n], b += w.partial[w.n + n];
  sums[0][threadIdx.x] = a, sums[1][threadIdx.x] = b;
  for (int half = block / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half)
      for (int i = 0; i < 2; ++i) sums[i][threadIdx.x] += sums[i][threadIdx.x + half];
  }
  if (threadIdx.x > 0) return;
  std::int64_t const valid = valid_rows(w);
  if (loss) *loss = L(valid ? sums[0][0] / double(valid) : 0);
  if (correct) *correct = L(sums[1][0]);
}

// One warp, one sample.
template <class E, class L>
__device__ void cross_entropy_of(Work const& w, std::int64_t n, E const* x, std::int32_t const* labels, L const* dloss, E* dx) {
  int const lane = threadIdx.x % 32;
  E const* const in = x + n * w.row;
  if (n >= valid_rows(w)) {
    if (dx)
      for (std::int64_t c = lane; c < w.row; c += 32) put(dx[n * w.row + c], 0.0);
    if (lane == 0) w.partial[n] = w.partial[w.n + n] = 0;
    return;
  }
  double best = load(in[0]);
  std::int64_t where = 0;
  for (std::int64_t c = lane; c < w.row; c += 32) {
    double const v = load(in[c]);
    if (v > best) best = v, where = c;
  }
  for (int step = 16; step > 0; step /= 2) {   // the first of equal maxima
    double const other = __shfl_xor_sync(~0u, best, step);
    std::int64_t const other_where = __shfl_xor_sync(~0u, where, step);
    if (other > best || (other == best && other_where < where)) best = other, where = other_where;
  }
  double exponentials = 0, all = 0;
  for (std::int64_t c = lane; c < w.row; c += 32) {
    double const v = load(in[c]);
    exponentials += exp(v - best), all += v;
  }
  exponentials = warp_sum(exponentials);
  all = warp_sum(all);
  std::int64_t const label = labels[n];
  bool const known = label >= 0 && label < w.row;
  double const log_sum = log(exponentials) + best, nan = __longlong_as_double(0x7ff8000000000000ll), factor = factor_of(w, dloss);
  if (lane == 0) {
    w.partial[n] = known ? (1 - w.smoothing) * (log_sum - double(load(in[label]))) + w.smoothing * (log_sum - all / double(w.row)) : nan;
    w.partial[w.n + n] = where == label;
  }
  if (!dx) return;
  for (std::int64_t c = lane; c < w.row; c += 32) {
    double const target = (c == label ? 1 - w.smoothing : 0) + w.smoothing / double(w.row);
    put(dx[n * w.row + c], known ? (exp(double(load(in[c])) - log_sum) - target) * factor : nan);
  }
}

template <class E, class L>
__global__ void __launch_bounds__(threads) cross_entropy(Work const w, E const* x, std::int32_t const* labels, L const* dloss, E* dx, L* loss, L* correct) {
  wait_for_work_ahead();
  int const warps = blockDim.x / 32;
  for (std::int64_t n = blockIdx.x * std::int64_t(warps) + threadIdx.x / 32; n < w.n; n += std::int64_t(gridDim.x) * warps) cross_entropy_of(w, n, x, labels, dloss, dx);
  if (gridDim.x > 1 || !(loss || correct)) return;
  __syncthreads();
  add_samples(w, loss, correct);
}

// Few samples of few classes, by one block: `lanes` threads hold a sample's logits, everything is read once and at once, shares stay in the block.
template <class E, class L, int lanes>
__global__ void __launch_bounds__(threads_alone) cross_entropy_alone(Work const w, E const* x, std::int32_t const* labels, L const* dloss, E* dx, L* loss, L* correct) {
  constexpr int groups = threads_alone / lanes;
  __shared__ double sums[2][groups];
  int const t = threadIdx.x, group = t / lanes, lane = t % lanes, row = int(w.row);
  wait_for_work_ahead();
  std::int64_t const valid = valid_rows(w);
  double const factor = factor_of(w, dloss), nan = __longlong_as_double(0x7ff8000000000000ll);
  auto const sum = [](double v) {
    for (int step = lanes / 2; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step, lanes);
    return v;
  };
  double shares = 0, right = 0;
  for (int first = 0; first < w.n; first += groups) {   // a warp stays together
    int const n = first + group;
    bool const in = n < w.n, has = in && lane < row, counts = n < valid;
    double const v = has ? double(load(x[std::int64_t(n) * row + lane])) : 0;
    int const label = in ? labels[n] : 0;
    double const start = __shfl_sync(~0u, v, 0, lanes);
    double best = has && v > start ? v : start;
    int where = has && v > start ? lane : 0;
    for (int step = lanes / 2; step > 0; step /= 2) {   // the first of equal maxima
      double const other = __shfl_xor_sync(~0u, best, step, lanes);
      int const other_where = __shfl_xor_sync(~0u, where, step, lanes);
      if (other > best || (other == best && other_where < where)) best = other, where = other_where;
    }
    double const log_sum = log(sum(has ? exp(v - best) : 0)) + best, all = sum(v);
    bool const known = label >= 0 && label < row;
    double const at_label = __shfl_sync(~0u, v, known ? label : 0, lanes);
    if (counts) {
      shares += known ? (1 - w.smoothing) * (log_sum - at_label) + w.smoothing * (log_sum - all / double(row)) : nan;
      right += where == label;
    }
    if (!dx || !has) continue;
    double const target = (lane == label ? 1 - w.smoothing : 0) + w.smoothing / double(row);
    put(dx[std::int64_t(n) * row + lane], !counts ? 0.0 : known ? (exp(v - log_sum) - target) * factor : nan);
  }
  if (lane == 0) sums[0][group] = shares, sums[1][group] = right;
  __syncthreads();
  if (t >= 32 || !(loss || correct)) return;
  double a = 0, b = 0;
  for (int i = t; i < groups; i += 32) a += sums[0][i], b += sums[1][i];
  a = warp_sum(a), b = warp_sum(b);
  if (t > 0) return;
  if (loss) *loss = L(valid ? a / double(valid) : 0);
  if (correct) *correct = L(b);
}

template <class E, class T, class L>
__global__ void __launch_bounds__(threads) by_elements(Work const w, bool squared, E const* x, T const* target, L const* dloss, E* dx) {
  std::int64_t const n = blockIdx.x * std::int64_t(threads / 32) + threadIdx.x / 32;
  if (n >= w.n) return;
  int const lane = threadIdx.x % 32;
  bool const counts = n < valid_rows(w);
  double const factor = factor_of(w, dloss);
  double sum = 0;
  for (std::int64_t i = n * w.row + lane; i < (n + 1) * w.row; i += 32) {
    double const v = load(x[i]), t = load(target[i]);
    double loss, gradient;
    if (squared) {
      loss = (v - t) * (v - t);
      gradient = 2 * (v - t);
    } else {
      loss = fmax(v, 0.0) - v * t + log1p(exp(-fabs(v)));
      gradient = (v >= 0 ? 1 / (1 + exp(-v)) : exp(v) / (1 + exp(v))) - t;
    }
    sum += loss / double(w.row);
    if (dx) put(dx[i], counts ? gradient / double(w.row) * factor : 0.0);
  }
  sum = warp_sum(sum);
  if (lane == 0) w.partial[n] = counts ? sum : 0, w.partial[w.n + n] = 0;
}

template <class L>
__global__ void __launch_bounds__(threads) finish(Work const w, L* loss, L* correct) { add_samples(w, loss, correct); }

std::string reject(LossProblem const& p, DeviceFacts const&) {
  if (p.product.inputs) return "a product";
  if (p.x.dtype == DType::u8 || p.x.dtype == DType::i32) return "f64, f32 and bf16 only";
  if (p.kind != LossKind::cross_entropy && p.target != p.x.dtype && p.target != DType::f32) return "a target in f32 or in the type of x only";
  return {};
}
std::size_t scratch(LossProblem const& p, Config const&) { return std::size_t(p.n()) * 2 * sizeof(double); }
double seconds(LossProblem const& p, DeviceFacts const&) { return (p.n() <= 128 && p.row() <= 32 ? 3e-6 : 5e-6) + bytes_of(p.operands()) / 1e12; }

template <class E, class L>
void launch(LossProblem const& p, LossArgs const& a, View memory, cudaStream_t stream) {
  Work const w{p.n(), p.row(), p.label_smoothing, p.dloss, a.step, memory.as<double>()};
  bool const alone = p.kind == LossKind::cross_entropy && w.n <= 128 && w.row <= 32;
  unsigned const blocks = alone ? 1 : unsigned((w.n + threads / 32 - 1) / (threads / 32));
  E *const x = a.x.as<E>(), *const dx = a.dx.as<E>();
  L* const dloss = a.dloss.as<L>();
  bool const whole = p.kind == LossKind::cross_entropy && blocks == 1;   // the block adds the samples itself
  auto const rows = [&](auto kernel, int block) {
    launch_ahead(kernel, dim3(blocks), dim3(unsigned(block)), 0, 1, stream, w, static_cast<E const*>(x), static_cast<std::int32_t const*>(a.target.as<std::int32_t>()),
                 static_cast<L const*>(dloss), dx, a.loss.as<L>(), a.correct.as<L>());
  };
  if (alone) w.row <= 16 ? rows(cross_entropy_alone<E, L, 16>, threads_alone) : rows(cross_entropy_alone<E, L, 32>, threads_alone);
  else if (p.kind == LossKind::cross_entropy) rows(cross_entropy<E, L>, threads);
  else if (p.target == p.x.dtype) by_elements<E, E, L><<<blocks, threads, 0, stream>>>(w, p.kind == LossKind::mse, x, a.target.as<E>(), dloss, dx);
  else by_elements<E, float, L><<<blocks, threads, 0, stream>>>(w, p.kind == LossKind::mse, x, a.target.as<float>(), dloss, dx);
  if ((a.loss || a.correct) && !whole) finish<L><<<1, threads, 0, stream>>>(w, a.loss.as<L>(), a.correct.as<L>());
  check_launch("loss rows", p, stream);
}

void run(LossProblem const& p, Config const&, LossArgs const& a, View memory, Stream& stream) {
  auto const s = static_cast<cudaStream_t>(stream.cuda());
  if (p.x.dtype == DType::f64) launch<double, double>(p, a, memory, s);
  else if (p.x.dtype == DType::f32) launch<float, float>(p, a, memory, s);
  else launch<bf16, float>(p, a, memory, s);
}

}  // namespace

std::vector<Algorithm<LossProblem>> loss_cuda_algorithms() {
  return {loss_cuda_linear_rows(), {.name = "rows", .target = DeviceKind::cuda, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run}};
}

}  // namespace falconet
