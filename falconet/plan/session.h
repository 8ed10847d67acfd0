// A session binds a plan to memory and runs it. A steady step allocates nothing and asks nobody anything.
#pragma once
#include <memory>
#include <string_view>
#include <vector>

#include "falconet/device/cpu/threads.h"
#include "falconet/graph/parameters.h"
#include "falconet/plan/plan.h"

namespace falconet {

class Session {
 public:
  // Binds every launch; throws a model error if a parameter that the plan names is missing or has another type.
  Session(Plan plan, std::shared_ptr<Parameters> parameters, std::shared_ptr<ThreadPool> threads, Isa isa = detected_isa());
  Session(Session const&) = delete;

  Plan const& plan() const { return plan_; }
  View input(std::string_view name) const;      // write before step(); throws an internal error for an unknown name
  View output(std::string_view name) const;     // read after step()
  StepState& state() { return *state_; }        // the "step" input, if the plan has one; otherwise a spare one
  Parameters& parameters() const { return *parameters_; }

  void step() { run(0, int(launches_.size())); }
  void run(int begin, int end);                 // launches [begin, end) in order
  std::vector<View> results_of(int launch) const;   // what it writes
  // The same, adding each launch's seconds to `seconds` (as many entries as launches).
  void step_timed(std::vector<double>& seconds);
  std::int64_t memory_bytes() const { return plan_.memory_bytes; }

 private:
  View at(Slot const&) const;
  Plan plan_;
  std::shared_ptr<Parameters> parameters_;
  std::shared_ptr<ThreadPool> threads_;
  Stream stream_;
  Buffer memory_;
  StepState spare_state_;
  StepState* state_ = &spare_state_;
  std::vector<Bound> launches_;
};

}  // namespace falconet
