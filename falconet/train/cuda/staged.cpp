// Batches prepared on the CPU and copied while the step before runs: two pinned buffers, two in device memory, a stream of their own.
// A step takes whichever of the two begins with its sample, so one graph serves both.
#include <algorithm>
#include <cstring>

#include "falconet/data/loader.h"
#include "falconet/device/cuda/handles.h"
#include "falconet/train/cuda/batch_kernels.h"
#include "falconet/train/feeds.h"

namespace falconet {
namespace {

std::size_t rounded(std::size_t bytes) { return (bytes + 255) / 256 * 256; }

class StagedFeed final : public EpochFeed {
 public:
  StagedFeed(data::Pipeline const& pipeline, FeedOptions const& o, Device device)
      : options_(o),
        loader_(pipeline, {.batch = o.batch, .seed = o.seed, .threads = threads(), .ahead = threads() + 2, .epoch = o.epoch, .index = o.index, .epochs = o.epochs}),
        labels_(rounded(sizeof(StagedBatch))),
        images_(labels_ + rounded(std::size_t(o.batch) * sizeof(std::int32_t))),
        stride_(images_ + rounded(std::size_t(o.batch) * std::size_t(pipeline.spec().image.elements()) * sizeof(float))),
        host_(2 * stride_),
        device_(device.index, 2 * stride_),
        copies_(device.index),
        copied_(device.index) {
    std::memset(host_.data(), 0xff, host_.bytes());   // no step begins with this sample
    copy_to_device(device_.data(), host_.data(), host_.bytes(), copies_);
    copies_.synchronize();
  }

  int most_in_flight() const override { return 2; }   // so that a buffer is free again when its turn comes
  void start_epoch(std::int64_t, std::int64_t, std::vector<float> const& rates) override { rates_ = rates; }
  void before(CudaStream const& stream) override {
    auto const& batch = loader_.next();
    std::size_t const at = turn_ * stride_;
    turn_ = 1 - turn_;
    char* const to = static_cast<char*>(host_.data()) + at;
    StagedBatch const head{batch.sample, rates_[std::size_t(batch.index)], batch.valid_count};
    std::memcpy(to, &head, sizeof head);
    std::memcpy(to + labels_, batch.labels.data, batch.labels.type.bytes());
    std::memcpy(to + images_, batch.images.data, batch.images.type.bytes());
    copy_to_device(static_cast<char*>(device_.data()) + at, to, images_ + batch.images.type.bytes(), copies_);
    copied_.record(copies_);
    stream.wait(copied_);
  }
  void launch(FeedTarget const& target, Stream& stream) override {
    take_staged(device_.data(), std::int64_t(stride_), std::int64_t(labels_), std::int64_t(images_), target, stream);
  }

 private:
  static int threads() { return std::clamp(usable_cpus() - 1, 1, 8); }
  FeedOptions options_;
  data::Loader loader_;
  std::size_t labels_, images_, stride_, turn_ = 0;
  std::vector<float> rates_;
  PinnedMemory host_;
  CudaMemory device_;
  CudaStream copies_;
  CudaEvent copied_;
};

}  // namespace

std::unique_ptr<EpochFeed> staged_feed(data::Pipeline const& pipeline, FeedOptions const& o, Device device) { return std::make_unique<StagedFeed>(pipeline, o, device); }

}  // namespace falconet
