// A batch made in device memory, with the very bytes that data/loader.cpp makes: the same counter-based bits for each (epoch, sample,
// transform), and every operation of the normalisation rounded by itself. A block writes one slice of one row; output pixels look
// up where they come from by undoing the transforms from the last to the first. Bytes: the pixels once in, the images once out.
#include "falconet/device/cuda/check.h"
#include "falconet/train/cuda/batch_kernels.h"

namespace falconet {
namespace {

constexpr int threads = 256, slice = 2048;       // elements of a block

struct Sizes {
  std::int64_t values;                           // of a row
  int batch, h, w, c;
  std::string text() const {
    return "batch=" + std::to_string(batch) + " image=" + std::to_string(c) + "x" + std::to_string(h) + "x" + std::to_string(w);
  }
};

struct Move {
  int down, right;                               // a crop; down == INT_MIN: a flip
  bool applies;
};

template <class T>
__global__ void __launch_bounds__(threads) gather(ResidentSet const set, PixelSteps const steps, Sizes const size, StepState* state, T* images, std::int32_t* targets) {
  std::int64_t const begin = state->sample % set.size, epoch = state->sample / set.size;
  int const row = blockIdx.x;
  int const valid = int(min(std::int64_t(size.batch), set.size - begin));
  if (row == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
    state->valid_count = valid;
    state->learning_rate = set.rates[begin / size.batch];
  }
  std::int64_t const first = std::int64_t(blockIdx.y) * slice, last = min(first + slice, size.values);
  T* const out = images + row * size.values;
  if (row >= valid) {
    if (blockIdx.y == 0 && threadIdx.x == 0) targets[row] = 0;
    for (std::int64_t e = first + threadIdx.x; e < last; e += threads) out[e] = T(0);
    return;
  }
  std::int64_t const sample = set.order[begin + row];
  if (blockIdx.y == 0 && threadIdx.x == 0) targets[row] = set.labels[sample];

  __shared__ Move moves[8];
  if (int(threadIdx.x) < steps.count) {
    auto const& s = steps.step[threadIdx.x];
    RandomBits const bits = draw(s.key, std::uint64_t(epoch), std::uint64_t(sample));
    Move m{};
    if (s.padding < 0) {
      m.applies = !(bits.word[0] >> 31);
      m.down = INT_MIN;
    } else {
      auto const positions = std::uint32_t(2 * s.padding + 1);
      m.applies = true;
      m.down = int(bounded(wide_bits(bits.word[0], bits.word[1]), positions)) - s.padding;
      m.right = int(bounded(wide_bits(bits.word[2], bits.word[3]), positions)) - s.padding;
    }
    moves[threadIdx.x] = m;
  }
  __syncthreads();

  std::int64_t const base = sample * size.values;
  for (std::int64_t e = first + threadIdx.x; e < last; e += threads) {
    int const pixel = int(e / size.c), c = int(e % size.c);
    int x = pixel % size.w, y = pixel / size.w;
    bool inside = true;
    for (int i = steps.count - 1; i >= 0; --i) {
      Move const m = moves[i];
      if (!m.applies) continue;
      if (m.down == INT_MIN) x = size.w - 1 - x;
      else {
        x -= m.right, y -= m.down;
        inside &= x >= 0 && x < size.w && y >= 0 && y < size.h;
      }
    }
    std::int64_t const from = base + (std::int64_t(y) * size.w + x) * size.c + c;
    float const* const channel = set.channels + 4 * c;
    float v;
    if (set.bytes) v = __fadd_rn(__fmul_rn(inside ? float(set.bytes[from]) : 0.0f, channel[0]), channel[1]);
    else v = __fdiv_rn(__fsub_rn(inside ? set.floats[from] : 0.0f, channel[2]), channel[3]);
    out[e] = T(v);
  }
}

template <class T>
__global__ void __launch_bounds__(threads) take(char const* staged, std::int64_t stride, std::int64_t labels, std::int64_t pixels, Sizes const size, StepState* state, T* images,
                                                std::int32_t* targets) {
  if (reinterpret_cast<StagedBatch const*>(staged)->sample != state->sample) staged += stride;
  auto const* const batch = reinterpret_cast<StagedBatch const*>(staged);
  auto const* const in = reinterpret_cast<float const*>(staged + pixels);
  std::int64_t const at = blockIdx.x * std::int64_t(threads) + threadIdx.x, all = std::int64_t(gridDim.x) * threads;
  if (at == 0) state->valid_count = batch->valid_count, state->learning_rate = batch->learning_rate;
  for (std::int64_t i = at; i < size.batch; i += all) targets[i] = reinterpret_cast<std::int32_t const*>(staged + labels)[i];
  for (std::int64_t i = at; i < size.batch * size.values; i += all) images[i] = T(in[i]);
}

Sizes sizes_of(FeedTarget const& t) {
  auto const& s = t.images.type.shape;
  return {s[1] * s[2] * s[3], int(s[0]), int(s[2]), int(s[3]), int(s[1])};
}

}  // namespace

void gather_batch(ResidentSet const& set, PixelSteps const& steps, FeedTarget const& t, Stream& stream) {
  auto const s = static_cast<cudaStream_t>(stream.cuda());
  Sizes const size = sizes_of(t);
  dim3 const grid(unsigned(size.batch), unsigned((size.values + slice - 1) / slice));
  auto* const targets = t.targets.as<std::int32_t>();
  if (t.images.type.dtype == DType::f64) gather<double><<<grid, threads, 0, s>>>(set, steps, size, t.state, t.images.as<double>(), targets);
  else gather<float><<<grid, threads, 0, s>>>(set, steps, size, t.state, t.images.as<float>(), targets);
  check_launch("gather batch", size, s);
}

void take_staged(void const* first, std::int64_t stride, std::int64_t labels, std::int64_t images, FeedTarget const& t, Stream& stream) {
  auto const s = static_cast<cudaStream_t>(stream.cuda());
  Sizes const size = sizes_of(t);
  unsigned const blocks = unsigned(min((size.batch * size.values + threads * 4 - 1) / (threads * 4), std::int64_t(132 * 8)));
  auto const* const from = static_cast<char const*>(first);
  auto* const targets = t.targets.as<std::int32_t>();
  if (t.images.type.dtype == DType::f64) take<double><<<blocks, threads, 0, s>>>(from, stride, labels, images, size, t.state, t.images.as<double>(), targets);
  else take<float><<<blocks, threads, 0, s>>>(from, stride, labels, images, size, t.state, t.images.as<float>(), targets);
  check_launch("take staged batch", size, s);
}

}  // namespace falconet
