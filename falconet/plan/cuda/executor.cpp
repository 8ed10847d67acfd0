// The executor of NVIDIA GPUs: arena and parameters in device memory, inputs and outputs staged in pinned memory. The first step runs
// launch by launch (kernels are loaded then); the second is captured, with its copies, into one CUDA graph, and from then on a step is
// one graph launch and one wait.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <optional>

#include "falconet/device/cuda/handles.h"
#include "falconet/plan/cuda/fed_inference.h"
#include "falconet/plan/cuda/kept_states.h"
#include "falconet/plan/cuda/stage.h"
#include "falconet/plan/cuda/steps_in_flight.h"
#include "falconet/plan/cuda/when_finite.h"
#include "falconet/plan/executor.h"

namespace falconet {
namespace {

struct Staged {
  PinnedMemory host;
  void* device;
  TensorType type;
};

// In which order launches of small steps (place: all values fit a quarter of the second-level cache) are captured: of those whose predecessors are, the one with the longest chain behind it, so that where several become ready
// together, the card is given it first. A launch follows the one before it in its lane, and those that it waits for.
std::vector<int> order_of(std::vector<int> const& lane, std::vector<std::vector<int>> const& waits) {
  int const count = int(lane.size());
  std::vector<std::vector<int>> ahead = waits;
  std::vector<int> chain(lane.size(), 1), missing(lane.size()), out;
  for (int i = 0; i < count; ++i)
    for (int j = i; j-- > 0;)
      if (lane[std::size_t(j)] == lane[std::size_t(i)]) {
        ahead[std::size_t(i)].push_back(j);
        break;
      }
  for (int i = count; i-- > 0;) {
    missing[std::size_t(i)] = int(ahead[std::size_t(i)].size());
    for (int j : ahead[std::size_t(i)]) chain[std::size_t(j)] = std::max(chain[std::size_t(j)], chain[std::size_t(i)] + 1);
  }
  while (int(out.size()) < count) {
    int best = -1;
    for (int i = 0; i < count; ++i)
      if (missing[std::size_t(i)] == 0 && (best < 0 || chain[std::size_t(i)] > chain[std::size_t(best)])) best = i;
    out.push_back(best);
    missing[std::size_t(best)] = -1;
    for (int i = best + 1; i < count; ++i) missing[std::size_t(i)] -= int(std::count(ahead[std::size_t(i)].begin(), ahead[std::size_t(i)].end(), best));
  }
  return out;
}

class CudaExecutor final : public Executor {
 public:
  CudaExecutor(int device, std::int64_t bytes, std::shared_ptr<Parameters> parameters, bool writes)
      : device_(device), writes_(writes), parameters_(std::move(parameters)), stream_(device), memory_(device, std::size_t(bytes)) {
    fill_bytes(memory_.data(), 0, memory_.bytes(), stream_);
    stream_.synchronize();
  }
  ~CudaExecutor() override = default;

  void* memory(std::int64_t offset) const override { return static_cast<char*>(memory_.data()) + offset; }
  void* parameter(Parameters::Entry const& e) override { return parameters_->on_device(e.name, device_); }
  View input(Slot const& s) override { return stage(inputs_, s); }
  View output(Slot const& s) override { return stage(outputs_, s); }
  Tensor read(View v) override {
    Tensor copy(v.type);
    copy_to_host(copy.as<void>(), v.data, v.type.bytes(), stream_);
    stream_.synchronize();
    return copy;
  }

  void run(std::vector<Bound> const& launches, int begin, int end) override {
    parameters_->to_device(writes_);
    Stream stream = stream_.stream();
    copy_in(stream);
    launch(launches, begin, end);
    copy_out(stream);
    stream_.synchronize();
  }

