// Steps whose inputs a Feed fills on the device, inside the step: training steps that no host waits for, whose results arrive in host memory
// while later steps are already launched, and inference over a data set. For GPUs.
#pragma once
#include <cstdint>

#include "falconet/device/device.h"
#include "falconet/tensor/tensor.h"

namespace falconet {

class CudaStream;

// Device memory that a feed fills.
struct FeedTarget {
  StepState* state = nullptr;      // `sample` says which batch is due; the feed writes valid_count and learning_rate
  View images, targets;            // f32 or f64 [batch,C,H,W] nhwc, normalised; i32 [batch]. Rows from valid_count on are zero
};

class Feed {
 public:
  virtual ~Feed() = default;
  // Launches what fills the target with the batch that is due when it runs. It becomes a part of the step's graph, so it is called
  // seldom, and what changes from step to step must lie in device memory.
  virtual void launch(FeedTarget const&, Stream&) = 0;
  // Called on the host just before each step is launched on `stream`, in the order of the steps.
  virtual void before(CudaStream const&) {}
  // How many steps may be on their way at once.
  virtual int most_in_flight() const { return 32; }
};

struct StepResult {
  double loss = 0;
  double correct = 0;              // NaN for losses without classes
};

// One run of such steps: start(), launch() any number of times, finish(). Between finish() and the next start() the host may read and
// write the session's StepState and everything else.
class StepsInFlight {
 public:
  virtual ~StepsInFlight() = default;
  virtual void start() = 0;                        // from the session's StepState
  // Launches one more step: one graph launch, nothing allocated, nothing waited for. The very first of a session runs kernel by
  // kernel and is waited for, and the second is captured; with CudaCheck::sync each one runs like the first.
  virtual void launch() = 0;
  virtual std::int64_t done() const = 0;           // steps since start() whose loss is known; asks nobody
  virtual StepResult result(std::int64_t step) const = 0;   // since start(), from 0; kept for the last 1024
  // A loss was not finite: that step and all after it leave weights, optimizer and StepState alone, and after finish() running statistics are
  // those of before it; result(done()) is that loss.
  virtual bool failed() const = 0;
  virtual void check() const = 0;                  // throws the device error of a fault, if there was one; waits for nothing
  // Waits for all, and brings StepState back to the host; after a failure also the images and targets of the failing step.
  virtual void finish() = 0;
};

// Inference batch by batch: launch(), wait(), and the next launch() before the results are looked at, once they are copied. Launches of one
// and the same sample need no wait() between them; they run one after another.
class FedInference {
 public:
  virtual ~FedInference() = default;
  // Begins the batch whose first row has this number; one of another number has been waited for. The first of all runs kernel by kernel, the others
  // are one graph launch each.
  virtual void launch(std::int64_t sample) = 0;
  // Until the session's outputs are those of this batch. Its labels: i32 [batch], host memory, valid until the next launch().
  virtual View wait() = 0;
};

}  // namespace falconet
