// One update of many parameters in one launch on an NVIDIA GPU (64 parameters a launch): a block takes 1024 elements of one parameter. The
// formulas are PyTorch's, in f32 for f32 (f64 for f64); powers of beta in f64. Bound by memory.
#include <algorithm>
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/ops/optimizer/algorithms.h"

namespace falconet {
namespace {

constexpr int threads = 256, per_thread = 4, chunk = threads * per_thread, most = 64;

template <class T>
struct Work {
  struct Parameter {
    T* value;
    T const* gradient;
    T *first, *second;
    std::int64_t size;
    int first_block;
  } parameter[most];
  int count;
  OptimizerOptions options;
  StepState const* step;
  T const* guard;       // where given: nothing happens unless it is finite
};

template <class T>
__global__ void __launch_bounds__(threads) multi_tensor(const __grid_constant__ Work<T> w) {
  wait_for_work_ahead();
  int low = 0, high = w.count - 1;   // the parameter of this block
  while (low < high) {
    int const middle = (low + high + 1) / 2;
    if (int(blockIdx.x) >= w.parameter[middle].first_block) low = middle;
    else high = middle - 1;
  }
  auto const& p = w.parameter[low];
  auto const& o = w.options;
  StepState const s = *w.step;
  T const lr = T(s.learning_rate), decay = T(o.weight_decay), momentum = T(o.momentum);
  T rate = 0, root = 0;
  if (o.kind != OptimizerOptions::sgd) {
    double const t = double(s.step + 1);
    rate = T(double(s.learning_rate) / (1 - pow(o.beta1, t)));
    root = T(sqrt(1 - pow(o.beta2, t)));
  }
  std::int64_t const begin = std::int64_t(blockIdx.x - p.first_block) * chunk + threadIdx.x;
  T values[per_thread], gradients[per_thread], firsts[per_thread], seconds[per_thread];   // all loads under way together
  bool const one = o.kind != OptimizerOptions::sgd || o.momentum != 0, two = o.kind != OptimizerOptions::sgd;
#pragma unroll
  for (int k = 0; k < per_thread; ++k) {
    std::int64_t const i = begin + k * threads;
    bool const in = i < p.size;
    values[k] = in ? p.value[i] : T(0), gradients[k] = in ? p.gradient[i] : T(0);
    firsts[k] = in && one ? p.first[i] : T(0), seconds[k] = in && two ? p.second[i] : T(0);
  }
  if (w.guard && !isfinite(*w.guard)) return;
#pragma unroll
  for (int k = 0; k < per_thread; ++k) {
    std::int64_t const i = begin + k * threads;
    if (i >= p.size) break;
    T value = values[k], g = gradients[k];
    if (o.kind == OptimizerOptions::adamw) value *= T(1) - lr * decay;
    else g += decay * value;
    if (o.kind == OptimizerOptions::sgd) {
      if (o.momentum != 0) {
        T const m = momentum * firsts[k] + g;
        p.first[i] = m;
        g = o.nesterov ? g + momentum * m : m;
      }
      p.value[i] = value - lr * g;
    } else {
      T const m = firsts[k] + T(1 - o.beta1) * (g - firsts[k]), v = T(o.beta2) * seconds[k] + T(1 - o.beta2) * g * g;
      p.first[i] = m;
      p.second[i] = v;
      p.value[i] = value - rate * m / (sqrt(v) / root + T(o.eps));
    }
  }
}

std::string reject(OptimizerProblem const& p, DeviceFacts const&) { return p.type == DType::f32 || p.type == DType::f64 ? "" : "f32 and f64 only"; }
double seconds(OptimizerProblem const& p, DeviceFacts const&) { return 3e-6 * std::ceil(double(p.sizes.size()) / most) + bytes_of(p.operands()) / 3.8e12; }

template <class T>
void launch(OptimizerProblem const& p, OptimizerArgs const& a, Stream const& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  for (std::size_t from = 0; from < a.parameters.size(); from += most) {
    Work<T> w;
    w.count = int(std::min<std::size_t>(most, a.parameters.size() - from));
    w.options = p.options;
    w.step = a.step;
    w.guard = static_cast<T const*>(on.guard());
    std::int64_t blocks = 0;
    for (int i = 0; i < w.count; ++i) {
      auto const& q = a.parameters[from + std::size_t(i)];
      w.parameter[i] = {static_cast<T*>(q.value), static_cast<T const*>(q.gradient), static_cast<T*>(q.state[0]), static_cast<T*>(q.state[1]), q.size, int(blocks)};
      blocks += (q.size + chunk - 1) / chunk;
    }
    if (blocks) launch_ahead(multi_tensor<T>, dim3(unsigned(blocks)), dim3(threads), 0, 1, stream, w);
  }
  check_launch("optimizer multi_tensor", p, stream);
}

void run(OptimizerProblem const& p, Config const&, OptimizerArgs const& a, View, Stream& stream) {
  p.type == DType::f64 ? launch<double>(p, a, stream) : launch<float>(p, a, stream);
}

}  // namespace

std::vector<Algorithm<OptimizerProblem>> optimizer_cuda_algorithms() {
  return {{.name = "multi_tensor", .target = DeviceKind::cuda, .reject = reject, .seconds = seconds, .run = run, .heeds_guard = true}};
}

}  // namespace falconet
