// Plans of networks for fixed facts, so that they are the same on every machine.
#pragma once
#include "falconet/nn/models.h"
#include "falconet/plan/step.h"

namespace falconet {

inline ImageSpec spec_of(Shape image, int classes) {
  auto const c = std::size_t(image[0]);
  return {image, std::vector<float>(c, 0.5f), std::vector<float>(c, 0.25f), std::vector<std::string>(std::size_t(classes), "class")};
}

// Facts that do not depend on this machine: golden plans are the same everywhere.
inline DeviceFacts fixed_facts() {
  DeviceFacts f;
  f.name = "golden";
  f.isa = Isa::avx512;
  return f;
}

// Those of an H200. A plan is a pure function of graph and facts: it compiles where no GPU is.
inline DeviceFacts hopper_facts() {
  DeviceFacts f;
  f.device = {DeviceKind::cuda, 0};
  f.name = "golden";
  f.compute_capability = 90;
  f.multiprocessors = 132;
  f.shared_memory_bytes = 232448;
  f.memory_bytes = std::int64_t(140) << 30;
  return f;
}

inline Plan plan_of(Model const& model, int batch, Precision precision, DeviceFacts const& facts, Plan const* recorded = nullptr,
             std::map<std::string, std::string> pins = {}) {
  StepOptions o;
  o.batch = batch;
  o.precision = precision;
  Graph graph;
  CompileContext context;
  OptimizerOptions sgd;
  sgd.momentum = 0.9;
  trace_training(graph, context, model, o, cross_entropy(), sgd);
  context.options.facts = facts;
  context.options.recorded = recorded;
  context.options.pins = std::move(pins);
  return compile(graph, context);
}

inline Plan training_plan(std::string_view name, int batch, DType precision = DType::f32, Plan const* recorded = nullptr,
                   std::map<std::string, std::string> pins = {}) {
  auto const& d = models::find(name);
  Model const model(spec_of(d.image, d.classes), d.make(d.classes), {.device = "cpu", .threads = 1});
  return plan_of(model, batch, precision, fixed_facts(), recorded, std::move(pins));
}

inline Plan inference_plan(Model const& model, int batch, DType precision, DeviceFacts const& facts) {
  StepOptions o;
  o.batch = batch;
  o.precision = precision;
  Graph graph;
  CompileContext context;
  trace_inference(graph, context, model, o);
  context.options.facts = facts;
  return compile(graph, context);
}
inline Plan inference_plan(std::string_view name, int batch, DType precision = DType::f32) {
  auto const& d = models::find(name);
  Model const model(spec_of(d.image, d.classes), d.make(d.classes), {.device = "cpu", .threads = 1});
  return inference_plan(model, batch, precision, fixed_facts());
}

}  // namespace falconet
