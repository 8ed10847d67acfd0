// The executor of the CPU: launches find everything in host memory, so the caller writes and reads the very same bytes.
#include "falconet/plan/executor.h"

#include <chrono>
#include <cmath>
#include <cstring>

#include "falconet/base/error.h"
#include "falconet/tensor/bf16.h"

namespace falconet {

bool all_finite(View v) {
  auto const n = v.type.shape.elements();
  for (std::int64_t i = 0; i < n; ++i) {
    double x = 0;
    switch (v.type.dtype) {
      case DType::f64: x = v.as<double>()[i]; break;
      case DType::f32: x = v.as<float>()[i]; break;
      case DType::bf16: x = to_float(v.as<bf16>()[i]); break;
      default: return true;
    }
    if (!std::isfinite(x)) return false;
  }
  return true;
}

std::unique_ptr<StepsInFlight> Executor::in_flight(std::vector<Bound> const&, FedSlots const&, Feed&) {
  fail(ErrorKind::internal, "steps in flight need a GPU");
}
std::unique_ptr<FedInference> Executor::fed_inference(std::vector<Bound> const&, Slot const&, Feed&) { fail(ErrorKind::internal, "fed inference needs a GPU"); }

namespace {

class CpuExecutor final : public Executor {
 public:
  CpuExecutor(std::int64_t bytes, std::shared_ptr<ThreadPool> threads, Isa isa) : threads_(std::move(threads)), stream_(*threads_, isa), memory_(std::size_t(bytes)) {
    if (bytes) std::memset(memory_.data(), 0, memory_.bytes());
  }
  void* memory(std::int64_t offset) const override { return static_cast<char*>(memory_.data()) + offset; }
  void* parameter(Parameters::Entry const& e) override { return e.tensor.view().data; }
  View input(Slot const& s) override { return {memory(s.offset), s.type}; }
  View output(Slot const& s) override { return {memory(s.offset), s.type}; }
  Tensor read(View v) override {
    Tensor copy(v.type);
    std::memcpy(copy.as<void>(), v.data, v.type.bytes());
    return copy;
  }
  void run(std::vector<Bound> const& launches, int begin, int end) override {
    for (int i = begin; i < end; ++i) launches[std::size_t(i)](stream_);
  }
  void watch_states(std::vector<View> states) override {
    states_.clear();
    for (View const& v : states) states_.push_back({v, Tensor(v.type)});
  }
  void restore_states() override {
    for (auto& s : states_) std::memcpy(s.live.data, s.kept.as<void>(), s.live.type.bytes());
  }
  bool step(std::vector<Bound> const& launches, int guarded, Slot const* guard, bool) override {
    for (auto& s : states_) std::memcpy(s.kept.as<void>(), s.live.data, s.live.type.bytes());
    run(launches, 0, guarded);
    if (guard && !all_finite(output(*guard))) return false;
    run(launches, guarded, int(launches.size()));
    return true;
  }
  void time(std::vector<Bound> const& launches, std::vector<double>& seconds) override {
    for (std::size_t i = 0; i < launches.size(); ++i) {
      auto const start = std::chrono::steady_clock::now();
      launches[i](stream_);
      seconds[i] += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
  }

 private:
  std::shared_ptr<ThreadPool> threads_;
  Stream stream_;
  Buffer memory_;
  struct State {
    View live;
    Tensor kept;
  };
  std::vector<State> states_;
};

}  // namespace

std::unique_ptr<Executor> cpu_executor(std::int64_t memory_bytes, std::shared_ptr<ThreadPool> threads, Isa isa) {
  return std::make_unique<CpuExecutor>(memory_bytes, std::move(threads), isa);
}

}  // namespace falconet
