#include "falconet/train/epochs.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "falconet/base/error.h"
#include "falconet/data/loader.h"
#include "falconet/device/cuda/handles.h"
#include "falconet/plan/footprint.h"

namespace falconet {
namespace {

using Rate = std::function<float(std::int64_t)>;

class Waited final : public EpochRunner {
 public:
  Waited(TrainStep& step, data::Pipeline const& train, FeedOptions const& o, Rate rate)
      : step_(step), rate_(std::move(rate)), loader_(train, {.batch = o.batch, .seed = o.seed, .epoch = o.epoch, .index = o.index, .epochs = o.epochs}) {}
  void run(std::int64_t, std::int64_t first, std::function<bool(StepDone const&)> const& done) override {
    for (std::int64_t b = first; b < loader_.batches_per_epoch(); ++b) {
      auto const& batch = loader_.next();
      convert(batch.images, step_.images());
      convert(batch.labels, step_.targets());
      auto& state = step_.state();
      state.valid_count = batch.valid_count;
      state.sample = batch.sample;
      state.learning_rate = rate_(state.step);
      StepDone d{b, state.step + 1, batch.valid_count, 0, 0, state.learning_rate};
      d.loss = step_.run();
      d.correct = step_.correct();
      if (!done(d)) return;
    }
  }
  std::string text() const override { return "prepared on the CPU"; }

 private:
  TrainStep& step_;
  Rate rate_;
  data::Loader loader_;
};

class InFlight final : public EpochRunner {
 public:
  InFlight(TrainStep& step, data::Pipeline const& train, FeedOptions const& o, Rate rate, std::unique_ptr<EpochFeed> feed, std::string text)
      : step_(step), rate_(std::move(rate)), size_(train.size()), batch_(o.batch), batches_((size_ + batch_ - 1) / batch_), text_(std::move(text)), feed_(std::move(feed)),
        steps_(step.in_flight(*feed_)) {}

  void run(std::int64_t epoch, std::int64_t first, std::function<bool(StepDone const&)> const& done) override {
    auto& state = step_.state();
    state.sample = epoch * size_ + first * batch_;
    rates_.resize(std::size_t(batches_));
    for (std::int64_t b = 0; b < batches_; ++b) rates_[std::size_t(b)] = rate_(std::max<std::int64_t>(0, state.step - first + b));
    feed_->start_epoch(epoch, first, rates_);
    steps_->start();
    std::int64_t const wanted = batches_ - first;
    std::int64_t const before = state.step;
    std::int64_t launched = 0, told = 0;
    bool goes_on = true;
    while (told < launched || (goes_on && launched < wanted)) {
      while (goes_on && launched < wanted && launched - told < feed_->most_in_flight()) steps_->launch(), ++launched;
      if (!wait_for(told)) {
        steps_->finish();
        step_.fail_not_finite(steps_->result(told).loss);
      }
      for (std::int64_t const arrived = steps_->done(); told < arrived; ++told) {
        auto const [loss, correct] = steps_->result(told);
        std::int64_t const b = first + told;
        goes_on &= done({b, before + told + 1, std::int32_t(std::min(batch_, size_ - b * batch_)), loss, correct, rates_[std::size_t(b)]});
      }
    }
    steps_->finish();
  }
  std::string text() const override { return text_; }

 private:
  // Until more than `told` steps are done; false if the next one's loss is not finite. A fault on the GPU throws.
  bool wait_for(std::int64_t told) const {
    for (int turn = 0;; ++turn) {
      if (steps_->done() > told) return true;
      if (steps_->failed()) return steps_->done() > told;
      if (turn < 200) std::this_thread::yield();
      else std::this_thread::sleep_for(std::chrono::microseconds(20));
      if (turn % 1000 == 999) steps_->check();
    }
  }

  TrainStep& step_;
  Rate rate_;
  std::int64_t size_, batch_, batches_;
  std::string text_;
  std::unique_ptr<EpochFeed> feed_;
  std::unique_ptr<StepsInFlight> steps_;
  std::vector<float> rates_;
};

}  // namespace

std::unique_ptr<EpochRunner> epoch_runner(Model& model, TrainStep& step, data::Pipeline const& train, FeedOptions const& o, Feeding feeding, Rate rate) {
  bool const labels = step.targets().type.dtype == DType::i32;
  if (model.device().kind == DeviceKind::cpu || !labels) {
    if (feeding != Feeding::automatic) fail(ErrorKind::usage, labels ? "only a GPU is fed; on the CPU batches are prepared where they are used" : "only labels are fed to a GPU");
    return std::make_unique<Waited>(step, train, o, std::move(rate));
  }
  std::size_t const free = cuda_memory(model.device().index).free;
  std::string const refusal = feeding == Feeding::automatic ? resident_refusal(train, free) : "";
  if (feeding == Feeding::resident) require_room(resident_bytes(train), room_for_data(free), step.session().plan(), *model.parameters(), std::int64_t(free));
  bool const staged = feeding == Feeding::staged || !refusal.empty();
  auto feed = staged ? staged_feed(train, o, model.device()) : resident_feed(train, o, model.device(), *model.threads());
  return std::make_unique<InFlight>(step, train, o, std::move(rate), std::move(feed),
                                    staged ? "staged through pinned memory" + (refusal.empty() ? "" : " (" + refusal + ")") : "resident on " + model.device().text());
}

}  // namespace falconet
