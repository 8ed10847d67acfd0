#include "falconet/plan/measure.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>

#include "falconet/device/cuda/handles.h"
#include "falconet/ops/algorithms.h"
#include "falconet/tensor/bf16.h"

namespace falconet {
namespace {

constexpr double slow = 2;                       // first runs so many times the best are the only ones
constexpr double hopeless_once = 4;              // and so many times, not even repeated at once

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

constexpr std::int64_t period = 1021;            // of the numbers below; no power of two: rows of an image differ

// Numbers as a trained network has them, roughly: of mean 0, or what the operand needs.
void fill(View const& v, Operand const& o) {
  std::size_t const bytes = v.type.bytes();
  auto* const to = v.as<char>();
  if (o.fill == Fill::step_state) {
    StepState state;
    state.valid_count = std::int32_t(o.limit);
    std::memcpy(to, &state, sizeof state);
    return;
  }
  bool const numbers = o.fill == Fill::normal || o.fill == Fill::positive;
  if (!numbers || (o.type.dtype != DType::f32 && o.type.dtype != DType::bf16)) return std::memset(to, 0, bytes), void();
  float wave[period];
  for (int i = 0; i < period; ++i) wave[i] = float(i * 389 % period) / 510.0f - 1.0f + (o.fill == Fill::positive ? 1.5f : 0.0f);
  std::int64_t const count = v.type.shape.elements();
  if (o.type.dtype == DType::f32)
    for (std::int64_t i = 0; i < count; i += period) std::memcpy(v.as<float>() + i, wave, std::size_t(std::min<std::int64_t>(period, count - i)) * sizeof(float));
  else
    for (std::int64_t i = 0; i < count; ++i) v.as<bf16>()[i] = to_bf16(wave[i % period]);
}

View bytes_at(void* at, std::size_t count) { return View{at, {DType::u8, Shape{std::int64_t(count)}, Layout::nchw}}; }

// A problem's operands in memory of their own, which choices run on by turns.
class Bench {
 public:
  Bench(std::string_view operation, std::string const& problem, bool prepared, DeviceKind kind)
      : table_(algorithms_of(operation)), problem_(problem), prepared_(prepared), kind_(kind) {}
  virtual ~Bench() = default;
  virtual bool has_room(Choice const&) const { return true; }
  virtual double time(std::size_t i, Choice const&) = 0;   // seconds of a run; i counts the choices as they come for the first time

 protected:
  Preparation preparation(Choice const& c) const { return prepared_ ? table_.preparation(problem_, c, kind_) : Preparation{}; }
  std::size_t scratch(Choice const& c) const { return table_.scratch(problem_, c, kind_) - preparation(c).bytes; }
  AlgorithmTable const& table_;
  std::string const& problem_;
  bool prepared_;
  DeviceKind kind_;
  std::vector<View> views_;
};

class CpuBench final : public Bench {
 public:
  CpuBench(std::string_view operation, std::string const& problem, bool prepared, DeviceFacts const& facts, ThreadPool& threads)
      : Bench(operation, problem, prepared, DeviceKind::cpu), stream_(threads, facts.isa) {
    for (auto const& o : table_.operands(problem)) {
      if (o.alias >= 0) {
        views_.push_back({views_[std::size_t(o.alias)].data, o.type});
        continue;
      }
      views_.push_back({more(o.type.bytes()), o.type});
      fill(views_.back(), o);
    }
  }
  double time(std::size_t i, Choice const& choice) override {
    if (i == runs_.size()) runs_.push_back(bound(choice));
    double const begin = now();
    runs_[i](stream_);
    return now() - begin;
  }

 private:
  void* more(std::size_t bytes) { return memory_.emplace_back(std::max<std::size_t>(bytes, 1)).data(); }
  Bound bound(Choice const& choice) {
    View prepared{};
    if (auto const once = preparation(choice); once.bytes > 0) {
      prepared = bytes_at(more(once.bytes), once.bytes);
      table_.bind_preparation(problem_, choice, kind_, views_, prepared)(stream_);
    }
    std::size_t const bytes = scratch(choice);
    return table_.bind(problem_, choice, kind_, views_, bytes_at(more(bytes), bytes), prepared);
  }
  Stream stream_;
  std::vector<Buffer> memory_;
  std::vector<Bound> runs_;
};

// Launches are timed as a plan runs them, in a graph; several in one, so that starting it is no part of a short one's time. All share scratch memory, whose
// bytes between launches belong to nobody.
class CardBench final : public Bench {
 public:
  CardBench(std::string_view operation, std::string const& problem, bool prepared, DeviceFacts const& facts, std::vector<Choice> const& choices)
      : Bench(operation, problem, prepared, DeviceKind::cuda), stream_(facts.device.index), first_(facts.device.index), last_(facts.device.index) {
    for (auto const& o : table_.operands(problem)) {
      views_.push_back({o.alias >= 0 ? views_[std::size_t(o.alias)].data : more(o.type.bytes()), o.type});
      if (o.alias < 0) fill_here(views_.back(), o);
    }
    room_ = cuda_memory(facts.device.index).free / 2;
    std::size_t most = 1;
    for (auto const& c : choices)
      if (has_room(c)) most = std::max(most, scratch(c));
    scratch_ = bytes_at(more(most), most);
  }
  bool has_room(Choice const& c) const override { return scratch(c) + preparation(c).bytes <= room_; }
  double time(std::size_t i, Choice const& choice) override {
    if (i == runs_.size()) start(choice);
    first_.record(stream_);
    runs_[i].graph.launch(stream_);
    last_.record(stream_);
    return elapsed() / runs_[i].launches;
  }

