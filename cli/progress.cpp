#include "cli/progress.h"

#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstdio>

#include "cli/measure.h"
#include "cli/table.h"
#include "falconet/base/format.h"

namespace falconet::cli {
namespace {

volatile std::sig_atomic_t stop = 0;
extern "C" void on_signal(int) { stop = 1; }

std::string clock_text(double seconds) {
  auto const s = std::int64_t(std::lround(seconds));
  return s >= 3600 ? format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60) : format("{}:{:02}", s / 60, s % 60);
}

}  // namespace

void catch_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = int(SA_RESETHAND);
  for (int signal : {SIGINT, SIGTERM}) sigaction(signal, &action, nullptr);
  struct sigaction before {};
  if (sigaction(SIGHUP, nullptr, &before) == 0 && before.sa_handler != SIG_IGN) sigaction(SIGHUP, &action, nullptr);   // nohup has it ignored
}
bool stop_requested() { return stop != 0; }

ProgressLine::ProgressLine(int batch) : batch_(batch), terminal_(isatty(STDERR_FILENO)), start_(now()), epoch_start_(start_) {}

void ProgressLine::clear() {
  if (shown_) std::fputs("\r\033[K", stderr);
  shown_ = false;
}

void ProgressLine::message(std::string const& text) {
  clear();
  std::fprintf(stderr, "%s\n", text.c_str());
}

double ProgressLine::eta(Progress const& p) const {
  std::int64_t const done = (p.epoch - 1) * p.batches + p.batch, all = p.epochs * p.batches;
  return done > first_step_ ? (now() - start_) / double(done - first_step_) * double(all - done) : 0;
}

void ProgressLine::step(Progress const& p) {
  double const time = now();
  if (first_step_ < 0) first_step_ = (p.epoch - 1) * p.batches + p.batch - 1, first_of_epoch_ = p.batch - 1;
  if (p.batch == p.batches) epoch_end_ = time;
  if (!terminal_ || (time - last_shown_ < 0.1 && p.batch != p.batches && shown_)) return;
  last_shown_ = time;
  shown_ = true;
  double const rate = double((p.batch - first_of_epoch_) * batch_) / std::max(time - epoch_start_, 1e-9);
  std::string const line = format("epoch {}/{}  batch {}/{}  loss {:.4f}  accuracy {:.4f}  {} images/s  eta {}", p.epoch, p.epochs, p.batch,
                                  p.batches, p.mean_loss, p.accuracy, with_commas(std::int64_t(rate)), clock_text(eta(p)));
  std::fprintf(stderr, "\r%s\033[K", line.c_str());
  std::fflush(stderr);
}

std::string ProgressLine::epoch(EpochResult const& r, Progress const& last) {
  clear();
  double const rate = double((last.batches - first_of_epoch_) * batch_) / std::max(epoch_end_ - epoch_start_, 1e-9);
  std::string line =
      format("epoch {}/{}  {} batches  loss {:.4f}  accuracy {:.4f}", r.epoch, last.epochs, last.batches, r.train_loss, r.train_accuracy);
  if (!std::isnan(r.val_accuracy)) line += format("  val loss {:.4f}  val accuracy {:.4f}", r.val_loss, r.val_accuracy);
  line += format("  {} images/s  eta {}", with_commas(std::int64_t(rate)), clock_text(eta(last)));
  std::fprintf(stderr, "%s\n", line.c_str());
  epoch_start_ = now();
  first_of_epoch_ = 0;
  return line;
}

}  // namespace falconet::cli
