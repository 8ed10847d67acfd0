// The tuner: which algorithm is fastest for a problem on this machine, by measurement, remembered in one file.
//
// A row of the file is a measurement: device, instruction set, threads, fingerprint of the kernels, operation, problem, choice, microseconds. Rows
// are found again while all of the first six agree: another processor, number of threads or build of the kernels measures anew.
//
//   StepOptions options{.batch = 16, .tuner = std::make_shared<Tuner>(TuneMode::full)};
//   TrainStep step(model, options, ...);                    // each launch by the fastest algorithm; the file has the measurements
//
// A tuner never stalls a start for long: TuneMode::cache measures nothing, and full stops measuring after `seconds`; what is left then goes
// by the algorithms' estimates, and is measured the next time. TuneMode::search takes its time: it measures anew, and every launch parameter of every
// algorithm (configs_to_search), however it is estimated. On a GPU the columns of instruction set and threads hold its architecture and 0.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/algorithm.h"

namespace falconet {

enum class TuneMode : std::uint8_t { off, cache, full, search };
TuneMode parse_tune_mode(std::string_view);    // throws a usage error
// tune.tsv below FALCONET_CACHE, else below falconet/ in XDG_CACHE_HOME or ~/.cache.
std::string tune_file();

// Every config worth trying, and over the ranges that may be set by hand the powers of two (or, of what need not be one, doublings), one range at a time.
std::vector<Config> configs_to_search(Candidate const&);

class Tuner {
 public:
  // Reads the file, if it is there. A line that is not a row is passed over: the file only remembers. seconds: for measuring, in all; 50, of a search 600.
  explicit Tuner(TuneMode mode, std::string file = tune_file(), std::optional<double> seconds = {});

  // The fastest choice among `candidates` that accept (baselines never, rivals where they may), or none: nobody measured it, and this tuner does not or has
  // no time left. prepared: what Algorithm::prepare does is done beforehand. threads: of a CPU.
  std::optional<Choice> choose(std::string_view operation, std::string const& problem, bool prepared, std::vector<Candidate> const& candidates,
                               DeviceFacts const& facts, bool rivals, ThreadPool* threads);
  // Measurements that were made elsewhere, microseconds by the text of a choice: beside what the problem's row has already.
  void remember(std::string_view operation, std::string const& problem, std::map<std::string, double> const& microseconds, DeviceFacts const& facts, int threads);
  // Microseconds by the text of a choice, as remembered; none if the problem was not measured.
  std::map<std::string, double> measurements(std::string_view operation, std::string const& problem, bool prepared, DeviceFacts const& facts, int threads) const;
  // Seconds of one choice; NaN if not measured.
  double measured(std::string_view operation, std::string const& problem, bool prepared, Choice const& choice, DeviceFacts const& facts, int threads) const;

  // Writes what was measured since, together with what other processes have written meanwhile.
  void save();

  struct Count {
    int remembered = 0, measured = 0, out_of_time = 0;   // problems asked for
    double seconds = 0;                                  // spent on measuring
  };
  Count const& count() const { return count_; }
  TuneMode mode() const { return mode_; }
  std::string const& file() const { return file_; }
  std::function<void(Count const&)> on_measured;         // after each problem

 private:
  // Everything before the choice, as it stands in the file -> choice -> microseconds.
  using Rows = std::map<std::string, std::map<std::string, double>>;
  static Rows read(std::string const& file);
  TuneMode mode_;
  std::string file_;
  double seconds_;
  Rows rows_, fresh_;
  Count count_;
};

}  // namespace falconet
