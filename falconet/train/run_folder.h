// The run folder: results.csv, plan.tsv, best.safetensors, last.ckpt, previous.ckpt and the lock. One process at a time.
#pragma once
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "falconet/base/file.h"
#include "falconet/nn/model.h"
#include "falconet/plan/plan.h"
#include "falconet/train/trainer.h"

namespace falconet {

// Where a run stands: everything beside the parameters that going on needs.
struct RunPosition {
  StepState state;
  int epoch = 0;                         // finished epochs
  std::int64_t batch = 0;                // batches done of the next one
  double loss_sum = 0, right = 0;        // over the batches done of the unfinished epoch
  double first_loss = std::numeric_limits<double>::quiet_NaN();   // of the run's first step; NaN: not known
  std::int64_t seen = 0;
  double best_accuracy = -1;
  int best_epoch = 0;
  bool finished = false;
  std::int64_t batch_size = 0, set_size = 0;   // with state.seed they decide which batches an epoch has; 0: not known
  std::vector<EpochResult> epochs;
  std::string plan, settings;
};

// Before anything is loaded or made: throws a file error if a file is where the folder or one of its parents should be.
void check_run_folder(std::string const& path);

class RunFolder {
 public:
  // Makes the folder (and its parents) and takes its lock. Throws a file error if that cannot be done or another process has it.
  explicit RunFolder(std::string path);
  std::string const& path() const { return path_; }
  std::string file(std::string const& name) const { return path_ + "/" + name; }
  bool has_checkpoint() const;

  // Written to next.ckpt; then last.ckpt becomes previous.ckpt, and the new one last.ckpt. Wherever it is killed, the newest whole one is found.
  void write_checkpoint(Model const& model, RunPosition const& position);
  // Restores parameters and position from the newest checkpoint that is whole (and says so if that is not the last one). Plan,
  // settings, seed, batch and set size are those of `now`, for they are what goes on: within an epoch the last three must be the
  // checkpoint's (usage error, before the model is touched), since another order of batches would repeat samples and miss others.
  RunPosition read_checkpoint(Model& model, RunPosition const& now, std::function<void(std::string const&)> const& say);
  void write_results(std::vector<EpochResult> const& epochs);   // results.csv has these rows and no others; unchanged if it has them already
  void write_plan(Plan const& plan);

 private:
  void promote_next();
  std::string path_;
  std::unique_ptr<FileLock> lock_;
};

// What going on needs before a model exists: the settings that were kept, and the plan whose choices are to be repeated.
struct RunRecord {
  std::string settings;
  Plan plan;
};
RunRecord record_of_run(std::string const& path, std::function<void(std::string const&)> const& say);

}  // namespace falconet
