// What a person sees of a training run on stderr: one line that is written over again on a terminal, one line an epoch otherwise;
// and the signals that ask it to stop.
#pragma once
#include <string>

#include "falconet/train/trainer.h"

namespace falconet::cli {

// SIGINT and SIGTERM ask for a stop after the current step; a second one ends the process at once.
void catch_signals();
bool stop_requested();

class ProgressLine {
 public:
  explicit ProgressLine(int batch);
  void step(Progress const& progress);
  // Returns the epoch's line, for the log.
  std::string epoch(EpochResult const& result, Progress const& last);
  void message(std::string const& text);  // on a line of its own
  void clear();

 private:
  double eta(Progress const& p) const;
  int batch_;
  bool terminal_;
  bool shown_ = false;
  double last_shown_ = 0, start_, epoch_start_, epoch_end_ = 0;  // seconds; training alone is counted between the latter two
  std::int64_t first_step_ = -1, first_of_epoch_ = 0;            // of this process: a resumed run does not count what came before
};

}  // namespace falconet::cli
