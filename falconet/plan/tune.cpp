#include "falconet/plan/tune.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "falconet/base/error.h"
#include "falconet/base/file.h"
#include "falconet/base/format.h"
#include "falconet/base/nearest.h"
#include "falconet/ops/algorithms.h"
#include "falconet/ops/problem_text.h"
#include "falconet/tensor/bf16.h"

namespace falconet {

extern char const* const kernel_fingerprint;     // of the build: cmake/KernelFingerprint.cmake

namespace {

constexpr std::string_view header = "device\tisa\tthreads\tkernels\toperation\tproblem\tchoice\tus\n";
constexpr int fields = 8;
constexpr std::size_t most_problems = 20000;     // in the file; beyond, those of other kernels go
constexpr double hopeless = 8;                   // estimates so many times the best are not tried
constexpr double slow = 2;                       // first runs so many times the best are the only ones
constexpr double enough = 0.03;                  // seconds of repetitions of the fastest

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Field by field, as in the file: tabs separate them, so none may hold one.
std::string key_of(std::string_view operation, std::string const& problem, bool prepared, DeviceFacts const& facts, int threads) {
  std::string device = facts.name;
  std::replace_if(device.begin(), device.end(), [](unsigned char c) { return c < ' '; }, ' ');
  return device + '\t' + std::string(name(facts.isa)) + '\t' + std::to_string(threads) + '\t' + kernel_fingerprint + '\t' + std::string(operation) +
         (prepared ? " prepared\t" : "\t") + problem;
}

// Numbers as a trained network has them, roughly: of mean 0, or what the operand needs.
void fill(View const& v, Operand const& o) {
  std::size_t const bytes = o.type.bytes();
  auto* const to = v.as<char>();
  if (o.fill == Fill::step_state) {
    StepState state;
    state.valid_count = std::int32_t(o.limit);
    std::memcpy(to, &state, sizeof state);
    return;
  }
  bool const numbers = o.fill == Fill::normal || o.fill == Fill::positive;
  if (!numbers || (o.type.dtype != DType::f32 && o.type.dtype != DType::bf16)) return std::memset(to, 0, bytes), void();
  float wave[1021];                              // no power of two: rows of an image differ
  for (int i = 0; i < 1021; ++i) wave[i] = float(i * 389 % 1021) / 510.0f - 1.0f + (o.fill == Fill::positive ? 1.5f : 0.0f);
  std::int64_t const count = o.type.shape.elements();
  if (o.type.dtype == DType::f32)
    for (std::int64_t i = 0; i < count; i += 1021) std::memcpy(v.as<float>() + i, wave, std::size_t(std::min<std::int64_t>(1021, count - i)) * sizeof(float));
  else
    for (std::int64_t i = 0; i < count; ++i) v.as<bf16>()[i] = to_bf16(wave[i % 1021]);
}

// A problem's operands in memory of their own, which algorithms run on by turns.
class Bench {
 public:
  Bench(AlgorithmTable const& table, std::string const& problem, bool prepared, DeviceFacts const& facts, ThreadPool& threads)
      : table_(table), problem_(problem), prepared_(prepared), stream_(threads, facts.isa) {
    for (auto const& o : table.operands(problem)) {
      if (o.alias >= 0) {
        views_.push_back({views_[std::size_t(o.alias)].data, o.type});
        continue;
      }
      memory_.emplace_back(std::max<std::size_t>(o.type.bytes(), 1));
      views_.push_back({memory_.back().data(), o.type});
      fill(views_.back(), o);
    }
  }
  // To be run by the function that comes back; its scratch memory lasts until the next.
  Bound bind(Choice const& choice) {
    std::size_t scratch = table_.scratch(problem_, choice, DeviceKind::cpu);
    Preparation const once = prepared_ ? table_.preparation(problem_, choice, DeviceKind::cpu) : Preparation{};
    View prepared{};
    auto const bytes = [](void* at, std::size_t count) { return View{at, {DType::u8, Shape{std::int64_t(count)}, Layout::nchw}}; };
    if (once.bytes > 0) {
      memory_.emplace_back(once.bytes);
      prepared = bytes(memory_.back().data(), once.bytes);
      table_.bind_preparation(problem_, choice, DeviceKind::cpu, views_, prepared)(stream_);
      scratch -= once.bytes;
    }
    memory_.emplace_back(std::max<std::size_t>(scratch, 1));
    return table_.bind(problem_, choice, DeviceKind::cpu, views_, bytes(memory_.back().data(), scratch), prepared);
  }
  double time(Bound const& run) {
    double const begin = now();
    run(stream_);
    return now() - begin;
  }