  bool step(std::vector<Bound> const& launches, int guarded, Slot const* guard, bool heeded) override {
    int const all = int(launches.size());
    parameters_->to_device(writes_);
    if (!ran_ || cuda_check() == CudaCheck::sync) {
      Stream stream = stream_.stream();
      kept_.keep(stream, nullptr);
      run(launches, 0, guard ? guarded : all);
      if (guard && !all_finite(staged_output(*guard))) return false;
      if (guard) run(launches, guarded, all);
      ran_ = true;
      return true;
    }
    if (!graph_) {
      graph_.emplace(stream_, [&](Stream& stream) {
        keep_beside(nullptr, [&] { copy_in(stream); });
        launch_lanes(launches, guard ? guarded : all);
        if (guard && heeded) {                       // results go out beside the update
          fork_.record(stream_);
          side_.wait(fork_);
          Stream beside = side_.stream();
          copy_out(beside);
          join_.record(side_);
          Stream conditional = stream.guarded_by(memory(guard->offset));
          for (int i = guarded; i < all; ++i) launches[std::size_t(i)](conditional);
          stream_.wait(join_);
          return;
        }
        copy_out(stream);
        if (guard) when_finite(stream, memory(guard->offset), guard->type.dtype, nullptr, [&](Stream& body) {
          for (int i = guarded; i < all; ++i) launches[std::size_t(i)](body);
        });
      });
    }
    graph_->launch(stream_);
    stream_.synchronize();
    return !guard || all_finite(staged_output(*guard));
  }

  void watch_states(std::vector<View> states) override { kept_.watch(states); }
  void restore_states() override {
    Stream stream = stream_.stream();
    kept_.restore(stream);
    stream_.synchronize();
  }

  std::unique_ptr<StepsInFlight> in_flight(std::vector<Bound> const& launches, FedSlots const& slots, Feed& feed) override {
    auto const at = [this](Slot const& s) { return View{memory(s.offset), s.type}; };
    CudaFedStep step{};
    step.stream = &stream_;
    step.parameters_to_device = [this] { parameters_->to_device(writes_); };
    step.launch = [this, &launches](int begin, int end, Stream& stream) {
      if (begin == 0) return launch_lanes(launches, end);
      for (int i = begin; i < end; ++i) launches[std::size_t(i)](stream);
    };
    step.launch_logged = [this, &launches, end = slots.guarded, results = slots.results](Stream& stream, std::function<void(Stream&)> const& log) {
      launch_lanes(launches, end);
      if (lanes_.empty()) return log(stream);
      side_.wait(ended_[std::size_t(results - 1)]);
      Stream beside = side_.stream();
      log(beside);
      join_.record(side_);
      stream_.wait(join_);
    };
    step.keep_beside = [this](std::int32_t const* failed, std::function<void()> const& work) { keep_beside(failed, work); };
    step.restore_states = [this] { restore_states(); };
    step.guarded = slots.guarded, step.all = int(launches.size()), step.heeded = slots.heeded;
    step.loss = at(slots.loss);
    if (slots.correct) step.correct = at(*slots.correct);
    step.target = {at(slots.state).as<StepState>(), at(slots.images), at(slots.targets)};
    step.host_state = staged_input(slots.state).as<StepState>();
    step.host_images = staged_input(slots.images), step.host_targets = staged_input(slots.targets);
    step.ran = &ran_;
    return cuda_steps_in_flight(std::move(step), feed);
  }

  std::unique_ptr<FedInference> fed_inference(std::vector<Bound> const& launches, Slot const& images, Feed& feed) override {
    auto const all = [this, &launches](Stream& stream) {
      launch_lanes(launches, int(launches.size()));
      copy_out(stream);
    };
    return cuda_fed_inference({&stream_, [this] { parameters_->to_device(writes_); }, all, {memory(images.offset), images.type}}, feed);
  }

  // Streams and events are made here: nothing may be allocated while a step is captured.
  void set_lanes(std::vector<int> lane, std::vector<std::vector<int>> waits) override {
    lane_ = std::move(lane), waits_ = std::move(waits);
    int const lanes = lane_.empty() ? 0 : *std::max_element(lane_.begin(), lane_.end());
    if (!lanes) return;
    while (int(lanes_.size()) < lanes) lanes_.emplace_back(device_);
    while (ended_.size() < lane_.size()) ended_.emplace_back(device_);
    order_ = order_of(lane_, waits_);
    if (std::int64_t(memory_.bytes()) > facts_of({DeviceKind::cuda, device_}).l2_bytes / 4) std::iota(order_.begin(), order_.end(), 0);
  }

