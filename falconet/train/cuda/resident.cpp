// The data set in a GPU's memory. What an epoch needs beside it, the order of its samples and its learning rates, is uploaded as it begins.
#include <algorithm>
#include <cstring>
#include <exception>
#include <mutex>

#include "falconet/base/error.h"
#include "falconet/data/normalise.h"
#include "falconet/device/cuda/handles.h"
#include "falconet/train/cuda/batch_kernels.h"
#include "falconet/train/feeds.h"

namespace falconet {
namespace {

class ResidentFeed final : public EpochFeed {
 public:
  ResidentFeed(data::Pipeline const& pipeline, FeedOptions const& o, Device device, ThreadPool& pool) : pipeline_(pipeline), options_(o), upload_(device.index) {
    auto const& spec = pipeline.spec();
    std::int64_t const n = pipeline.dataset().size(), values = spec.image.elements(), batches = (pipeline.size() + o.batch - 1) / o.batch;
    data::Pipeline const plain = pipeline.plain();
    data::Sample first;
    plain.sample(0, 0, 0, first);
    bool const u8 = !first.u8.empty();
    std::size_t const row = std::size_t(values) * (u8 ? 1 : sizeof(float));
    pixels_ = CudaMemory(device.index, std::size_t(n) * row);
    labels_ = CudaMemory(device.index, std::size_t(n) * sizeof(std::int32_t));
    channels_ = CudaMemory(device.index, std::size_t(spec.image[0]) * 4 * sizeof(float));
    std::size_t const order_bytes = (std::size_t(pipeline.size()) * sizeof(std::uint32_t) + 255) / 256 * 256;
    epoch_ = CudaMemory(device.index, order_bytes + std::size_t(batches) * sizeof(float));
    host_epoch_ = PinnedMemory(epoch_.bytes());
    name_ = NamedMemory(device, resident_bytes(pipeline).what, std::int64_t(pixels_.bytes() + labels_.bytes() + channels_.bytes() + epoch_.bytes()));
    bring_over(plain, n, row, u8, pool);

    data::Normaliser const normalise(spec);
    std::vector<float> channels;
    for (std::int64_t c = 0; c < spec.image[0]; ++c) {
      auto const of = normalise.channel(std::size_t(c));
      for (float v : {of.scale, of.shift, of.mean, of.std}) channels.push_back(v);
    }
    copy_to_device(channels_.data(), channels.data(), channels_.bytes(), upload_);
    upload_.synchronize();

    if (u8) set_.bytes = static_cast<std::uint8_t const*>(pixels_.data());
    else set_.floats = static_cast<float const*>(pixels_.data());
    set_.labels = static_cast<std::int32_t const*>(labels_.data());
    set_.order = static_cast<std::uint32_t const*>(epoch_.data());
    set_.rates = reinterpret_cast<float const*>(static_cast<char const*>(epoch_.data()) + order_bytes);
    set_.channels = static_cast<float const*>(channels_.data());
    set_.size = pipeline.size();
    rates_ = reinterpret_cast<float*>(static_cast<char*>(host_epoch_.data()) + order_bytes);
    for (std::size_t place = 0; place < pipeline.transforms().size(); ++place) {
      auto const& t = pipeline.transforms()[place];
      if (t.alter) steps_.step[steps_.count++] = {t.kind == data::Transform::flip ? -1 : t.padding, data::alter_key(o.seed, place)};
    }
  }

  void start_epoch(std::int64_t epoch, std::int64_t, std::vector<float> const& rates) override {
    pipeline_.order(order_, options_.seed, epoch);
    std::memcpy(host_epoch_.data(), order_.data(), order_.size() * sizeof(std::uint32_t));
    std::copy(rates.begin(), rates.end(), rates_);
    begins_ = true;
  }
  void before(CudaStream const& stream) override {
    if (begins_) copy_to_device(epoch_.data(), host_epoch_.data(), epoch_.bytes(), stream);
    begins_ = false;
  }
  void launch(FeedTarget const& target, Stream& stream) override { gather_batch(set_, steps_, target, stream); }

 private:
  // In blocks of some 64 MiB, each read by all threads.
  void bring_over(data::Pipeline const& plain, std::int64_t n, std::size_t row, bool u8, ThreadPool& pool) {
    std::int64_t const block = std::clamp<std::int64_t>((std::int64_t(64) << 20) / std::int64_t(row), 1, n);
    Buffer const pixels(std::size_t(block) * row);
    std::vector<std::int32_t> labels(std::size_t(block), 0);
    std::mutex guard;
    std::exception_ptr error;
    std::int64_t failed_at = n;
    for (std::int64_t begin = 0; begin < n; begin += block) {
      std::int64_t const count = std::min(block, n - begin);
      constexpr int at_once = 64;                // samples of a task, which share a Sample's memory
      pool.run(int((count + at_once - 1) / at_once), [&](int task) {
        data::Sample sample;
        for (std::int64_t i = std::int64_t(task) * at_once; i < std::min<std::int64_t>(count, (task + 1) * std::int64_t(at_once)); ++i) {
          try {
            plain.sample(begin + i, 0, 0, sample);
            if (sample.u8.empty() == u8) fail(ErrorKind::data, "sample " + std::to_string(begin + i) + " has other pixels (bytes or floats) than sample 0");
            void const* const from = u8 ? static_cast<void const*>(sample.u8.data()) : sample.f32.data();
            std::memcpy(static_cast<char*>(pixels.data()) + std::size_t(i) * row, from, row);
            labels[std::size_t(i)] = sample.label;
          } catch (...) {
            std::lock_guard lock(guard);         // the first in the data set's order, whatever thread found it
            if (begin + i < failed_at) error = std::current_exception(), failed_at = begin + i;
            return;
          }
        }
      });
      if (error) std::rethrow_exception(error);
      copy_to_device(static_cast<char*>(pixels_.data()) + std::size_t(begin) * row, pixels.data(), std::size_t(count) * row, upload_);
      copy_to_device(static_cast<std::int32_t*>(labels_.data()) + begin, labels.data(), std::size_t(count) * sizeof(std::int32_t), upload_);
      upload_.synchronize();
    }
  }

  data::Pipeline pipeline_;
  FeedOptions options_;
  CudaStream upload_;
  CudaMemory pixels_, labels_, channels_, epoch_;   // epoch_: order, then rates
  NamedMemory name_;
  PinnedMemory host_epoch_;
  float* rates_ = nullptr;
  std::vector<std::uint32_t> order_;
  bool begins_ = false;
  ResidentSet set_;
  PixelSteps steps_;
};

}  // namespace

std::unique_ptr<EpochFeed> resident_feed(data::Pipeline const& pipeline, FeedOptions const& o, Device device, ThreadPool& pool) {
  if (auto const why = resident_refusal(pipeline, cuda_memory(device.index).free); !why.empty()) fail(ErrorKind::device, "the data set cannot lie on " + device.text() + ": " + why);
  return std::make_unique<ResidentFeed>(pipeline, o, device, pool);
}

}  // namespace falconet
