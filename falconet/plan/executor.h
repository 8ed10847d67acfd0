// Where a session's bytes lie and how its launches run: one implementation for the CPU, one for NVIDIA GPUs (plan/cuda/; in a build
// without CUDA plan/no_cuda.cpp says so).
#pragma once
#include <memory>
#include <vector>

#include "falconet/device/cpu/threads.h"
#include "falconet/graph/parameters.h"
#include "falconet/ops/algorithm.h"
#include "falconet/plan/feed.h"
#include "falconet/plan/plan.h"

namespace falconet {

bool all_finite(View);                          // host memory; true for types that have no infinity

// What steps in flight need to know of a plan.
struct FedSlots {
  int guarded = 0;                              // the launches from here on are the update
  bool heeded = false;                          // and look at Stream::guard themselves
  Slot loss, state, images, targets;
  Slot const* correct = nullptr;
  int results = 0;                              // launches until loss and correct are known
};

class Executor {
 public:
  virtual ~Executor() = default;
  // Addresses that launches get. Memory starts as zeros.
  virtual void* memory(std::int64_t offset) const = 0;
  virtual void* parameter(Parameters::Entry const&) = 0;
  // Host memory in which the caller writes an input before a step, or reads an output after it.
  virtual View input(Slot const&) = 0;
  virtual View output(Slot const&) = 0;
  virtual Tensor read(View bound) = 0;          // a copy of what launches wrote there
  // For each launch its lane and the earlier launches that it must wait for; those of one lane run in order. Lanes may run side by side.
  virtual void set_lanes(std::vector<int> lane, std::vector<std::vector<int>> waits) { (void)lane, (void)waits; }

  // Runs launches [begin, end) in order and waits for them.
  virtual void run(std::vector<Bound> const& launches, int begin, int end) = 0;
  // All launches; those from `guarded` on only if what `guard` holds by then is finite. False if they were left out.
  // heeded: those launches look at Stream::guard themselves.
  virtual bool step(std::vector<Bound> const& launches, int guarded, Slot const* guard, bool heeded) = 0;
  // What outlives a step and is written before its loss is known: kept as every step() and every step in flight begins. restore_states puts
  // back what the last of them began with; in flight, the first whose loss was not finite.
  virtual void watch_states(std::vector<View> states) = 0;
  virtual void restore_states() = 0;
  // All launches one by one, each one's seconds added to `seconds`.
  virtual void time(std::vector<Bound> const& launches, std::vector<double>& seconds) = 0;
  // Steps that nobody waits for. A GPU's alone; `launches`, the feed and this executor outlive what is returned.
  virtual std::unique_ptr<StepsInFlight> in_flight(std::vector<Bound> const& launches, FedSlots const&, Feed&);
  // Inference with images from a feed, likewise.
  virtual std::unique_ptr<FedInference> fed_inference(std::vector<Bound> const& launches, Slot const& images, Feed&);
};

std::unique_ptr<Executor> cpu_executor(std::int64_t memory_bytes, std::shared_ptr<ThreadPool>, Isa);
std::unique_ptr<Executor> cuda_executor(int device, std::int64_t memory_bytes, std::shared_ptr<Parameters>, bool writes_parameters);

}  // namespace falconet
