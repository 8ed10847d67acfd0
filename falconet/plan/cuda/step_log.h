// What a step that nobody waits for leaves behind: its loss in host memory, and the position of the next step in StepState.
#pragma once
#include <cstdint>

#include "falconet/device/device.h"
#include "falconet/tensor/tensor.h"

namespace falconet {

struct StepLog {                                 // pinned host memory, written by the device
  static constexpr int kept = 1024;
  std::int64_t done = 0;                         // steps whose results are in
  std::int32_t failed = 0;
  double loss[kept], correct[kept];              // of step s at s % kept
};
struct StepLogCursor {                           // device memory
  std::int64_t done = 0;
  std::int32_t failed = 0;
  float guard_f32 = 0;                           // the last loss logged, for Stream::guard: not finite from the first failure on
  double guard_f64 = 0;
};

// Writes loss (and correct, where there is one) of the step to the log; marks the log as failed, for good, if the loss is not finite.
// Loss and correct are f32 or f64, in device memory.
void log_step(Stream&, View loss, View correct, StepLogCursor* cursor, StepLog* log);
// After the update: step + 1, sample + valid_count, unless *failed.
void advance(Stream&, StepState* state, std::int32_t const* failed);

}  // namespace falconet
