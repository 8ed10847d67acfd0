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

  void step() {
    begin();
    (void)executor_->step(launches_, int(launches_.size()), nullptr, false);
  }
  // The launches from `guarded` on run only if the output `guard` is finite by then; says whether they ran. Always the same two
  // in one session.
  bool step(int guarded, std::string_view guard);
  // Steps on a GPU that nobody waits for, their inputs "step", "images" and "targets" filled by the feed (plan/feed.h). This session
  // and the feed outlive them; one at a time.
  std::unique_ptr<StepsInFlight> in_flight(int guarded, std::string_view guard, Feed&);
  // All launches on a GPU, their input "images" filled by the feed. This session and the feed outlive it; one at a time.
  std::unique_ptr<FedInference> fed_inference(Feed&);
  void run(int first, int end) {                                           // launches [first, end) in order
    begin();
    executor_->run(launches_, first, end);
  }
  std::vector<Tensor> results_of(int launch) const;   // what it wrote last
  // From now on what launches [0, guarded) write of weights and states is kept as each step begins; restore_states() puts back what a step
  // began with that was left without its update.
  void keep_states(int guarded) { executor_->watch_states(parameters_written_by(0, guarded)); }
  void restore_states() { executor_->restore_states(); }
  // The same as step(), adding each launch's seconds to `seconds` (as many entries as launches).
  void step_timed(std::vector<double>& seconds);
  std::int64_t memory_bytes() const { return plan_.memory_bytes; }

 private:
  View at(Slot const&) const;
  Bound bind(Launch const&) const;
  // Before launches run: what is computed from the parameters once is renewed if they have changed, or they are said to change.
  void begin();
  template <class Found>
  void each_written_parameter(int begin, int end, Found const&) const;   // found(slot)
  bool writes_parameters() const;
  std::vector<View> parameters_written_by(int begin, int end) const;      // each once; where launches find them
  bool heeds_guard(int guarded);
  bool writes_ = false;
  Plan plan_;
  std::shared_ptr<Parameters> parameters_;
  std::unique_ptr<Executor> executor_;
  StepState spare_state_;
  StepState* state_ = &spare_state_;
  std::vector<View> inputs_, outputs_;          // host memory, in the plan's order
  std::vector<Bound> prepare_, launches_;
  std::uint64_t prepared_from_ = 0;             // the version of the parameters; 0: not yet
  std::optional<bool> heeded_;                  // the guarded launches look at the guard themselves
};

}  // namespace falconet
