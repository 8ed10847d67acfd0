// Batches of a pipeline on a GPU: the bytes are those of data::Loader with the same seed, whichever way they come.
//
//   resident   the data set lies in the GPU's memory; shuffled, cropped, flipped and normalised there
//   staged     data::Loader prepares batches on the CPU; pinned double buffers and a stream of their own copy them during the step before
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "falconet/data/pipeline.h"
#include "falconet/device/cpu/threads.h"
#include "falconet/device/device.h"
#include "falconet/device/named_memory.h"
#include "falconet/plan/feed.h"

namespace falconet {

enum class Feeding : std::uint8_t { automatic, resident, staged };   // automatic: resident if that can be, else staged
Feeding parse_feeding(std::string_view);        // throws a usage error

class EpochFeed : public Feed {
 public:
  // Before the first step of an epoch, or of what is left of it from batch `index` on; nothing is in flight then. rates: the learning
  // rate of every step of the whole epoch.
  virtual void start_epoch(std::int64_t epoch, std::int64_t index, std::vector<float> const& rates) = 0;
};

struct FeedOptions {
  int batch = 64;
  std::uint64_t seed = 1;
  std::int64_t epoch = 0, index = 0;            // where the run starts
  std::int64_t epochs = INT64_MAX;              // it ends after epoch epochs - 1
};

// The data set as a consumer of memory, "the data set (60000 images of 1x28x28)": pixels, labels, and the order of an epoch.
Consumer resident_bytes(data::Pipeline const&);
// Of so many bytes free, those that a data set may take: half.
inline std::int64_t room_for_data(std::size_t free_bytes) { return std::int64_t(free_bytes / 2); }
// Why this pipeline cannot be resident with so many bytes of memory free; empty when it can.
std::string resident_refusal(data::Pipeline const&, std::size_t free_bytes);
// Throws the data set's errors while it is brought over, and device errors.
std::unique_ptr<EpochFeed> resident_feed(data::Pipeline const&, FeedOptions const&, Device, ThreadPool&);
std::unique_ptr<EpochFeed> staged_feed(data::Pipeline const&, FeedOptions const&, Device);

}  // namespace falconet
