// The two things a network is compiled for: a training step and inference. Each traces the model's network at a batch size,
// compiles it and binds it to memory; all of a model's steps share its parameters.
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "falconet/nn/layers.h"
#include "falconet/nn/model.h"
#include "falconet/plan/compile.h"
#include "falconet/plan/session.h"
#include "falconet/plan/tune.h"

namespace falconet {

// How a step is compiled; the same for training and inference.
struct StepOptions {
  int batch = 64;
  Precision precision = DType::f32;
  bool rivals = false, fuse = true;
  bool fuse_baselines = false;                 // as in CompileOptions
  std::int64_t memory = 0;                     // training: bytes on the device, as in CompileOptions; 0: no limit
  std::map<std::string, std::string> pins = {};
  Plan const* recorded = nullptr;
  std::shared_ptr<Tuner> tuner = {};           // chooses by measurement (plan/tune.h)
};

// Forward, loss, backward and update. For a training loop of one's own:
//   TrainStep step(model, {.batch = 64}, cross_entropy(), sgd({...}).options);
//   fill step.images(), step.targets(); set step.state().learning_rate and valid_count;  double loss = step.run();
class TrainStep {
 public:
  TrainStep(Model& model, StepOptions options, LossFunction loss, OptimizerOptions optimizer);
  View images() const { return images_; }      // f32 [batch,C,H,W] nhwc, normalised
  View targets() const { return targets_; }    // i32 [batch] labels, or f32 shaped as the output
  StepState& state() const { return session_->state(); }
  // One step on what images and targets hold. Advances state().step and state().sample. Returns the loss; throws a numeric
  // error that names the first layer with NaN or infinity, before the update, if the loss is not finite: weights, optimizer and
  // running statistics are then those of before the step.
  double run();
  // On a GPU: steps that nobody waits for, fed there. They advance state() as run() does. One at a time.
  std::unique_ptr<StepsInFlight> in_flight(Feed& feed) { return session_->in_flight(update_, "loss", feed); }
  // The numeric error of run() for what images and targets hold.
  [[noreturn]] void fail_not_finite(double loss);
  double correct() const;                      // rows of the last batch classified right; NaN for losses without classes
  Session& session() const { return *session_; }
  int batch() const { return batch_; }

 private:
  std::unique_ptr<Session> session_;
  View images_, targets_, loss_, correct_;
  int batch_, update_ = 0;                     // the first launch of the update
};

// Forward only, with the running statistics. Outputs: the network's output and, for outputs [N, classes], probabilities.
class InferenceStep {
 public:
  InferenceStep(Model& model, StepOptions options, std::shared_ptr<ThreadPool> threads = nullptr);
  View images() const { return images_; }
  View output() const { return output_; }
  View probability() const { return probability_; }
  void run() { session_->step(); }
  // On a GPU: batches fed there, whose images nobody writes here.
  std::unique_ptr<FedInference> fed(Feed& feed) { return session_->fed_inference(feed); }
  Session& session() const { return *session_; }
  int batch() const { return batch_; }

 private:
  std::unique_ptr<Session> session_;
  View images_, output_, probability_;
  int batch_;
};

// The graphs that the two are compiled from, and their contexts: for `summary` and for tests of the passes.
void trace_training(Graph&, CompileContext&, Model const&, StepOptions const&, LossFunction const&, OptimizerOptions const&);
void trace_inference(Graph&, CompileContext&, Model const&, StepOptions const&);

}  // namespace falconet
