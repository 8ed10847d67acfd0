// Kernels that make a batch in device memory.
#pragma once
#include <cstdint>

#include "falconet/base/random.h"
#include "falconet/plan/feed.h"

namespace falconet {

// What happens to the pixels of a sample, in order; padding < 0: a flip, else a crop.
struct PixelSteps {
  int count = 0;
  struct {
    int padding;
    RandomKey key;
  } step[8];
};

struct ResidentSet {
  std::uint8_t const* bytes = nullptr;           // [samples,H,W,C]; one of the two
  float const* floats = nullptr;
  std::int32_t const* labels = nullptr;          // [samples]
  std::uint32_t const* order = nullptr;          // [size]: the samples of this epoch
  float const* rates = nullptr;                  // of each step of this epoch
  float const* channels = nullptr;               // [C][4]: scale, shift, mean, std
  std::int64_t size = 0;                         // samples of an epoch
};
// The batch that state->sample begins.
void gather_batch(ResidentSet const&, PixelSteps const&, FeedTarget const&, Stream&);

struct StagedBatch {
  std::int64_t sample;                           // the first row's number
  float learning_rate;
  std::int32_t valid_count;
};
// Of two batches, side by side in device memory, the one that begins with state->sample: a StagedBatch, then the labels, then the images
// (f32, as they go into the target), at these distances in bytes.
void take_staged(void const* first, std::int64_t stride, std::int64_t labels, std::int64_t images, FeedTarget const&, Stream&);

}  // namespace falconet
