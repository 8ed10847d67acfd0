#include "falconet/plan/step.h"

#include <cmath>
#include <limits>

#include "falconet/base/error.h"
#include "falconet/ops/softmax/op.h"

namespace falconet {
namespace {

Var image_input(Graph& graph, Model const& model, int batch) {
  if (batch < 1) fail(ErrorKind::usage, "batch should be at least 1, not " + std::to_string(batch));
  auto const& s = model.spec().image;
  return graph.input("images", {DType::f32, Shape{batch, s[0], s[1], s[2]}, Layout::nchw});
}

CompileOptions compile_options(Model const& model, StepOptions const& o) {
  CompileOptions c;
  c.facts = model.facts();
  c.precision = o.precision;
  c.rivals = o.rivals;
  c.fuse = o.fuse;
  c.fuse_baselines = o.fuse_baselines;
  c.memory = o.memory;
  c.pins = o.pins;
  c.recorded = o.recorded;
  if (o.tuner && o.tuner->mode() != TuneMode::off) {
    c.tuner = o.tuner.get();
    c.threads = model.threads().get();
  }
  return c;
}

std::unique_ptr<Session> compile_and_bind(Model& model, Graph& graph, CompileContext& context, StepOptions const& o, std::shared_ptr<ThreadPool> threads) {
  DType const masters = o.precision.type == DType::f64 ? DType::f64 : DType::f32;
  if (model.parameters()->dtype() != masters) {
    // Converting moves the weights; a step that is bound to them would go on reading where they were.
    if (model.parameters().use_count() > 1)
      fail(ErrorKind::usage, "the model's weights are " + std::string(name(model.parameters()->dtype())) + " and in use by another step; precision " +
                                 std::string(name(o.precision)) + " needs a model of its own");
    model.parameters()->convert(masters);
  }
  Plan plan = compile(graph, context);
  model.parameters()->adopt(graph);
  return std::make_unique<Session>(std::move(plan), model.parameters(), std::move(threads), model.options().isa);
}

double scalar(View v) { return v.type.dtype == DType::f64 ? *v.as<double>() : double(*v.as<float>()); }

}  // namespace

void trace_training(Graph& graph, CompileContext& context, Model const& model, StepOptions const& o, LossFunction const& loss, OptimizerOptions const& optimizer) {
  context.options = compile_options(model, o);
  graph.training = true;
  Var output = model.net()(image_input(graph, model, o.batch));
  Var target = loss.labels ? graph.input("targets", {DType::i32, Shape{o.batch}, Layout::nchw})
                           : graph.input("targets", {DType::f32, output.shape(), Layout::nchw});
  auto results = loss.apply(output, target);
  context.loss = results.loss;
  context.optimizer = optimizer;
  context.outputs.emplace_back("loss", results.loss.id());
  if (results.correct) context.outputs.emplace_back("correct", results.correct.id());
}

void trace_inference(Graph& graph, CompileContext& context, Model const& model, StepOptions const& o) {
  context.options = compile_options(model, o);
  Var output = model.net()(image_input(graph, model, o.batch));
  context.outputs.emplace_back("output", output.id());
  if (output.shape().rank() == 2) context.outputs.emplace_back("probability", channel_softmax(output, "softmax").id());
}

TrainStep::TrainStep(Model& model, StepOptions o, LossFunction loss, OptimizerOptions optimizer) : batch_(o.batch) {
  Graph graph;
  CompileContext context;
  trace_training(graph, context, model, o, loss, optimizer);
  session_ = compile_and_bind(model, graph, context, o, model.threads());
  images_ = session_->input("images");
  targets_ = session_->input("targets");
  loss_ = session_->output("loss");
  for (auto const& out : session_->plan().outputs)
    if (out.name == "correct") correct_ = session_->output("correct");
  auto const& launches = session_->plan().step;
  update_ = int(launches.size());
  while (update_ > 0 && launches[std::size_t(update_ - 1)].direction == "update") --update_;
  state().seed = model.options().seed;
  state().valid_count = batch_;
  session_->keep_states(update_);
}

double TrainStep::run() {
  bool const updated = session_->step(update_, "loss");
  double const loss = scalar(loss_);
  if (!updated) fail_not_finite(loss);
  ++state().step;
  state().sample += state().valid_count;
  return loss;
}
void TrainStep::fail_not_finite(double loss) {
  std::string layer = "the loss";
  for (int i = 0; i < update_ && layer == "the loss"; ++i) {         // again, one by one: the weights are still those of before
    session_->run(i, i + 1);
    auto const& launch = session_->plan().step[std::size_t(i)];
    for (auto const& t : session_->results_of(i))
      if (!all_finite(t.view())) layer = launch.layer + " (" + launch.direction + ")";
  }
  session_->restore_states();
  fail(ErrorKind::numeric, "step " + std::to_string(state().step + 1) + ": the loss is " + (std::isnan(loss) ? "NaN" : "infinite") + "; the first layer that is not finite is " +
                               layer + "; a lower learning rate may help");
}
double TrainStep::correct() const { return correct_ ? scalar(correct_) : std::numeric_limits<double>::quiet_NaN(); }

InferenceStep::InferenceStep(Model& model, StepOptions o, std::shared_ptr<ThreadPool> threads) : batch_(o.batch) {
  Graph graph;
  CompileContext context;
  trace_inference(graph, context, model, o);
  session_ = compile_and_bind(model, graph, context, o, threads ? std::move(threads) : model.threads());
  images_ = session_->input("images");
  output_ = session_->output("output");
  for (auto const& out : session_->plan().outputs)
    if (out.name == "probability") probability_ = session_->output("probability");
}

}  // namespace falconet
