#include "falconet/plan/session.h"

#include <chrono>
#include <cstring>
#include <new>

#include "falconet/base/error.h"
#include "falconet/ops/algorithms.h"

namespace falconet {

Session::Session(Plan plan, std::shared_ptr<Parameters> parameters, std::shared_ptr<ThreadPool> threads, Isa isa)
    : plan_(std::move(plan)), parameters_(std::move(parameters)), threads_(std::move(threads)), stream_(*threads_, isa), memory_(std::size_t(plan_.memory_bytes)) {
  if (plan_.device.kind != DeviceKind::cpu) fail(ErrorKind::device, "a session on " + plan_.device.text() + " needs a build with CUDA");
  if (memory_.bytes()) std::memset(memory_.data(), 0, memory_.bytes());
  for (auto const& l : plan_.step) {
    std::vector<View> operands;
    for (auto const& s : l.operands) operands.push_back(at(s));
    View scratch{static_cast<char*>(memory_.data()) + l.scratch_offset, {DType::u8, Shape{l.scratch_bytes}, Layout::nchw}};
    launches_.push_back(algorithms_of(l.op).bind(l.problem, l.choice, plan_.device.kind, operands, scratch));
  }
  for (auto const& i : plan_.inputs)
    if (i.name == "step") state_ = new (at(i.slot).data) StepState;
}

View Session::at(Slot const& s) const {
  if (s.kind == Slot::memory) return {static_cast<char*>(memory_.data()) + s.offset, s.type};
  auto* entry = parameters_->find(s.name);
  if (!entry) fail(ErrorKind::model, "the plan reads '" + s.name + "', which the weights lack");
  if (!(entry->tensor.type() == s.type)) fail(ErrorKind::model, s.name + ": the plan wants " + s.type.text() + ", the weights hold " + entry->tensor.type().text());
  return entry->tensor.view();
}

View Session::input(std::string_view name) const {
  for (auto const& i : plan_.inputs)
    if (i.name == name) return at(i.slot);
  fail(ErrorKind::internal, "the plan has no input '" + std::string(name) + "'");
}
View Session::output(std::string_view name) const {
  for (auto const& o : plan_.outputs)
    if (o.name == name) return at(o.slot);
  fail(ErrorKind::internal, "the plan has no output '" + std::string(name) + "'");
}

void Session::run(int begin, int end) {
  for (int i = begin; i < end; ++i) launches_[std::size_t(i)](stream_);
}

std::vector<View> Session::results_of(int launch) const {
  auto const& l = plan_.step[std::size_t(launch)];
  auto const operands = algorithms_of(l.op).operands(l.problem);
  std::vector<View> out;
  for (std::size_t i = 0; i < operands.size(); ++i)
    if (operands[i].written) out.push_back(at(l.operands[i]));
  return out;
}

void Session::step_timed(std::vector<double>& seconds) {
  seconds.resize(launches_.size());
  for (std::size_t i = 0; i < launches_.size(); ++i) {
    auto const start = std::chrono::steady_clock::now();
    launches_[i](stream_);
    seconds[i] += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
}

}  // namespace falconet
