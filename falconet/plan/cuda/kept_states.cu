#include "falconet/device/cuda/check.h"
#include "falconet/plan/cuda/kept_states.h"

namespace falconet {
namespace {

constexpr int threads = 256;

// A block a tensor: they are a few numbers a channel.
__global__ void __launch_bounds__(threads) copy_states(StatePair const* pairs, bool back, std::int32_t const* failed) {
  if (failed && *failed) return;
  StatePair const p = pairs[blockIdx.x];
  std::uint32_t *const to = back ? p.live : p.kept, *const from = back ? p.kept : p.live;
  for (std::int64_t i = threadIdx.x; i < p.words; i += threads) to[i] = from[i];
}

struct Count {
  int tensors;
  std::string text() const { return std::to_string(tensors) + " tensors"; }
};

void launch(CudaMemory const& pairs, int count, bool back, std::int32_t const* failed, Stream& on) {
  if (count == 0) return;
  auto const s = static_cast<cudaStream_t>(on.cuda());
  copy_states<<<unsigned(count), threads, 0, s>>>(static_cast<StatePair const*>(pairs.data()), back, failed);
  check_launch(back ? "restore states" : "keep states", Count{count}, s);
}

}  // namespace

void KeptStates::watch(std::vector<View> const& live) {
  count_ = int(live.size());
  if (live.empty()) return;
  std::size_t bytes = 0;
  for (auto const& v : live) bytes += (v.type.bytes() + 15) / 16 * 16;
  memory_ = CudaMemory(stream_.device(), bytes);
  pairs_ = CudaMemory(stream_.device(), live.size() * sizeof(StatePair));
  std::vector<StatePair> pairs;
  char* at = static_cast<char*>(memory_.data());
  for (auto const& v : live) {
    pairs.push_back({v.as<std::uint32_t>(), reinterpret_cast<std::uint32_t*>(at), std::int64_t(v.type.bytes() / sizeof(std::uint32_t))});
    at += (v.type.bytes() + 15) / 16 * 16;
  }
  copy_to_device(pairs_.data(), pairs.data(), pairs.size() * sizeof(StatePair), stream_);
  stream_.synchronize();
}
void KeptStates::keep(Stream& stream, std::int32_t const* failed) const { launch(pairs_, count_, false, failed, stream); }
void KeptStates::restore(Stream& stream) const { launch(pairs_, count_, true, nullptr, stream); }

}  // namespace falconet
