// Batches of a Pipeline, prepared ahead of time on threads of their own, straight into memory laid out at the start: in the
// steady state nothing is allocated. The bytes of a batch are a pure function of (pipeline, seed, batch size, epoch, index):
// they depend neither on the number of threads nor on where a run was resumed.
#pragma once
#include <memory>

#include "falconet/data/pipeline.h"

namespace falconet::data {

struct LoaderOptions {
  int batch = 64;
  std::uint64_t seed = 1;
  bool drop_last = false;           // leave out the last batch of an epoch where it is not full
  int threads = 1;                  // 0: batches are prepared inside next(), by the calling thread
  int ahead = 2;                    // batches prepared ahead, at least one per thread
  std::int64_t epoch = 0, index = 0;   // where to start
  std::int64_t epochs = INT64_MAX;  // end after epoch epochs - 1: what comes after it is not prepared
};

struct Batch {
  View images;                      // f32 [batch,C,H,W] nhwc, normalised; rows from valid_count on are zero
  View labels;                      // i32 [batch]; 0 from valid_count on
  std::int32_t valid_count = 0;
  std::int64_t epoch = 0, index = 0;
  std::int64_t sample = 0;          // the first row's number, counted over the whole run from epoch 0
};

class Loader {
 public:
  Loader(Pipeline pipeline, LoaderOptions options);   // throws usage errors
  ~Loader();
  Loader(Loader const&) = delete;
  Loader& operator=(Loader const&) = delete;

  std::int64_t batches_per_epoch() const;
  Pipeline const& pipeline() const;
  // The next batch, valid until the next call. Throws what the data set threw while this batch was prepared.
  Batch const& next();
  void seek(std::int64_t epoch, std::int64_t index);  // next() goes on from there

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace falconet::data