  void time(std::vector<Bound> const& launches, std::vector<double>& seconds) override {
    while (events_.size() <= launches.size()) events_.emplace_back(device_);
    parameters_->to_device(writes_);
    Stream stream = stream_.stream();
    copy_in(stream);
    events_[0].record(stream_);
    for (std::size_t i = 0; i < launches.size(); ++i) {
      launch(launches, int(i), int(i) + 1);
      events_[i + 1].record(stream_);
    }
    stream_.synchronize();
    for (std::size_t i = 0; i < launches.size(); ++i) seconds[i] += events_[i + 1].milliseconds_since(events_[i]) * 1e-3;
  }

 private:
  View stage(std::vector<Staged>& list, Slot const& s) {
    list.push_back({PinnedMemory(s.type.bytes()), memory(s.offset), s.type});
    std::memset(list.back().host.data(), 0, s.type.bytes());
    return {list.back().host.data(), s.type};
  }
  View staged(std::vector<Staged> const& list, Slot const& s) const {
    for (auto const& o : list)
      if (o.device == memory(s.offset)) return {o.host.data(), o.type};
    return {};
  }
  View staged_input(Slot const& s) const { return staged(inputs_, s); }
  View staged_output(Slot const& s) const { return staged(outputs_, s); }
  void launch(std::vector<Bound> const& launches, int begin, int end) {
    Stream stream = stream_.stream();
    for (int i = begin; i < end; ++i) launches[std::size_t(i)](stream);
  }
  // Keeps the states while `work` is done on stream_; whatever comes next there waits for both.
  void keep_beside(std::int32_t const* failed, std::function<void()> const& work) {
    if (kept_.empty()) return work();
    fork_.record(stream_);
    side_.wait(fork_);
    Stream beside = side_.stream();
    kept_.keep(beside, failed);
    join_.record(side_);
    work();
    stream_.wait(join_);
  }
  // Launches [0, end) on their lanes, which leave stream_ and come back to it; captured, they become branches of the graph.
  void launch_lanes(std::vector<Bound> const& launches, int end) {
    if (lanes_.empty()) return launch(launches, 0, end);
    std::vector<int> last(lanes_.size() + 1, -1);
    fork_.record(stream_);
    for (int const i : order_) {
      if (i >= end) continue;
      auto const at = std::size_t(i), lane = std::size_t(lane_[at]);
      CudaStream const& on = lane ? lanes_[lane - 1] : stream_;
      if (lane && last[lane] < 0) on.wait(fork_);
      for (int w : waits_[at]) on.wait(ended_[std::size_t(w)]);
      Stream stream = on.stream();
      launches[at](stream);
      ended_[at].record(on);
      last[lane] = i;
    }
    for (std::size_t lane = 1; lane < last.size(); ++lane)
      if (last[lane] >= 0) stream_.wait(ended_[std::size_t(last[lane])]);
  }
  void copy_in(Stream& stream) {
    std::vector<Piece> pieces;
    for (auto const& i : inputs_) pieces.push_back({i.device, i.host.data(), i.type.bytes()});
    if (can_copy_together(pieces)) return copy_together(pieces, stream);
    for (auto const& p : pieces) copy_to_device(p.to, p.from, p.bytes, stream_);
  }
  void copy_out(Stream& stream) {
    std::vector<Piece> pieces;
    for (auto const& o : outputs_) pieces.push_back({o.host.data(), o.device, o.type.bytes()});
    if (can_copy_together(pieces)) return copy_together(pieces, stream);
    for (auto const& p : pieces) copy_to_host(p.to, p.from, p.bytes, stream_);
  }

  int device_;
  bool writes_, ran_ = false;
  std::shared_ptr<Parameters> parameters_;
  CudaStream stream_;
  CudaMemory memory_;
  CudaStream side_{device_};
  CudaEvent fork_{device_}, join_{device_};
  KeptStates kept_{device_};
  std::vector<int> lane_;
  std::vector<std::vector<int>> waits_;
  std::vector<int> order_;         // in which launches are captured
  std::vector<CudaStream> lanes_;
  std::vector<CudaEvent> ended_;   // by launch
  std::vector<Staged> inputs_, outputs_;
  std::vector<CudaEvent> events_;
  std::optional<CudaGraph> graph_;
};

}  // namespace

std::unique_ptr<Executor> cuda_executor(int device, std::int64_t memory_bytes, std::shared_ptr<Parameters> parameters, bool writes_parameters) {
  return std::make_unique<CudaExecutor>(device, memory_bytes, std::move(parameters), writes_parameters);
}

}  // namespace falconet
