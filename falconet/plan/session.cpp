#include "falconet/plan/session.h"

#include <map>
#include <new>

#include "falconet/base/error.h"
#include "falconet/device/cuda/handles.h"
#include "falconet/ops/algorithms.h"
#include "falconet/plan/footprint.h"

namespace falconet {

Session::Session(Plan plan, std::shared_ptr<Parameters> parameters, std::shared_ptr<ThreadPool> threads, Isa isa)
    : plan_(std::move(plan)), parameters_(std::move(parameters)) {
  if (plan_.device.kind == DeviceKind::cpu) {
    executor_ = cpu_executor(plan_.memory_bytes, std::move(threads), isa);
  } else {
    require_memory(plan_, *parameters_, std::int64_t(cuda_memory(plan_.device.index).free));
    executor_ = cuda_executor(plan_.device.index, plan_.memory_bytes, parameters_, writes_parameters());
  }
  for (auto const& l : plan_.step) {
    std::vector<View> operands;
    for (auto const& s : l.operands) operands.push_back(at(s));
    View scratch{executor_->memory(l.scratch_offset), {DType::u8, Shape{l.scratch_bytes}, Layout::nchw}};
    Bound const bound = algorithms_of(l.op).bind(l.problem, l.choice, plan_.device.kind, operands, scratch);
    if (plan_.device.kind == DeviceKind::cpu) launches_.push_back(bound);
    else launches_.push_back([bound, who = l.layer + " (" + l.direction + ")"](Stream& stream) {
      try {
        bound(stream);
      } catch (Error const& e) {
        if (e.kind != ErrorKind::device) throw;
        throw Error(ErrorKind::device, who, e.message, e.where);
      }
    });
  }
  std::vector<int> lane;
  std::vector<std::vector<int>> waits;
  for (auto const& l : plan_.step) lane.push_back(l.lane), waits.push_back(l.waits);
  executor_->set_lanes(std::move(lane), std::move(waits));
  for (auto const& i : plan_.inputs) {
    inputs_.push_back(executor_->input(i.slot));
    if (i.name == "step") state_ = new (inputs_.back().data) StepState;
  }
  for (auto const& o : plan_.outputs) outputs_.push_back(executor_->output(o.slot));
}

View Session::at(Slot const& s) const {
  if (s.kind == Slot::memory) return {executor_->memory(s.offset), s.type};
  auto* entry = std::as_const(*parameters_).find(s.name);
  if (!entry) fail(ErrorKind::model, "the plan reads '" + s.name + "', which the weights lack");
  if (!(entry->tensor.type() == s.type)) fail(ErrorKind::model, s.name + ": the plan wants " + s.type.text() + ", the weights hold " + entry->tensor.type().text());
  return {executor_->parameter(*entry), s.type};
}

template <class Found>
void Session::each_written_parameter(int begin, int end, Found const& found) const {
  for (int n = begin; n < end; ++n) {
    auto const& l = plan_.step[std::size_t(n)];
    auto const operands = algorithms_of(l.op).operands(l.problem);
    for (std::size_t i = 0; i < operands.size(); ++i)
      if (operands[i].written && l.operands[i].kind == Slot::parameter) found(l.operands[i]);
  }
}
bool Session::writes_parameters() const {
  bool any = false;
  each_written_parameter(0, int(plan_.step.size()), [&](Slot const&) { any = true; });
  return any;
}
std::vector<View> Session::parameters_written_by(int begin, int end) const {
  std::map<std::string, View> written;
  each_written_parameter(begin, end, [&](Slot const& s) { written.emplace(s.name, at(s)); });
  std::vector<View> out;
  for (auto const& [name, view] : written) out.push_back(view);
  return out;
}

View Session::input(std::string_view name) const {
  for (std::size_t i = 0; i < plan_.inputs.size(); ++i)
    if (plan_.inputs[i].name == name) return inputs_[i];
  fail(ErrorKind::internal, "the plan has no input '" + std::string(name) + "'");
}
View Session::output(std::string_view name) const {
  for (std::size_t i = 0; i < plan_.outputs.size(); ++i)
    if (plan_.outputs[i].name == name) return outputs_[i];
  fail(ErrorKind::internal, "the plan has no output '" + std::string(name) + "'");
}

bool Session::heeds_guard(int guarded) {
  if (!heeded_) {
    heeded_ = true;
    for (std::size_t i = std::size_t(guarded); i < plan_.step.size(); ++i)
      *heeded_ &= algorithms_of(plan_.step[i].op).heeds_guard(plan_.step[i].choice, plan_.device.kind);
  }
  return *heeded_;
}
bool Session::step(int guarded, std::string_view guard) {
  for (auto const& o : plan_.outputs)
    if (o.name == guard) return executor_->step(launches_, guarded, &o.slot, heeds_guard(guarded));
  fail(ErrorKind::internal, "the plan has no output '" + std::string(guard) + "'");
}

std::unique_ptr<StepsInFlight> Session::in_flight(int guarded, std::string_view guard, Feed& feed) {
  auto const slot = [](std::vector<NamedSlot> const& list, std::string_view name) -> Slot const* {
    for (auto const& s : list)
      if (s.name == name) return &s.slot;
    return nullptr;
  };
  Slot const *const loss = slot(plan_.outputs, guard), *const state = slot(plan_.inputs, "step"), *const images = slot(plan_.inputs, "images"), *const targets = slot(plan_.inputs, "targets");
  if (!loss || !state || !images || !targets) fail(ErrorKind::internal, "steps in flight need a training plan");
  return executor_->in_flight(launches_, {guarded, heeds_guard(guarded), *loss, *state, *images, *targets, slot(plan_.outputs, "correct")}, feed);
}

std::unique_ptr<FedInference> Session::fed_inference(Feed& feed) {
  for (auto const& i : plan_.inputs)
    if (i.name == "images") return executor_->fed_inference(launches_, i.slot, feed);
  fail(ErrorKind::internal, "the plan has no images");
}

std::vector<Tensor> Session::results_of(int launch) const {
  auto const& l = plan_.step[std::size_t(launch)];
  auto const operands = algorithms_of(l.op).operands(l.problem);
  std::vector<Tensor> out;
  for (std::size_t i = 0; i < operands.size(); ++i)
    if (operands[i].written) out.push_back(executor_->read(at(l.operands[i])));
  return out;
}

void Session::step_timed(std::vector<double>& seconds) {
  seconds.resize(launches_.size());
  executor_->time(launches_, seconds);
}

}  // namespace falconet
