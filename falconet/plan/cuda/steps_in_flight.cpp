#include "falconet/plan/cuda/steps_in_flight.h"

#include <atomic>
#include <new>
#include <optional>

#include "falconet/base/error.h"
#include "falconet/plan/cuda/step_log.h"
#include "falconet/plan/cuda/when_finite.h"

namespace falconet {
namespace {

class CudaSteps final : public StepsInFlight {
 public:
  CudaSteps(CudaFedStep step, Feed& feed)
      : step_(std::move(step)), feed_(feed), cursor_(step_.stream->device(), sizeof(StepLogCursor)), memory_(sizeof(StepLog)), log_(new (memory_.data()) StepLog) {}
  ~CudaSteps() override {
    try {
      step_.stream->synchronize();               // nothing may write to the log any more
    } catch (...) {
    }
  }

  void start() override {
    *log_ = {};
    step_.parameters_to_device();
    fill_bytes(cursor_.data(), 0, cursor_.bytes(), *step_.stream);
    copy_to_device(step_.target.state, step_.host_state, sizeof(StepState), *step_.stream);
  }

  void launch() override {
    step_.parameters_to_device();
    feed_.before(*step_.stream);
    if (!*step_.ran || cuda_check() == CudaCheck::sync) return launch_plainly();
    if (!graph_) {
      graph_.emplace(*step_.stream, [&](Stream& stream) {
        step_.keep_beside(&cursor()->failed, [&] { feed_.launch(step_.target, stream); });
        step_.launch_logged(stream, [&](Stream& on) { log_step(on, step_.loss, step_.correct, cursor(), log_); });
        if (step_.heeded) {
          Stream conditional = stream.guarded_by(step_.loss.type.dtype == DType::f64 ? static_cast<void const*>(&cursor()->guard_f64) : &cursor()->guard_f32);
          step_.launch(step_.guarded, step_.all, conditional);
          advance(stream, step_.target.state, &cursor()->failed);
          return;
        }
        when_finite(stream, step_.loss.data, step_.loss.type.dtype, &cursor()->failed, [&](Stream& body) {
          step_.launch(step_.guarded, step_.all, body);
          advance(body, step_.target.state, &cursor()->failed);
        });
      });
    }
    graph_->launch(*step_.stream);
  }

  std::int64_t done() const override { return std::atomic_ref(log_->done).load(std::memory_order_acquire); }
  bool failed() const override { return std::atomic_ref(log_->failed).load(std::memory_order_acquire) != 0; }
  StepResult result(std::int64_t step) const override { return {log_->loss[step % StepLog::kept], log_->correct[step % StepLog::kept]}; }
  void check() const override { (void)step_.stream->idle(); }

  void finish() override {
    step_.stream->synchronize();
    if (failed()) {
      step_.restore_states();
      Stream stream = step_.stream->stream();
      feed_.launch(step_.target, stream);        // StepState still says which batch it was
      copy_to_host(step_.host_images.data, step_.target.images.data, step_.target.images.type.bytes(), *step_.stream);
      copy_to_host(step_.host_targets.data, step_.target.targets.data, step_.target.targets.type.bytes(), *step_.stream);
    }
    copy_to_host(step_.host_state, step_.target.state, sizeof(StepState), *step_.stream);
    step_.stream->synchronize();
  }

 private:
  StepLogCursor* cursor() const { return static_cast<StepLogCursor*>(cursor_.data()); }
  void launch_plainly() {
    Stream stream = step_.stream->stream();
    step_.keep_beside(&cursor()->failed, [&] { feed_.launch(step_.target, stream); });
    step_.launch(0, step_.guarded, stream);
    log_step(stream, step_.loss, step_.correct, cursor(), log_);
    step_.stream->synchronize();
    if (failed()) return;
    step_.launch(step_.guarded, step_.all, stream);
    advance(stream, step_.target.state, &cursor()->failed);
    step_.stream->synchronize();
    *step_.ran = true;
  }

  CudaFedStep step_;
  Feed& feed_;
  CudaMemory cursor_;
  PinnedMemory memory_;
  StepLog* log_;
  std::optional<CudaGraph> graph_;
};

}  // namespace

std::unique_ptr<StepsInFlight> cuda_steps_in_flight(CudaFedStep step, Feed& feed) { return std::make_unique<CudaSteps>(std::move(step), feed); }

}  // namespace falconet
