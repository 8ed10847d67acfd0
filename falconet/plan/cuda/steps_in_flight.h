// Steps whose inputs a Feed fills on the GPU, captured into one graph each (plan/feed.h).
#pragma once
#include <functional>
#include <memory>

#include "falconet/device/cuda/handles.h"
#include "falconet/plan/executor.h"

namespace falconet {

struct CudaFedStep {
  CudaStream const* stream;
  std::function<void()> parameters_to_device;
  std::function<void(int begin, int end, Stream&)> launch;   // the plan's launches
  std::function<void(Stream&, std::function<void(Stream&)> const& log)> launch_logged;   // those before the update, the log beside what follows the loss
  std::function<void(std::int32_t const* failed, std::function<void()> const& work)> keep_beside;   // keeps the states unless *failed, beside the work
  std::function<void()> restore_states;
  int guarded, all;                                          // those from `guarded` on are the update
  bool heeded;                                               // which looks at Stream::guard itself
  View loss, correct;                                        // device memory; correct may be none
  FeedTarget target;
  StepState* host_state;                                     // pinned, as are the next two
  View host_images, host_targets;
  bool* ran;                                                 // the session's launches have run once: kernels are loaded
};
std::unique_ptr<StepsInFlight> cuda_steps_in_flight(CudaFedStep, Feed&);

}  // namespace falconet
