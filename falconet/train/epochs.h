// Runs the steps of an epoch one after another: on the CPU each is waited for, on a GPU they are in flight.
#pragma once
#include <functional>
#include <memory>

#include "falconet/data/pipeline.h"
#include "falconet/nn/model.h"
#include "falconet/plan/step.h"
#include "falconet/train/feeds.h"

namespace falconet {

struct StepDone {
  std::int64_t batch = 0;                // within the epoch, from 0
  std::int64_t step = 0;                 // of the run, from 1; a GPU's state() is that of the last step only after the run
  std::int32_t valid_count = 0;
  double loss = 0, correct = 0;
  float learning_rate = 0;
};

class EpochRunner {
 public:
  virtual ~EpochRunner() = default;
  // Batches [first, batches) of an epoch (from 0). `done` is told of every step, in order; once it has returned false no step is begun any
  // more, and those on their way are ended and told of. Afterwards the step's state() is that of the last step. Throws as TrainStep::run does.
  virtual void run(std::int64_t epoch, std::int64_t first, std::function<bool(StepDone const&)> const& done) = 0;
  virtual std::string text() const = 0;  // how batches come: "resident on cuda:0"
};

// rate: of a step, by its batch within the epoch whose first step is state().step. The runs start at o.epoch, o.index.
std::unique_ptr<EpochRunner> epoch_runner(Model& model, TrainStep& step, data::Pipeline const& train, FeedOptions const& o, Feeding feeding,
                                          std::function<float(std::int64_t step)> rate);

}  // namespace falconet
