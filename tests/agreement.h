// Every algorithm of an operation against its reference, over lists of problems. Nothing here knows any operation: operands,
// fills and algorithms all come from its table.
//
//   expect_agreement("pool", "max n=2 c=7 ...");                         one problem, every algorithm, config and instruction set
//   for (auto& p : problems_of("pool")) expect_agreement("pool", p);     what is small enough in problems/pool/*.txt
//   expect_round_trip<PoolProblem>(text);                                parse(print(p)) == p
//
// Checked for each run: outputs (poisoned first) within a bound of the reference, and equal to it where operands are small integers
// and the arithmetic is exact; inputs unchanged; guard zones around every operand and the scratch memory intact; 1, 2 and 3
// threads give the same bytes.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/algorithm.h"
#include "falconet/ops/algorithms.h"
#include "falconet/ops/problem_list.h"
#include "falconet/tensor/element.h"
#include "sanitized.h"

namespace falconet::agreement {

// Errors are compared with bound * (|expected| + root mean square of the expected output).
struct Bounds {
  double f32 = 1e-5;                 // operands stored in f32, or results in f32 from bf16 operands
  double bf16 = 1e-2;                // results stored in bf16: 2^-8 and a little
  bool exact_integers = true;      // small-integer operands give equal bytes (unless the problem has an inexact activation)
  double index_mismatches = 1e-3;  // share of u8/i32 results that near-ties may change with normal operands
};

// Algorithms that do not add up the products themselves: how much more they amplify rounding errors than those that do, in the root mean
// square over the results and at the worst of them (derived in falconet/ops/conv/README.md), and whether small integers stay exact. Their
// errors spread: a result may take over a NaN or a rounding error of its neighbours.
struct Amplified {
  char const* choice;  // how the text of a choice begins
  double mean, worst;
  bool exact_integers;
};
constexpr Amplified amplified[] = {{"winograd:tile:4", 10.8, 31.5, false},    {"winograd", 1.7, 1.7, true},
                                   {"grouped:winograd:4", 10.8, 31.5, false}, {"grouped:winograd", 1.7, 1.7, true},
                                   {"fft", 1, 1, false}};
inline Amplified const* amplification_of(Choice const& choice) {
  std::string const text = choice.text();
  for (auto const& a : amplified)
    if (text.starts_with(a.choice)) return &a;
  return nullptr;
}

// A small counter-based generator, so that a fill depends on its seed alone.
inline std::uint64_t bits(std::uint64_t seed, std::uint64_t i) {
  std::uint64_t z = seed * 0x9e3779b97f4a7c15u + i * 0xbf58476d1ce4e5b9u + 0x632be59bd9b4e019u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}
inline double uniform(std::uint64_t seed, std::uint64_t i) { return (double(bits(seed, i) >> 11) + 0.5) * 0x1p-53; }
inline double normal(std::uint64_t seed, std::uint64_t i) {
  return std::sqrt(-2 * std::log(uniform(seed, 2 * i))) * std::cos(6.283185307179586 * uniform(seed, 2 * i + 1));
}

// Memory of one operand between two guard zones; the data is 64-byte aligned.
class Guarded {
 public:
  static constexpr std::size_t guard = 256;
  explicit Guarded(std::size_t bytes) : bytes_(bytes), memory_(bytes + 2 * guard) { std::memset(memory_.data(), 0xff, memory_.bytes()); }
  char* data() const { return static_cast<char*>(memory_.data()) + guard; }
  std::size_t bytes() const { return bytes_; }
  void poison() const { std::memset(data(), 0xff, bytes_); }
  bool intact() const {
    auto const whole = [](char const* p) { return std::all_of(p, p + guard, [](char c) { return c == char(0xff); }); };
    return whole(data() - guard) && whole(data() + bytes_);
  }