 private:
  AlgorithmTable const& table_;
  std::string const& problem_;
  bool prepared_;
  Stream stream_;
  std::vector<Buffer> memory_;
  std::vector<View> views_;
};

}  // namespace

TuneMode parse_tune_mode(std::string_view text) {
  constexpr std::string_view names[] = {"off", "cache", "full"};
  for (int i = 0; i < 3; ++i)
    if (names[i] == text) return TuneMode(i);
  fail_unknown("tune mode", std::string(text), std::vector<std::string>(std::begin(names), std::end(names)));
}

std::string tune_file() {
  auto const set = [](char const* variable) {
    char const* const value = std::getenv(variable);
    return std::string(value ? value : "");
  };
  if (auto const folder = set("FALCONET_CACHE"); !folder.empty()) return folder + "/tune.tsv";
  if (auto const folder = set("XDG_CACHE_HOME"); !folder.empty()) return folder + "/falconet/tune.tsv";
  auto const home = set("HOME");
  return (home.empty() ? "." : home + "/.cache") + "/falconet/tune.tsv";
}

Tuner::Tuner(TuneMode mode, std::string file, double seconds) : mode_(mode), file_(std::move(file)), seconds_(seconds), rows_(read(file_)) {}

Tuner::Rows Tuner::read(std::string const& file) {
  Rows rows;
  std::error_code error;
  if (!std::filesystem::is_regular_file(file, error)) return rows;
  auto const bytes = read_file(file);
  for (auto const line : split(bytes.text(), '\n')) {
    auto const parts = split(line, '\t');
    if (parts.size() != fields || line == header.substr(0, header.size() - 1)) continue;
    double us = 0;
    try {
      us = parse_real(parts[7], "us");
    } catch (Error const&) {
      continue;
    }
    if (us > 0 && std::isfinite(us)) rows[std::string(line.substr(0, std::size_t(parts[5].data() + parts[5].size() - line.data())))][std::string(parts[6])] = us;
  }
  return rows;
}

void Tuner::save() {
  if (fresh_.empty()) return;
  Rows all = read(file_);                        // others may have written
  for (auto& [key, choices] : fresh_) rows_[key] = all[key] = choices;
  fresh_.clear();
  bool const full = all.size() > most_problems;
  std::string text(header);
  for (auto const& [key, choices] : all)
    if (!full || key.find(kernel_fingerprint) != std::string::npos)
      for (auto const& [choice, us] : choices) text += key + '\t' + choice + '\t' + format("{:.4g}\n", us);
  if (auto const folder = std::filesystem::path(file_).parent_path(); !folder.empty()) make_folders(folder.string());
  write_atomically(file_, text);
}

double Tuner::measured(std::string_view operation, std::string const& problem, bool prepared, Choice const& choice, DeviceFacts const& facts, int threads) const {
  auto const key = key_of(operation, problem, prepared, facts, threads);
  for (auto const* rows : {&fresh_, &rows_})
    if (auto const found = rows->find(key); found != rows->end())
      if (auto const row = found->second.find(choice.text()); row != found->second.end()) return row->second * 1e-6;
  return std::nan("");
}

std::map<std::string, double> Tuner::measure(std::string_view operation, std::string const& problem, bool prepared, std::vector<Choice> const& choices, DeviceFacts const& facts,
                                             ThreadPool& threads, double seconds) const {
  struct Running {
    Choice const* choice;
    Bound run;
    double least;
  };
  double const end = now() + seconds;
  Bench bench(algorithms_of(operation), problem, prepared, facts, threads);
  std::vector<Running> running;
  double best = 1e30;
  for (auto const& choice : choices) {           // the best guess first
    if (now() > end && !running.empty()) break;
    Running r{&choice, bench.bind(choice), 0};
    r.least = bench.time(r.run);                 // touches its memory for the first time
    for (int more = 0; more < 2 && r.least < 4 * best; ++more) r.least = std::min(r.least, bench.time(r.run));
    best = std::min(best, r.least);
    running.push_back(std::move(r));
  }
  int const rounds = int(std::clamp(enough / best, 2.0, 30.0));
  for (int round = 0; round < rounds && now() < end; ++round)
    for (auto& r : running)
      if (r.least <= slow * best) {
        r.least = std::min(r.least, bench.time(r.run));   // what disturbs only adds
        best = std::min(best, r.least);
      }
  std::map<std::string, double> out;
  for (auto const& r : running) out[r.choice->text()] = r.least * 1e6;
  return out;
}

std::optional<Choice> Tuner::choose(std::string_view operation, std::string const& problem, bool prepared, std::vector<Candidate> const& candidates, DeviceFacts const& facts,
                                    bool rivals, ThreadPool& threads) {
  if (mode_ == TuneMode::off || facts.device.kind != DeviceKind::cpu) return std::nullopt;
  std::vector<Candidate const*> able;
  for (auto const& c : candidates)
    if (c.refusal.empty() && !c.baseline && (!c.rival || rivals)) able.push_back(&c);
  if (able.empty()) return std::nullopt;
  std::stable_sort(able.begin(), able.end(), [](auto const* a, auto const* b) { return a->seconds < b->seconds; });
  std::vector<Choice> choices;
  for (auto const* c : able)
    if (c->seconds <= hopeless * able.front()->seconds)
      for (auto const& config : c->configs) choices.push_back({c->algorithm, config});
  if (choices.size() < 2) return std::nullopt;

  auto const key = key_of(operation, problem, prepared, facts, threads.size());
  std::map<std::string, double> const* found = nullptr;
  if (auto const row = fresh_.find(key); row != fresh_.end()) found = &row->second;
  else if (auto const old = rows_.find(key); old != rows_.end()) found = &old->second;
  if (found) {
    ++count_.remembered;
  } else if (mode_ == TuneMode::full) {
    double const left = seconds_ - count_.seconds;
    if (left <= 0) return ++count_.out_of_time, std::nullopt;
    double const begin = now();
    found = &(fresh_[key] = measure(operation, problem, prepared, choices, facts, threads, left));
    count_.seconds += now() - begin;
    ++count_.measured;
    if (on_measured) on_measured(count_);
  }
  if (!found) return std::nullopt;
  Choice const* best = nullptr;
  double least = 1e30;
  for (auto const& choice : choices)
    if (auto const row = found->find(choice.text()); row != found->end() && row->second < least) best = &choice, least = row->second;
  return best ? std::optional(*best) : std::nullopt;
}

}  // namespace falconet
