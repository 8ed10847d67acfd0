#include "falconet/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <utility>

#include "falconet/base/error.h"
#include "falconet/base/format.h"
#include "falconet/train/epochs.h"
#include "falconet/train/model_file.h"
#include "falconet/train/run_folder.h"

namespace falconet {
namespace {
// An epoch whose mean loss is so many times the first loss (or 1, if that is more) has diverged, finite as it may be. Runs that learn
// stay below 10; one that has been carried away by its learning rate passes any bound within some steps.
constexpr double diverged = 1e4;
constexpr std::int64_t check_every = 100;               // steps of an epoch, and at its end

void check_divergence(RunPosition const& at) {
  double const mean = at.loss_sum / double(at.seen), bound = diverged * std::max(1.0, at.first_loss);
  if (std::isnan(at.first_loss) || !(mean > bound)) return;
  fail(ErrorKind::numeric, format("step {}: the loss has diverged: its mean over epoch {} is {:.3g}, that of the run's first step was {:.3g}; a lower "
                                  "learning rate may help", at.state.step, at.epoch + 1, mean, at.first_loss));
}

void check_weights(Model const& model, std::int64_t step) {
  for (auto const& e : std::as_const(*model.parameters()).entries())
    if (!all_finite(e.tensor.view()))
      fail(ErrorKind::numeric, format("step {}: {} is not finite; a lower learning rate may help", step, e.name));
}

LossFunction const& over_labels(LossFunction const& loss) {
  if (!loss.labels)
    fail(ErrorKind::usage, "a Trainer hands labels to its loss, such as cross_entropy(); " + loss.name + " wants targets shaped as the output: use TrainStep with a loop of your own");
  return loss;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}
}  // namespace

Trainer::Trainer(Model& model, TrainerOptions options)
    : model_(model),
      options_(std::move(options)),
      step_(model, {.batch = options_.batch, .precision = options_.precision, .rivals = options_.rivals, .fuse = options_.fuse, .memory = options_.memory, .pins = options_.pins, .recorded = options_.recorded, .tuner = options_.tuner},
            over_labels(options_.loss), options_.optimizer.options) {}

FitResult Trainer::fit(data::Pipeline const& train, FitOptions o) {
  if (o.epochs < 1) fail(ErrorKind::usage, "epochs should be at least 1, not " + std::to_string(o.epochs));
  if (train.size() < 1) fail(ErrorKind::data, "the training set is empty");
  if (!(train.spec().image == model_.spec().image))
    fail(ErrorKind::data, "the data's images are " + train.spec().image.text() + ", the model wants " + model_.spec().image.text());
  if (std::int64_t(train.spec().labels.size()) > model_.output_shape()[1])
    fail(ErrorKind::data, "the data has " + std::to_string(train.spec().labels.size()) + " classes, the model " + std::to_string(model_.output_shape()[1]));

  std::shared_ptr<RunFolder> folder = o.folder;
  RunPosition at;
  at.state = step_.state();
  at.plan = step_.session().plan().text();
  at.settings = o.settings;
  at.state.seed = model_.options().seed;
  at.batch_size = options_.batch;
  at.set_size = train.size();
  if (folder && !o.run.empty()) fail(ErrorKind::usage, "a run has one folder: `run` or `folder`, not both");
  if (!o.run.empty()) folder = std::make_shared<RunFolder>(o.run);
  if (folder) {
    if (o.resume) at = folder->read_checkpoint(model_, at, o.on_message ? o.on_message : [](std::string const&) {});
    else if (folder->has_checkpoint()) fail(ErrorKind::file, folder->path() + " holds a run already; resume it, or name another folder");
    if (o.resume) folder->write_results(at.epochs);     // a full disk or kill -9 may have left rows that are newer than the checkpoint
    folder->write_plan(step_.session().plan());
  } else if (o.resume) {
    fail(ErrorKind::usage, "resuming needs a run folder");
  }

  FitResult result;
  if (at.finished && at.epoch >= o.epochs) {
    result.epochs = at.epochs;
    result.best_accuracy = at.best_accuracy;
    result.best_epoch = at.best_epoch;
    result.was_finished = true;
    return result;
  }
  at.finished = false;
  step_.state() = at.state;

  std::int64_t const batches = (train.size() + options_.batch - 1) / options_.batch, total = batches * o.epochs;
  auto const runner = epoch_runner(model_, step_, train, {.batch = options_.batch, .seed = model_.options().seed, .epoch = at.epoch, .index = at.batch, .epochs = o.epochs}, o.feed,
                                   [&](std::int64_t step) { return float(options_.optimizer.lr * options_.schedule.factor(step, total, batches)); });
  if (o.on_feed) o.on_feed(runner->text());
  std::optional<Evaluator> evaluator;
  if (o.validate && o.validate->size() > 0) {
    evaluator.emplace(model_, EvaluateOptions{.batch = o.validation_batch, .precision = options_.precision, .feed = o.feed == Feeding::staged ? Feeding::staged : Feeding::automatic});
    evaluator->prepare(o.validate->size());               // what cannot be compiled, or finds no memory, is said now
  }

  auto const begin = std::chrono::steady_clock::now();
  auto checkpoint = [&] {
    at.state = step_.state();
    if (folder) folder->write_checkpoint(model_, at);
  };
  while (at.epoch < o.epochs && !result.stopped) {
    auto const epoch_begin = std::chrono::steady_clock::now();
    runner->run(at.epoch, at.batch, [&](StepDone const& done) {
      at.loss_sum += done.loss * done.valid_count;
      at.right += done.correct;
      at.seen += done.valid_count;
      ++at.batch;
      if (done.step == 1) at.first_loss = done.loss;
      if (at.batch % check_every == 0 || at.batch == batches) {
        at.state.step = done.step;
        check_divergence(at);
      }
      if (o.on_step) {
        Progress const p{at.epoch + 1, o.epochs, at.batch, batches, done.loss, at.loss_sum / double(at.seen), at.right / double(at.seen), done.learning_rate, seconds_since(begin)};
        if (!o.on_step(p)) result.stopped = true;
      }
      return !result.stopped;
    });
    if (at.batch < batches) break;                       // stopped in mid-epoch
    check_weights(model_, step_.state().step);           // before they are kept
    EpochResult r;
    r.epoch = at.epoch + 1;
    r.step = step_.state().step;
    r.train_loss = at.loss_sum / double(at.seen);
    r.train_accuracy = at.right / double(at.seen);
    r.learning_rate = step_.state().learning_rate;
    r.val_loss = r.val_accuracy = std::numeric_limits<double>::quiet_NaN();
    if (evaluator) {
      auto const e = (*evaluator)(*o.validate);
      r.val_loss = e.loss;
      r.val_accuracy = e.accuracy;
    }
    double const score = evaluator ? r.val_accuracy : r.train_accuracy;
    bool const best = score > at.best_accuracy;
    if (best) at.best_accuracy = score, at.best_epoch = r.epoch;
    r.seconds = seconds_since(epoch_begin);
    at.epochs.push_back(r);
    ++at.epoch;
    at.batch = 0;
    at.loss_sum = at.right = 0;
    at.seen = 0;
    at.finished = at.epoch == o.epochs;
    if (folder) {
      folder->write_results(at.epochs);
      if (best) save_model(model_, folder->file("best.safetensors"));
    }
    checkpoint();
    if (o.on_epoch && !o.on_epoch(r)) result.stopped = at.epoch < o.epochs;
  }
  if (result.stopped) checkpoint();
  result.epochs = at.epochs;
  result.best_accuracy = at.best_accuracy;
  result.best_epoch = at.best_epoch;
  return result;
}

}  // namespace falconet