 private:
  struct Run {
    CudaGraph graph;
    int launches;
  };
  void* more(std::size_t bytes) { return memory_.emplace_back(stream_.device(), std::max<std::size_t>(bytes, 1)).data(); }
  double elapsed() {
    last_.synchronize();
    return last_.milliseconds_since(first_) * 1e-3;
  }
  // A few periods come from the host, the rest from where they lie.
  void fill_here(View const& to, Operand const& o) {
    std::size_t const bytes = o.type.bytes(), each = size_of(o.type.dtype);
    std::int64_t const elements = std::min<std::int64_t>(o.type.shape.elements(), o.fill == Fill::step_state ? std::int64_t(bytes) : 64 * period);
    if (bytes == 0) return;
    Buffer const host(std::size_t(elements) * each);
    fill({host.data(), {o.type.dtype, Shape{elements}, Layout::nchw}}, o);
    std::size_t done = std::size_t(elements) * each;
    copy_to_device(to.data, host.data(), done, stream_);
    for (std::size_t more; done < bytes; done += more) more = std::min(done, bytes - done), copy_on_device(to.as<char>() + done, to.data, more, stream_);
    stream_.synchronize();
  }
  void start(Choice const& choice) {
    Stream stream = stream_.stream();
    View prepared{};
    if (auto const once = preparation(choice); once.bytes > 0) {
      prepared = bytes_at(more(once.bytes), once.bytes);
      table_.bind_preparation(problem_, choice, kind_, views_, prepared)(stream);
    }
    Bound const run = table_.bind(problem_, choice, kind_, views_, scratch_, prepared);
    run(stream);                                 // loads its kernels
    first_.record(stream_);
    run(stream);
    last_.record(stream_);
    int const launches = int(std::clamp(200e-6 / std::max(elapsed(), 1e-7), 1.0, 20.0));
    runs_.push_back({CudaGraph(stream_, [&](Stream& captured) {
                       for (int i = 0; i < launches; ++i) run(captured);
                     }),
                     launches});
  }
  CudaStream stream_;
  CudaEvent first_, last_;
  std::vector<CudaMemory> memory_;
  std::vector<Run> runs_;
  View scratch_;
  std::size_t room_ = 0;
};

}  // namespace

std::map<std::string, double> measure_choices(std::string_view operation, std::string const& problem, bool prepared, std::vector<Choice> const& choices, DeviceFacts const& facts,
                                              ThreadPool* threads, double seconds) {
  bool const cpu = facts.device.kind == DeviceKind::cpu;
  double const enough = cpu ? 0.03 : 0.003;      // seconds of repetitions of the fastest; a GPU's clock and times wander less
  double const end = now() + seconds;
  std::unique_ptr<Bench> bench;
  if (cpu) bench = std::make_unique<CpuBench>(operation, problem, prepared, facts, *threads);
  else bench = std::make_unique<CardBench>(operation, problem, prepared, facts, choices);
  struct Running {
    Choice const* choice;
    double least;
  };
  std::vector<Running> running;
  double best = 1e30;
  for (auto const& choice : choices) {           // the best guess first
    if (now() > end && !running.empty()) break;
    if (!bench->has_room(choice)) continue;
    std::size_t const i = running.size();
    Running r{&choice, bench->time(i, choice)};  // touches its memory for the first time
    for (int more = 0; more < 2 && r.least < hopeless_once * best; ++more) r.least = std::min(r.least, bench->time(i, choice));
    best = std::min(best, r.least);
    running.push_back(r);
  }
  int const rounds = int(std::clamp(enough / best, 2.0, 30.0));
  for (int round = 0; round < rounds && now() < end; ++round)
    for (std::size_t i = 0; i < running.size(); ++i)
      if (auto& r = running[i]; r.least <= slow * best) {
        r.least = std::min(r.least, bench->time(i, *r.choice));   // what disturbs only adds
        best = std::min(best, r.least);
      }
  std::map<std::string, double> out;
  for (auto const& r : running) out[r.choice->text()] = r.least * 1e6;
  return out;
}

}  // namespace falconet
