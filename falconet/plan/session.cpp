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
  writes_ = writes_parameters();
  if (plan_.device.kind == DeviceKind::cpu) {
    executor_ = cpu_executor(plan_.memory_bytes, std::move(threads), isa);
  } else {
    require_memory(plan_, *parameters_, named_memory(plan_.device), std::int64_t(cuda_memory(plan_.device.index).free));
    executor_ = cuda_executor(plan_.device.index, plan_.memory_bytes, parameters_, writes_);
  }
  for (auto const& l : plan_.prepare) prepare_.push_back(bind(l));
  for (auto const& l : plan_.step) launches_.push_back(bind(l));
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

Bound Session::bind(Launch const& l) const {
  std::vector<View> operands;
  for (auto const& s : l.operands) operands.push_back(at(s));
  auto const bytes = [&](std::int64_t offset, std::int64_t count) { return View{executor_->memory(offset), {DType::u8, Shape{count}, Layout::nchw}}; };
  View const scratch = bytes(l.scratch_offset, l.scratch_bytes), prepared = l.prepared_bytes ? bytes(l.prepared_offset, l.prepared_bytes) : View{};
  auto const& table = algorithms_of(l.op);
  Bound const bound = l.packs ? table.bind_preparation(l.problem, l.choice, plan_.device.kind, operands, prepared)
                              : table.bind(l.problem, l.choice, plan_.device.kind, operands, scratch, prepared);
  if (plan_.device.kind == DeviceKind::cpu) return bound;
  return [bound, who = l.layer + " (" + l.direction + ")"](Stream& stream) {
    try {
      bound(stream);
    } catch (Error const& e) {
      if (e.kind != ErrorKind::device) throw;
      throw Error(ErrorKind::device, who, e.message, e.where);
    }
  };
}

void Session::begin() {
  if (writes_) parameters_->changed();
  if (prepare_.empty()) return;
  auto const version = parameters_->version();
  if (version == prepared_from_) return;
  prepared_from_ = 0;
  executor_->run(prepare_, 0, int(prepare_.size()));
  prepared_from_ = version;
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
  begin();
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
  begin();
  Slot const *const loss = slot(plan_.outputs, guard), *const state = slot(plan_.inputs, "step"), *const images = slot(plan_.inputs, "images"), *const targets = slot(plan_.inputs, "targets");
  if (!loss || !state || !images || !targets) fail(ErrorKind::internal, "steps in flight need a training plan");
  Slot const* const correct = slot(plan_.outputs, "correct");
  int results = guarded;
  auto const writes_result = [&](Launch const& l) {
    auto const operands = algorithms_of(l.op).operands(l.problem);
    for (std::size_t i = 0; i < operands.size(); ++i)
      if (operands[i].written && l.operands[i].kind == Slot::memory && (l.operands[i].offset == loss->offset || (correct && l.operands[i].offset == correct->offset))) return true;
    return false;
  };
  while (results > 1 && !writes_result(plan_.step[std::size_t(results - 1)])) --results;
  return executor_->in_flight(launches_, {guarded, heeds_guard(guarded), *loss, *state, *images, *targets, correct, results}, feed);
}

std::unique_ptr<FedInference> Session::fed_inference(Feed& feed) {
  // What is computed from the parameters once is renewed between evaluations.
  class Prepared final : public FedInference {
   public:
    Prepared(Session& session, std::unique_ptr<FedInference> inner) : session_(session), inner_(std::move(inner)) {}
    void launch(std::int64_t sample) override {
      session_.begin();
      inner_->launch(sample);
    }
    View wait() override { return inner_->wait(); }

   private:
    Session& session_;
    std::unique_ptr<FedInference> inner_;
  };
  for (auto const& i : plan_.inputs)
    if (i.name == "images") return std::make_unique<Prepared>(*this, executor_->fed_inference(launches_, i.slot, feed));
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
  begin();
  seconds.resize(launches_.size());
  executor_->time(launches_, seconds);
}

}  // namespace falconet
