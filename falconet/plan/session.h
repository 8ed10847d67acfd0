// A session binds a plan to memory and runs it. A steady step allocates nothing and asks nobody anything. On a GPU arena and parameters
// lie in its memory, inputs and outputs are staged in pinned host memory, and a steady step is one graph launch.
#pragma once
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "falconet/device/cpu/threads.h"
#include "falconet/graph/parameters.h"
#include "falconet/plan/executor.h"
#include "falconet/plan/plan.h"

namespace falconet {

class Session {
 public:
  // Binds every launch; throws a model error if a parameter that the plan names is missing or has another type.
  Session(Plan plan, std::shared_ptr<Parameters> parameters, std::shared_ptr<ThreadPool> threads, Isa isa = detected_isa());
  Session(Session const&) = delete;

  Plan const& plan() const { return plan_; }
  // Host memory. Throw an internal error for an unknown name.
  View input(std::string_view name) const;      // write before step()
  View output(std::string_view name) const;     // read after step()
  StepState& state() { return *state_; }        // the "step" input, if the plan has one; otherwise a spare one
  Parameters& parameters() const { return *parameters_; }

  void step() { (void)executor_->step(launches_, int(launches_.size()), nullptr, false); }
  // The launches from `guarded` on run only if the output `guard` is finite by then; says whether they ran. Always the same two
  // in one session.
  bool step(int guarded, std::string_view guard);
  // Steps on a GPU that nobody waits for, their inputs "step", "images" and "targets" filled by the feed (plan/feed.h). This session
  // and the feed outlive them; one at a time.
  std::unique_ptr<StepsInFlight> in_flight(int guarded, std::string_view guard, Feed&);
  void run(int begin, int end) { executor_->run(launches_, begin, end); }   // launches [begin, end) in order
  std::vector<Tensor> results_of(int launch) const;   // what it wrote last
  // Weights and states that launches [begin, end) write, each once. On the CPU they are the parameters' own memory.
  std::vector<View> parameters_written_by(int begin, int end) const;
  // The same as step(), adding each launch's seconds to `seconds` (as many entries as launches).
  void step_timed(std::vector<double>& seconds);
  std::int64_t memory_bytes() const { return plan_.memory_bytes; }

 private:
  View at(Slot const&) const;
  template <class Found>
  void each_written_parameter(int begin, int end, Found const&) const;   // found(slot)
  bool writes_parameters() const;
  bool heeded(int guarded);
  Plan plan_;
  std::shared_ptr<Parameters> parameters_;
  std::unique_ptr<Executor> executor_;
  StepState spare_state_;
  StepState* state_ = &spare_state_;
  std::vector<View> inputs_, outputs_;          // host memory, in the plan's order
  std::vector<Bound> launches_;
  std::optional<bool> heeded_;                  // the guarded launches look at the guard themselves
};

}  // namespace falconet
