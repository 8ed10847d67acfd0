#include "falconet/plan/tune.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "falconet/base/error.h"
#include "falconet/base/file.h"
#include "falconet/base/format.h"
#include "falconet/base/nearest.h"
#include "falconet/ops/problem_text.h"
#include "falconet/plan/measure.h"

namespace falconet {

extern char const* const kernel_fingerprint;     // of the build: cmake/KernelFingerprint.cmake

namespace {

constexpr std::string_view header = "device\tisa\tthreads\tkernels\toperation\tproblem\tchoice\tus\n";
constexpr int fields = 8;
constexpr std::size_t most_problems = 20000;     // in the file; beyond, those of other kernels go
constexpr double hopeless = 8;                   // estimates so many times the best are not tried
// Field by field, as in the file: tabs separate them, so none may hold one.
// A GPU's rows have the architecture of its code in place of an instruction set, and no threads.
std::string key_of(std::string_view operation, std::string const& problem, bool prepared, DeviceFacts const& facts, int threads) {
  bool const cpu = facts.device.kind == DeviceKind::cpu;
  std::string device = facts.name;
  std::replace_if(device.begin(), device.end(), [](unsigned char c) { return c < ' '; }, ' ');
  return device + '\t' + (cpu ? std::string(name(facts.isa)) : "sm_" + std::to_string(facts.compute_capability)) + '\t' + std::to_string(cpu ? threads : 0) + '\t' + kernel_fingerprint + '\t' + std::string(operation) +
         (prepared ? " prepared\t" : "\t") + problem;
}

// Rows of what bench alone runs are measurements like others, but no choices.
bool may_be_chosen(Config const& c) { return is_deterministic(c) && c.get("descriptors_each", 0) == 0; }

}  // namespace

TuneMode parse_tune_mode(std::string_view text) {
  constexpr std::string_view names[] = {"off", "cache", "full", "search"};
  for (int i = 0; i < 4; ++i)
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

std::vector<Config> configs_to_search(Candidate const& c) {
  std::vector<Config> out = c.configs;
  for (auto const& r : c.ranges) {
    auto const same = std::count_if(c.ranges.begin(), c.ranges.end(), [&](LaunchRange const& other) { return other.key == r.key; });
    if (same > 8 && (r.least & (r.least - 1)) != 0) continue;   // of many single values the powers of two
    for (std::int64_t v = std::max(r.least, 1); v <= r.most; v *= 2) {
      std::string text;
      bool has = false;
      for (auto const& [key, value] : c.configs.front().values()) {
        has |= key == r.key;
        text += (text.empty() ? "" : ",") + key + ":" + std::to_string(key == r.key ? int(v) : value);
      }
      if (!has) text += (text.empty() ? "" : ",") + r.key + ":" + std::to_string(v);
      if (auto const config = Config::parse(text); std::find(out.begin(), out.end(), config) == out.end()) out.push_back(config);
    }
  }
  return out;
}

Tuner::Tuner(TuneMode mode, std::string file, std::optional<double> seconds)
    : mode_(mode), file_(std::move(file)), seconds_(seconds.value_or(mode == TuneMode::search ? 600 : 50)), rows_(read(file_)) {}

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

std::map<std::string, double> Tuner::measurements(std::string_view operation, std::string const& problem, bool prepared, DeviceFacts const& facts, int threads) const {
  auto const key = key_of(operation, problem, prepared, facts, threads);
  for (auto const* rows : {&fresh_, &rows_})
    if (auto const found = rows->find(key); found != rows->end()) return found->second;
  return {};
}
double Tuner::measured(std::string_view operation, std::string const& problem, bool prepared, Choice const& choice, DeviceFacts const& facts, int threads) const {
  auto const rows = measurements(operation, problem, prepared, facts, threads);
  auto const row = rows.find(choice.text());
  return row == rows.end() ? std::nan("") : row->second * 1e-6;
}

void Tuner::remember(std::string_view operation, std::string const& problem, std::map<std::string, double> const& microseconds, DeviceFacts const& facts, int threads) {
  auto const key = key_of(operation, problem, false, facts, threads);
  auto const old = rows_.find(key);
  auto& row = fresh_.try_emplace(key, old == rows_.end() ? std::map<std::string, double>{} : old->second).first->second;
  for (auto const& [choice, us] : microseconds) row[choice] = us;
}

std::optional<Choice> Tuner::choose(std::string_view operation, std::string const& problem, bool prepared, std::vector<Candidate> const& candidates, DeviceFacts const& facts,
                                    bool rivals, ThreadPool* threads) {
  if (mode_ == TuneMode::off) return std::nullopt;
  bool const search = mode_ == TuneMode::search;
  std::vector<Candidate const*> able;
  for (auto const& c : candidates)
    if (c.refusal.empty() && c.unasked.empty() && !c.baseline && (!c.rival || rivals)) able.push_back(&c);
  if (able.empty()) return std::nullopt;
  std::stable_sort(able.begin(), able.end(), [](auto const* a, auto const* b) { return a->seconds < b->seconds; });
  std::vector<Choice> choices;
  for (auto const* c : able)
    if (search || c->seconds <= hopeless * able.front()->seconds)
      for (auto const& config : search ? configs_to_search(*c) : c->configs)
        if (may_be_chosen(config)) choices.push_back({c->algorithm, config});

  auto const key = key_of(operation, problem, prepared, facts, threads ? threads->size() : 0);
  std::map<std::string, double> const* found = nullptr;
  if (auto const row = fresh_.find(key); row != fresh_.end()) found = &row->second;
  else if (auto const old = rows_.find(key); old != rows_.end() && !search) found = &old->second;
  if (found) {
    ++count_.remembered;
  } else if (mode_ != TuneMode::cache && choices.size() > 1) {
    double const left = seconds_ - count_.seconds;
    if (left <= 0) return ++count_.out_of_time, std::nullopt;
    auto const begin = std::chrono::steady_clock::now();
    found = &(fresh_[key] = measure_choices(operation, problem, prepared, choices, facts, threads, left));
    count_.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    ++count_.measured;
    if (on_measured) on_measured(count_);
  }
  if (!found) return std::nullopt;
  std::optional<Choice> best;                    // a row may hold launch parameters that only a search tries
  double least = 1e30;
  for (auto const& [text, us] : *found) try {
      Choice choice = Choice::parse(text);
      auto const c = std::find_if(able.begin(), able.end(), [&](auto const* a) { return a->algorithm == choice.algorithm; });
      if (us < least && c != able.end() && may_be_chosen(choice.config) && config_by_hand(**c, choice.config) == choice.config) best = std::move(choice), least = us;
    } catch (Error const&) {                     // of an algorithm that has such parameters no more, or no choice at all
    }
  return best;
}

}  // namespace falconet
