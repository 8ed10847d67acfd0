// Trains a model on a data set, with validation, a run folder, checkpoints and callbacks. The library itself is silent.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "falconet/data/loader.h"
#include "falconet/plan/step.h"
#include "falconet/train/evaluate.h"
#include "falconet/train/feeds.h"
#include "falconet/train/schedule.h"

namespace falconet {

class RunFolder;                        // train/run_folder.h

struct TrainerOptions {
  int batch = 64;
  Precision precision = DType::f32;
  LossFunction loss = cross_entropy();
  Optimizer optimizer = adam();
  Schedule schedule = constant_rate();
  bool rivals = false, fuse = true;
  std::int64_t memory = 0;              // bytes that a step may take with weights and optimizer states; 0: no limit. Less memory costs time, not bits
  std::map<std::string, std::string> pins = {};
  Plan const* recorded = nullptr;       // choices of algorithms to repeat: a resumed run's own
  std::shared_ptr<Tuner> tuner = {};    // chooses the others by measurement (plan/tune.h)
};

// One row of results.csv.
struct EpochResult {
  int epoch = 0;                        // from 1
  std::int64_t step = 0;                // optimizer steps done
  double train_loss = 0, train_accuracy = 0;
  double val_loss = 0, val_accuracy = 0;   // NaN without a validation set
  double learning_rate = 0;             // of the last step
  double seconds = 0;                   // of the epoch, validation included
};

struct Progress {
  int epoch = 0, epochs = 0;            // epoch from 1
  std::int64_t batch = 0, batches = 0;  // within the epoch, from 1
  double loss = 0;                      // of this step
  double mean_loss = 0, accuracy = 0;   // over the epoch so far
  double learning_rate = 0;
  double seconds = 0;                   // since fit began
};

struct FitOptions {
  int epochs = 1;
  std::optional<data::Pipeline> validate = {};   // measured after each epoch; decides which weights are the best
  std::string run = {};                 // run folder; empty: nothing is written
  std::shared_ptr<RunFolder> folder = {};   // the same, where the caller holds it already and works in it before or after fit; instead of `run`
  bool resume = false;                  // go on from the folder's checkpoint; within an epoch batch, seed and size of the set must be the same
  std::string settings = {};            // kept in checkpoints, for the command line
  int validation_batch = 1000;
  Feeding feed = Feeding::automatic;    // how batches come to a GPU; the bytes are the same
  std::function<bool(Progress const&)> on_step = {};    // false: stop, after the steps that a GPU has begun; the checkpoint is written first
  std::function<bool(EpochResult const&)> on_epoch = {};
  std::function<void(std::string const&)> on_feed = {}; // once, before the first step: "resident on cuda:0"
  std::function<void(std::string const&)> on_message = {};   // "last.ckpt is damaged ...; going on from previous.ckpt"
};

struct FitResult {
  std::vector<EpochResult> epochs;      // of the whole run, those before a resume included
  double best_accuracy = 0;
  int best_epoch = 0;
  bool stopped = false;                 // by a callback
  bool was_finished = false;            // resumed a run that had already ended: nothing was done
};

class Trainer {
 public:
  // Throws a usage error for a loss that is not over labels (data sets hold labels; TrainStep takes any targets).
  Trainer(Model& model, TrainerOptions options);
  // Throws numeric errors (a loss or a weight is not finite; the mean loss over an epoch is above 1e4 times the run's first loss, or
  // above 1e4 if that was below 1), file errors (run folder), data errors. Same seed, same bytes.
  FitResult fit(data::Pipeline const& train, FitOptions options);
  TrainStep& step() { return step_; }

 private:
  Model& model_;
  TrainerOptions options_;
  TrainStep step_;
};

}  // namespace falconet
