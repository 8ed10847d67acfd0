// One mathematics, many named algorithms. Every operation describes one piece of work as a Problem: a plain value that compares,
// prints and parses, and is the cache key, the test label, the benchmark row and the log line. A table lists the algorithms
// that may run such problems; the plan asks the table through the type-erased AlgorithmTable, by the problem's text.
//
// A Problem type P supplies
//   std::string text() const;  static P parse(std::string_view);  bool operator==(P const&) const = default;
//   using Args = ...;                       the views by their names in the literature, and the problem's own order of operands:
//   std::vector<Operand> operands() const;  every operand in the order in which a launch lists them, inputs before outputs
//   static Args args(P const&, std::span<View const> operands);
//   double operations() const;              floating-point operations of the mathematics (2 per multiply-add)
#pragma once
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "falconet/device/device.h"
#include "falconet/tensor/tensor.h"

namespace falconet {

// Launch parameters of an algorithm: a few named integers. "threads:128,blocks:64"; the empty text is the default config.
class Config {
 public:
  Config() = default;
  Config(std::initializer_list<std::pair<char const*, int>> values);
  int get(std::string_view key, int otherwise) const;
  std::string text() const;
  static Config parse(std::string_view);           // "threads:128" or "threads=128"; throws a usage error
  bool empty() const { return values_.empty(); }
  std::vector<std::pair<std::string, int>> const& values() const { return values_; }
  bool operator==(Config const&) const = default;

 private:
  std::vector<std::pair<std::string, int>> values_;
};

// How tests and benchmarks fill an operand so that the mathematics is well-defined.
enum class Fill : std::uint8_t {
  normal,      // standard normal
  positive,    // |normal| + 0.5: variances, second moments
  label,       // i32 class indices in [0, limit)
  choice,      // u8 or i32 indices in [0, limit)
  step_state,  // one StepState, valid_count = limit
};

struct Operand {
  std::string name;
  TensorType type;
  bool written = false;                // an output; poisoned by tests before the run
  Fill fill = Fill::normal;
  std::int64_t limit = 0;
  int alias = -1;                      // an output that lies in the memory of this input (updates in place)
};
TensorType step_state_type();          // u8[sizeof(StepState)]

// A launch parameter that may be set by hand beyond the configs that are worth trying: what a kernel reads as it is launched. Several of a key: any.
struct LaunchRange {
  std::string key;
  int least, most;
  bool power_of_two;
};

template <class Problem>
struct Algorithm {
  using Args = typename Problem::Args;
  char const* name;                    // states the method: "direct", "im2col_gemm"
  DeviceKind target;
  // Why this algorithm cannot run the problem there; empty when it can. Pure. Accepted means correct.
  std::string (*reject)(Problem const&, DeviceFacts const&);
  // Launch parameters worth trying, the best guess first. Null: only the empty config.
  std::vector<Config> (*configs)(Problem const&, DeviceFacts const&) = nullptr;
  // Bytes of scratch memory. Null: none.
  std::size_t (*scratch)(Problem const&, Config const&) = nullptr;
  // Estimated seconds on one core (CPU) or the whole card (CUDA), for ranking. Pure. Null: ranked last.
  double (*seconds)(Problem const&, DeviceFacts const&) = nullptr;
  // Launches it. Allocates nothing, synchronises nothing, throws nothing but device errors.
  void (*run)(Problem const&, Config const&, Args const&, View scratch, Stream&);
  bool rival = false;                  // a vendor library: only with rivals=on, by pin, or in bench
  bool baseline = false;               // reference or naive: never reason enough to accept a fusion
  // What else may be set by hand. Null: only the configs above.
  std::vector<LaunchRange> (*ranges)(Problem const&, DeviceFacts const&) = nullptr;
  bool heeds_guard = false;            // has no effect where Stream::guard() is not finite
  // An operand that many runs read unchanged (the filter in inference) can be brought once into the form in which run wants it. prepares: that
  // operand's name; null: nothing to prepare. prepared: bytes of the form, 0: none for this problem. run without Args::prepared makes the form
  // itself, at the start of its scratch memory, which counts it; with Args::prepared, scratch begins behind it and the operand is not read.
  char const* prepares = nullptr;
  std::size_t (*prepared)(Problem const&, Config const&) = nullptr;
  void (*prepare)(Problem const&, Config const&, Args const&, View prepared, Stream&) = nullptr;
  // Why no plan takes it by itself, though it accepts; empty when there is no reason. It runs in tests and bench, and by pin. Null: none.
  std::string (*unasked)(DeviceFacts const&) = nullptr;
};

// What may be done once for many runs of a launch.
struct Preparation {
  int operand = -1;                    // which operand it replaces
  std::size_t bytes = 0;               // 0: there is nothing to prepare
};

struct Choice {
  std::string algorithm;
  Config config;
  std::string text() const;            // "direct", "implicit_gemm:tile_m:128,tile_n:64"
  static Choice parse(std::string_view);
  bool operator==(Choice const&) const = default;
};

struct Candidate {
  std::string algorithm;
  std::string refusal;                 // empty: it accepts
  std::vector<Config> configs;         // at least one when it accepts
  double seconds = 0;                  // its own estimate
  bool rival = false, baseline = false;
  std::vector<LaunchRange> ranges = {};
  std::string unasked = {};            // why it has to be pinned; empty when plans may choose it
};
// The config that a user's launch parameters mean: the first listed one that has them all; else values within the ranges, beside the first listed of what
// has no range. Throws a usage error that names the parameter that cannot be so, and what it can be.
Config config_by_hand(Candidate const&, Config const& wanted);

using Bound = std::function<void(Stream&)>;   // a launch bound to memory

// What a rival says where it is not asked.
constexpr char const* not_asked = "a vendor library; rivals=on or its name asks it";
// Whether the same operands always give the same bytes. A config that says deterministic:0 runs in bench alone; plans refuse it.
inline bool is_deterministic(Config const& c) { return c.get("deterministic", 1) != 0; }

class AlgorithmTable {
 public:
  virtual ~AlgorithmTable() = default;
  // All algorithms for the device's kind, in table order, with refusals. rivals: vendor libraries are asked too, which loads them;
  // otherwise they stand in the list as refusing.
  virtual std::vector<Candidate> candidates(std::string const& problem, DeviceFacts const&, bool rivals = false) const = 0;
  virtual std::size_t scratch(std::string const& problem, Choice const&, DeviceKind) const = 0;
  virtual std::vector<Operand> operands(std::string const& problem) const = 0;
  virtual double operations(std::string const& problem) const = 0;
  virtual bool heeds_guard(Choice const&, DeviceKind) const = 0;
  virtual Preparation preparation(std::string const& problem, Choice const&, DeviceKind) const = 0;
  // Binds a launch to its operands, in the order of operands(). Throws a usage error for an unknown algorithm. prepared: what the launch of
  // bind_preparation fills; scratch memory is then smaller by as many bytes.
  virtual Bound bind(std::string const& problem, Choice const&, DeviceKind, std::span<View const> operands, View scratch, View prepared = {}) const = 0;
  virtual Bound bind_preparation(std::string const& problem, Choice const&, DeviceKind, std::span<View const> operands, View prepared) const = 0;
};

template <class Problem>
class TableOf final : public AlgorithmTable {
 public:
  explicit TableOf(std::vector<Algorithm<Problem>> algorithms) : algorithms_(std::move(algorithms)) {}
  std::vector<Algorithm<Problem>> const& algorithms() const { return algorithms_; }

