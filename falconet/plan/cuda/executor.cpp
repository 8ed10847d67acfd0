// The executor of NVIDIA GPUs: arena and parameters in device memory, inputs and outputs staged in pinned memory. The first step runs
// launch by launch (kernels are loaded then); the second is captured, with its copies, into one CUDA graph, and from then on a step is
// one graph launch and one wait.
#include <cstring>
#include <optional>

#include "falconet/device/cuda/handles.h"
#include "falconet/plan/cuda/stage.h"
#include "falconet/plan/cuda/when_finite.h"
#include "falconet/plan/executor.h"

namespace falconet {
namespace {

struct Staged {
  PinnedMemory host;
  void* device;
  TensorType type;
};

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
    copy_in();
    launch(launches, begin, end);
    copy_out();
    stream_.synchronize();
  }

  bool step(std::vector<Bound> const& launches, int guarded, Slot const* guard) override {
    int const all = int(launches.size());
    if (!ran_) {
      run(launches, 0, guard ? guarded : all);
      if (guard && !all_finite(staged_output(*guard))) return false;
      if (guard) run(launches, guarded, all);
      ran_ = true;
      return true;
    }
    parameters_->to_device(writes_);
    if (!graph_) {
      graph_.emplace(stream_, [&](Stream& stream) {
        copy_in();
        launch(launches, 0, guard ? guarded : all);
        copy_out();
        if (guard) when_finite(stream, memory(guard->offset), guard->type.dtype, [&](Stream& body) {
          for (int i = guarded; i < all; ++i) launches[std::size_t(i)](body);
        });
      });
    }
    graph_->launch(stream_);
    stream_.synchronize();
    return !guard || all_finite(staged_output(*guard));
  }

  void time(std::vector<Bound> const& launches, std::vector<double>& seconds) override {
    while (events_.size() <= launches.size()) events_.emplace_back(device_);
    parameters_->to_device(writes_);
    copy_in();
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
  View staged_output(Slot const& s) const {
    for (auto const& o : outputs_)
      if (o.device == memory(s.offset)) return {o.host.data(), o.type};
    return {};
  }
  void launch(std::vector<Bound> const& launches, int begin, int end) {
    Stream stream = stream_.stream();
    for (int i = begin; i < end; ++i) launches[std::size_t(i)](stream);
  }
  void copy_in() {
    std::vector<Piece> pieces;
    for (auto const& i : inputs_) pieces.push_back({i.device, i.host.data(), i.type.bytes()});
    Stream stream = stream_.stream();
    if (can_copy_together(pieces)) return copy_together(pieces, stream);
    for (auto const& p : pieces) copy_to_device(p.to, p.from, p.bytes, stream_);
  }
  void copy_out() {
    std::vector<Piece> pieces;
    for (auto const& o : outputs_) pieces.push_back({o.host.data(), o.device, o.type.bytes()});
    Stream stream = stream_.stream();
    if (can_copy_together(pieces)) return copy_together(pieces, stream);
    for (auto const& p : pieces) copy_to_host(p.to, p.from, p.bytes, stream_);
  }

  int device_;
  bool writes_, ran_ = false;
  std::shared_ptr<Parameters> parameters_;
  CudaStream stream_;
  CudaMemory memory_;
  std::vector<Staged> inputs_, outputs_;
  std::vector<CudaEvent> events_;
  std::optional<CudaGraph> graph_;
};

}  // namespace

std::unique_ptr<Executor> cuda_executor(int device, std::int64_t memory_bytes, std::shared_ptr<Parameters> parameters, bool writes_parameters) {
  return std::make_unique<CudaExecutor>(device, memory_bytes, std::move(parameters), writes_parameters);
}

}  // namespace falconet