 private:
  std::size_t bytes_;
  Buffer memory_;
};

// integers: small whole numbers, and a batch of which a third is padding; otherwise normal numbers and a full batch.
inline void fill(View const& to, Operand const& o, std::uint64_t seed, bool integers) {
  if (o.fill == Fill::step_state) {
    StepState s;
    s.step = 3, s.sample = 640, s.seed = 7, s.learning_rate = 0.125f;
    s.valid_count = std::int32_t(integers ? o.limit - o.limit / 3 : o.limit);
    std::memcpy(to.data, &s, sizeof s);
    return;
  }
  auto const count = std::size_t(o.type.shape.elements());
  for (std::size_t i = 0; i < count; ++i) {
    double v = 0;
    switch (o.fill) {
      case Fill::label:
      case Fill::choice:
        v = double(bits(seed, i) % std::uint64_t(std::max<std::int64_t>(o.limit, 1)));
        break;
      case Fill::positive:
        v = integers ? double(1 + bits(seed, i) % 3) : std::abs(normal(seed, i)) + 0.5;
        break;
      default:
        if (o.type.dtype == DType::u8 || o.type.dtype == DType::i32)
          v = double(bits(seed, i) % 2);
        else
          v = integers ? double(int(bits(seed, i) % 5) - 2) : normal(seed, i);
    }
    store_element(to, std::int64_t(i), v);
  }
}

// The operands of one problem, filled once; outputs are poisoned, and inputs written in place refilled, before every run.
class Operands {
 public:
  Operands(std::vector<Operand> operands, bool integers) : operands_(std::move(operands)), integers_(integers) {
    for (std::size_t i = 0; i < operands_.size(); ++i) {
      auto const& o = operands_[i];
      memory_.push_back(o.alias >= 0 ? nullptr : std::make_unique<Guarded>(o.type.bytes()));
      views_.push_back({o.alias >= 0 ? views_[std::size_t(o.alias)].data : memory_[i]->data(), o.type});
    }
    reset();
    for (auto const& m : memory_) before_.emplace_back(m ? std::string(m->data(), m->bytes()) : std::string());
  }
  void reset() {
    for (std::size_t i = 0; i < operands_.size(); ++i)
      if (operands_[i].written) {
        if (memory_[i])
          memory_[i]->poison();
        else
          fill_input(std::size_t(operands_[i].alias));
      } else if (before_.empty()) {
        fill_input(i);
      }
  }
  std::vector<View> const& views() const { return views_; }
  std::vector<Operand> const& list() const { return operands_; }
  std::string bytes(std::size_t i) const { return {static_cast<char const*>(views_[i].data), views_[i].type.bytes()}; }
  std::vector<std::string> outputs() const {
    std::vector<std::string> out;
    for (std::size_t i = 0; i < operands_.size(); ++i)
      if (operands_[i].written) out.push_back(bytes(i));
    return out;
  }
  // What a run must not have touched; empty if all is well.
  std::string damage() const {
    for (std::size_t i = 0; i < operands_.size(); ++i) {
      if (memory_[i] && !memory_[i]->intact()) return "wrote outside operand '" + operands_[i].name + "'";
      bool in_place = operands_[i].written;
      for (auto const& o : operands_) in_place |= o.alias == int(i);
      if (!in_place && bytes(i) != before_[i]) return "changed its input '" + operands_[i].name + "'";
    }
    return {};
  }