  std::vector<Candidate> candidates(std::string const& text, DeviceFacts const& facts, bool rivals = false) const override {
    Problem const problem = Problem::parse(text);
    std::vector<Candidate> out;
    for (auto const& a : algorithms_) {
      if (a.target != facts.device.kind) continue;
      Candidate c{a.name, a.rival && !rivals ? not_asked : a.reject(problem, facts), {}, 1e30, a.rival, a.baseline};
      if (c.refusal.empty()) {
        c.configs = a.configs ? a.configs(problem, facts) : std::vector<Config>{Config{}};
        if (a.seconds) c.seconds = a.seconds(problem, facts);
        if (a.ranges) c.ranges = a.ranges(problem, facts);
        if (a.unasked) c.unasked = a.unasked(facts);
      }
      out.push_back(std::move(c));
    }
    return out;
  }
  std::size_t scratch(std::string const& text, Choice const& choice, DeviceKind kind) const override {
    auto const& a = find(choice.algorithm, kind);
    return a.scratch ? a.scratch(Problem::parse(text), choice.config) : 0;
  }
  std::vector<Operand> operands(std::string const& text) const override { return Problem::parse(text).operands(); }
  double operations(std::string const& text) const override { return Problem::parse(text).operations(); }
  bool heeds_guard(Choice const& choice, DeviceKind kind) const override { return find(choice.algorithm, kind).heeds_guard; }
  Preparation preparation(std::string const& text, Choice const& choice, DeviceKind kind) const override {
    auto const& a = find(choice.algorithm, kind);
    if (!a.prepares) return {};
    Problem const problem = Problem::parse(text);
    auto const list = problem.operands();
    for (std::size_t i = 0; i < list.size(); ++i)
      if (list[i].name == a.prepares) return {int(i), a.prepared(problem, choice.config)};
    return {};
  }
  Bound bind_preparation(std::string const& text, Choice const& choice, DeviceKind kind, std::span<View const> operands, View prepared) const override {
    Problem problem = Problem::parse(text);
    auto args = Problem::args(problem, operands);
    auto prepare = find(choice.algorithm, kind).prepare;
    return [problem = std::move(problem), config = choice.config, args = std::move(args), prepared, prepare](Stream& stream) {
      prepare(problem, config, args, prepared, stream);
    };
  }
  Bound bind(std::string const& text, Choice const& choice, DeviceKind kind, std::span<View const> operands, View scratch, View prepared = {}) const override {
    Problem problem = Problem::parse(text);
    auto args = Problem::args(problem, operands);
    if constexpr (requires { args.prepared; }) args.prepared = prepared;
    auto run = find(choice.algorithm, kind).run;
    return [problem = std::move(problem), config = choice.config, args = std::move(args), scratch, run](Stream& stream) {
      run(problem, config, args, scratch, stream);
    };
  }

 private:
  Algorithm<Problem> const& find(std::string const& name, DeviceKind kind) const {
    for (auto const& a : algorithms_)
      if (a.target == kind && name == a.name) return a;
    unknown_algorithm(name);
  }
  [[noreturn]] static void unknown_algorithm(std::string const& name);
  std::vector<Algorithm<Problem>> algorithms_;
};
[[noreturn]] void fail_unknown_algorithm(std::string const& name);
template <class Problem>
void TableOf<Problem>::unknown_algorithm(std::string const& name) { fail_unknown_algorithm(name); }

// Bytes that any algorithm must move: every operand read or written once.
double bytes_of(std::vector<Operand> const& operands);

}  // namespace falconet
