#include "falconet/ops/alone.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>

#include "falconet/base/error.h"
#include "falconet/base/nearest.h"
#include "falconet/device/cuda/handles.h"
#include "falconet/ops/algorithms.h"

namespace falconet {

std::vector<Tensor> operands_of(std::string_view operation, std::string const& problem) {
  std::vector<Tensor> out;
  for (auto const& o : algorithms_of(operation).operands(problem)) {
    out.push_back(o.alias >= 0 ? Tensor() : Tensor(o.type));
    if (o.alias < 0 && o.type.bytes()) std::memset(out.back().as<void>(), 0, o.type.bytes());
  }
  return out;
}
std::vector<View> views(std::vector<Tensor> const& tensors) {
  std::vector<View> out;
  for (auto const& t : tensors) out.push_back(t.view());
  return out;
}

struct Alone::State {
  std::vector<Operand> operands;
  std::vector<View> host, bound;           // bound: where launches find them
  Choice choice;
  Bound launch;
  Buffer host_scratch;
  ThreadPool* threads;
  Isa isa;
  std::optional<CudaStream> stream;        // of a GPU
  std::vector<CudaMemory> memory;
  std::optional<CudaGraph> graph;
  std::vector<CudaEvent> events;

  void bring_over() {
    for (std::size_t i = 0; i < operands.size(); ++i)
      if (operands[i].alias < 0) copy_to_device(bound[i].data, host[i].data, operands[i].type.bytes(), *stream);
  }
};

Alone::Alone(std::string_view operation, std::string const& problem, Choice choice, Device device, std::span<View const> host, ThreadPool& threads, Isa isa)
    : state_(std::make_unique<State>()) {
  auto& s = *state_;
  auto const known = operations_with_algorithms();
  if (std::find(known.begin(), known.end(), operation) == known.end()) fail_unknown("operation", operation, std::vector<std::string>(known.begin(), known.end()));
  AlgorithmTable const& table = algorithms_of(operation);
  s.operands = table.operands(problem);
  s.threads = &threads, s.isa = isa;
  if (host.size() != s.operands.size())
    fail(ErrorKind::usage, std::string(operation) + " '" + problem + "' has " + std::to_string(s.operands.size()) + " operands, not " + std::to_string(host.size()));
  for (std::size_t i = 0; i < host.size(); ++i) {
    auto const& o = s.operands[i];
    View const v = o.alias >= 0 ? View{s.host[std::size_t(o.alias)].data, o.type} : host[i];
    if (!v.data || !(v.type == o.type)) fail(ErrorKind::usage, "operand '" + o.name + "' is " + o.type.text() + ", not " + (v.data ? v.type.text() : "empty"));
    s.host.push_back(v);
  }
  std::vector<std::string> names;
  bool found = false;
  auto candidates = table.candidates(problem, facts_of(device, isa));
  for (auto const& c : candidates)
    if (c.rival && c.algorithm == choice.algorithm) {       // named, so asked
      candidates = table.candidates(problem, facts_of(device, isa), true);
      break;
    }
  for (auto const& c : candidates) {
    names.push_back(c.algorithm);
    if (c.algorithm != choice.algorithm) continue;
    if (!c.refusal.empty()) fail(ErrorKind::usage, c.algorithm + " refuses '" + problem + "': " + c.refusal);
    choice.config = config_by_hand(c, choice.config);
    found = true;
  }
  if (!found) fail_unknown("algorithm of " + std::string(operation) + " on " + device.text(), choice.algorithm, names);
  std::size_t const scratch = table.scratch(problem, choice, device.kind);
  View scratch_view{nullptr, {DType::u8, Shape{std::int64_t(scratch)}, Layout::nchw}};
  if (device.kind == DeviceKind::cpu) {
    s.bound = s.host;
    s.host_scratch = Buffer(std::max<std::size_t>(scratch, 1));
    scratch_view.data = s.host_scratch.data();
  } else {
    s.stream.emplace(device.index);
    for (auto const& o : s.operands) {
      s.memory.push_back(o.alias >= 0 ? CudaMemory() : CudaMemory(device.index, std::max<std::size_t>(o.type.bytes(), 1)));
      s.bound.push_back({o.alias >= 0 ? s.bound[std::size_t(o.alias)].data : s.memory.back().data(), o.type});
    }
    s.memory.push_back(CudaMemory(device.index, std::max<std::size_t>(scratch, 1)));
    scratch_view.data = s.memory.back().data();
    s.bring_over();
    s.stream->synchronize();
  }
  s.choice = std::move(choice);
  s.launch = table.bind(problem, s.choice, device.kind, s.bound, scratch_view);
}
Alone::Alone(Alone&&) noexcept = default;
Alone::~Alone() = default;
Choice const& Alone::choice() const { return state_->choice; }

void Alone::run() {
  auto& s = *state_;
  if (!s.stream) {
    Stream stream(*s.threads, s.isa);
    s.launch(stream);
    return;
  }
  s.bring_over();
  Stream stream = s.stream->stream();
  s.launch(stream);
  for (std::size_t i = 0; i < s.operands.size(); ++i)
    if (s.operands[i].written) copy_to_host(s.host[i].data, s.bound[i].data, s.operands[i].type.bytes(), *s.stream);
  s.stream->synchronize();
}

double Alone::time(bool calls) {
  auto& s = *state_;
  constexpr int launches = 10;
  auto const begin = std::chrono::steady_clock::now();
  auto const since = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
  if (!s.stream) {
    Stream stream(*s.threads, s.isa);
    s.launch(stream);
    return since();
  }
  if (calls) {
    Stream stream = s.stream->stream();
    for (int i = 0; i < launches; ++i) s.launch(stream);
    s.stream->synchronize();
    return since() / launches;
  }
  if (!s.graph) {
    Stream stream = s.stream->stream();
    s.launch(stream);                      // kernels are loaded now
    s.stream->synchronize();
    s.graph.emplace(*s.stream, [&](Stream& captured) {
      for (int i = 0; i < launches; ++i) s.launch(captured);
    });
    for (int i = 0; i < 2; ++i) s.events.emplace_back(s.stream->device());
  }
  s.events[0].record(*s.stream);
  s.graph->launch(*s.stream);
  s.events[1].record(*s.stream);
  s.events[1].synchronize();
  return s.events[1].milliseconds_since(s.events[0]) * 1e-3 / launches;
}

void run_alone(std::string_view operation, std::string const& problem, Choice const& choice, Device device, std::span<View const> operands, ThreadPool* threads) {
  std::optional<ThreadPool> own;
  if (!threads) threads = &own.emplace(1);
  Alone(operation, problem, choice, device, operands, *threads).run();
}

}  // namespace falconet