 private:
  void fill_input(std::size_t i) { fill(views_[i], operands_[i], 17 + i, integers_); }
  std::vector<Operand> operands_;
  bool integers_;
  std::vector<std::unique_ptr<Guarded>> memory_;
  std::vector<View> views_;
  std::vector<std::string> before_;
};

// Where `got` leaves the bound around `expected`; empty if nowhere.
inline std::string difference(TensorType const& type, std::string const& expected, std::string const& got, double bound,
                              double index_mismatches) {
  auto const value = [&](std::string const& bytes, std::size_t i) { return load_element({const_cast<char*>(bytes.data()), type}, std::int64_t(i)); };
  auto const count = std::size_t(type.shape.elements());
  double square = 0;
  for (std::size_t i = 0; i < count; ++i) square += std::pow(value(expected, i), 2);
  double const scale = std::sqrt(square / double(std::max<std::size_t>(count, 1)));
  std::size_t wrong = 0, worst = 0;
  double worst_excess = 0;
  bool const index = type.dtype == DType::u8 || type.dtype == DType::i32;
  for (std::size_t i = 0; i < count; ++i) {
    double const e = value(expected, i), g = value(got, i);
    bool const same_kind = std::isfinite(e) ? std::isfinite(g) : std::isnan(e) ? std::isnan(g) : e == g;
    double const excess = !same_kind ? HUGE_VAL : !std::isfinite(e) ? 0 : std::abs(g - e) / (bound * (std::abs(e) + scale) + 1e-300);
    if (index ? e != g : !(excess <= 1)) {
      if (!wrong || excess > worst_excess) worst = i, worst_excess = excess;
      ++wrong;
    }
  }
  if (index && double(wrong) <= index_mismatches * double(count) + (index_mismatches > 0 ? 1 : 0)) return {};
  if (!wrong) return {};
  char text[240];
  std::snprintf(text, sizeof text, "%zu of %zu elements differ, the worst at %zu: %.9g instead of %.9g (bound %.2g, scale %.3g)", wrong,
                count, worst, value(got, worst), value(expected, worst), bound, scale);
  return text;
}

inline ThreadPool& pool(int threads) {
  static ThreadPool one(1), two(2), three(3);
  return threads == 1 ? one : threads == 2 ? two : three;
}

inline bool inexact_activation(std::string const& problem) {
  for (char const* name : {"leaky", "gelu", "silu", "sigmoid", "tanh"})
    if (problem.find(name) != std::string::npos) return true;
  return false;
}

// Runs one algorithm and returns what went wrong, or empty; outputs are left in `operands`.
inline std::string run_guarded(AlgorithmTable const& table, std::string const& problem, Choice const& choice, Isa isa, int threads,
                               Operands& operands) {
  operands.reset();
  Guarded scratch(table.scratch(problem, choice, DeviceKind::cpu));
  Stream stream(pool(threads), isa);
  table.bind(problem, choice, DeviceKind::cpu, operands.views(),
             {scratch.data(), {DType::u8, Shape{std::int64_t(scratch.bytes())}}})(stream);
  if (!scratch.intact()) return "wrote outside its scratch memory";
  return operands.damage();
}

// The same in two parts: the operand that Algorithm::prepare takes is brought into the algorithm's form, and lost before the run.
inline std::string run_prepared(AlgorithmTable const& table, std::string const& problem, Choice const& choice, Isa isa, int threads, Operands& operands) {
  operands.reset();
  auto const once = table.preparation(problem, choice, DeviceKind::cpu);
  std::size_t const scratch_bytes = table.scratch(problem, choice, DeviceKind::cpu);
  if (once.bytes > scratch_bytes) return "prepares more than it counts as scratch memory";
  Guarded prepared(once.bytes), scratch(scratch_bytes - once.bytes);
  auto const bytes = [](Guarded const& g) { return View{g.data(), {DType::u8, Shape{std::int64_t(g.bytes())}}}; };
  Stream stream(pool(threads), isa);
  table.bind_preparation(problem, choice, DeviceKind::cpu, operands.views(), bytes(prepared))(stream);
  View const operand = operands.views()[std::size_t(once.operand)];
  std::string const kept = operands.bytes(std::size_t(once.operand));
  std::memset(operand.data, 0xff, operand.type.bytes());
  table.bind(problem, choice, DeviceKind::cpu, operands.views(), bytes(scratch), bytes(prepared))(stream);
  std::memcpy(operand.data, kept.data(), kept.size());
  if (!prepared.intact() || !scratch.intact()) return "wrote outside its prepared or scratch memory";
  return operands.damage();
}

// The configs of a candidate, and where launch parameters may be set by hand one such choice more, which depends on the problem's text: a long list of
// problems meets all parameters together and alone, at the ends of their ranges and between.
inline std::vector<Config> configs_to_check(Candidate const& c, std::string const& problem) {
  auto out = c.configs;
  std::uint64_t seed = 0xcbf29ce484222325u, drawn = 0;
  for (unsigned char letter : problem + c.algorithm) seed = (seed ^ letter) * 0x100000001b3u;
  auto const draw = [&](std::int64_t choices) { return std::int64_t(bits(seed, drawn++) % std::uint64_t(choices)); };
  std::vector<std::string> keys;
  for (auto const& r : c.ranges)
    if (std::find(keys.begin(), keys.end(), r.key) == keys.end()) keys.push_back(r.key);
  std::string text;
  for (auto const& key : keys) {
    if (keys.size() > 1 && draw(3) == 0) continue;
    std::vector<LaunchRange> ranges;
    for (auto const& r : c.ranges)
      if (r.key == key) ranges.push_back(r);
    auto const& r = ranges[std::size_t(draw(std::int64_t(ranges.size())))];
    std::vector<int> powers;
    for (std::int64_t v = r.least; r.power_of_two && v > 0 && v <= r.most; v *= 2) powers.push_back(int(v));
    std::int64_t const how = draw(4);
    int const value = how == 0 ? r.least : !powers.empty() ? powers[std::size_t(draw(std::int64_t(powers.size())))] : how == 1 ? r.most : int(r.least + draw(std::int64_t(r.most) - r.least + 1));
    text += (text.empty() ? "" : ",") + key + ":" + std::to_string(value);
  }
  if (text.empty()) return out;
  auto const config = config_by_hand(c, Config::parse(text));
  if (std::find(out.begin(), out.end(), config) == out.end()) out.push_back(config);
  return out;
}

inline void expect_agreement(std::string_view operation, std::string const& problem, Bounds const& bounds = {}) {
  AlgorithmTable const& table = algorithms_of(operation);
  for (bool integers : {false, true}) {
    Operands operands(table.operands(problem), integers);
    std::string const of = std::string(operation) + " '" + problem + (integers ? "' (integers)" : "'");
    auto const trouble = run_guarded(table, problem, {"reference", {}}, Isa::plain, 1, operands);
    ASSERT_EQ(trouble, "") << of << ": the reference";
    auto const expected = operands.outputs();

    for (int isa = 0; isa <= int(detected_isa()); ++isa) {
      DeviceFacts facts;  // a processor of no particular make
      facts.isa = Isa(isa);
      for (auto const& candidate : table.candidates(problem, facts, true)) {
        if (!candidate.refusal.empty() || (isa > 0 && candidate.baseline)) continue;  // baselines are the same code on each
        for (auto const& config : configs_to_check(candidate, problem)) {
          Choice const choice{candidate.algorithm, config};
          Amplified const* const spread = amplification_of(choice);
          bool const exact = integers && bounds.exact_integers && !(spread && !spread->exact_integers) && !inexact_activation(problem);
          std::string const who = of + ": " + choice.text() + " on " + std::string(name(Isa(isa)));
          std::vector<std::string> first;
          for (int threads : {1, 2, 3}) {
            ASSERT_EQ(run_guarded(table, problem, choice, Isa(isa), threads, operands), "") << who << ", threads " << threads;
            auto const got = operands.outputs();
            if (threads == 1) first = got;
            ASSERT_TRUE(candidate.rival || got == first) << who << ": " << threads << " threads give other bytes than 1";
          }
          if (table.preparation(problem, choice, DeviceKind::cpu).bytes > 0)
            for (int threads : {1, 3}) {
              ASSERT_EQ(run_prepared(table, problem, choice, Isa(isa), threads, operands), "") << who << ", prepared, threads " << threads;
              ASSERT_TRUE(operands.outputs() == first) << who << ": prepared, it gives other bytes";
            }
          for (std::size_t i = 0, out = 0; i < operands.list().size(); ++i) {
            auto const& o = operands.list()[i];
            if (!o.written) continue;
            double const bound = exact ? 0 : o.type.dtype == DType::bf16 ? bounds.bf16 : bounds.f32 * (spread ? spread->mean : 1);
            EXPECT_EQ(difference(o.type, expected[out], first[out], bound, exact ? 0 : bounds.index_mismatches), "")
                << who << ", output '" << o.name << "'";
            ++out;
          }
        }
      }
    }
  }
}

template <class Problem>
void expect_round_trip(std::string const& text) {
  Problem const p = Problem::parse(text);
  EXPECT_TRUE(Problem::parse(p.text()) == p) << text << " prints as " << p.text();
}

// The files of problems/OPERATION, sorted: a new list is found here by itself.
inline std::vector<std::string> lists_of(std::string_view operation) {
  std::vector<std::string> out;
  for (auto const& entry : std::filesystem::directory_iterator(std::filesystem::path(FALCONET_SOURCE_DIR) / "problems" / operation))
    if (entry.path().extension() == ".txt") out.push_back(entry.path().string());
  std::sort(out.begin(), out.end());
  return out;
}

// All lists in problems/OPERATION, less the problems of more than `operations` floating-point operations: the reference is slow.
inline std::vector<std::string> problems_of(std::string_view operation, double operations = sanitized ? 3e6 : 3e7) {
  std::vector<std::string> out;
  for (auto const& file : lists_of(operation))
    for (auto& problem : read_problem_list(file))
      if (algorithms_of(operation).operations(problem) <= operations) out.push_back(std::move(problem));
  return out;
}

}  // namespace falconet::agreement
