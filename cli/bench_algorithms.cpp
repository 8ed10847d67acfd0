// bench conv (gemm, pool ...): the algorithms of an operation side by side on a list of problems, interleaved, outputs checked.
#include "cli/bench_algorithms.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include "cli/commands.h"
#include "cli/inputs.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "falconet/base/error.h"
#include "falconet/base/file.h"
#include "falconet/base/format.h"
#include "falconet/device/cuda/handles.h"
#include "falconet/ops/alone.h"
#include "falconet/ops/algorithms.h"
#include "falconet/ops/conv/problem.h"
#include "falconet/ops/problem_list.h"
#include "falconet/ops/problem_text.h"
#include "falconet/plan/tune.h"
#include "falconet/tensor/precision.h"

namespace falconet::cli {
namespace {

constexpr double reference_operations = 1e9;  // larger problems take the plain loops too long
// An algorithm is left out when a run of it is expected to take longer than slow_run, or than slow_ratio times the best so far and not_slow.
constexpr double slow_run = 2, slow_ratio = 30, not_slow = 0.1;   // seconds, -, seconds
constexpr double enough = 0.3;                                    // seconds: a first run as long as this is the measurement
constexpr double brief = 0.002;   // seconds: beside a vendor library, whose threads sleep and spin by rules of their own, a run as short follows one of its own

// The first problem of the operation's own lists, as an example.
std::string first_problem(std::string const& operation) {
  for (auto const& file : embedded_files())
    if (file.name.starts_with("problems/" + operation + "/"))
      if (auto const lines = problem_lines(file.text); !lines.empty()) return lines.front();
  return {};
}

// In which layouts every problem runs; empty: in its own. A picture of a GPU has both: most of a vendor's engines know nchw alone.
std::vector<std::string> layout_words(Settings const& settings) {
  if (settings.has("layouts")) return settings.texts("layouts");
  bool const picture = settings.has("plot") || settings.has("roofline");
  return picture && settings.text("device").find("cuda") != std::string::npos ? std::vector<std::string>{"nhwc", "nchw"} : std::vector<std::string>{};
}

// The list that problems= means: one problem (it has a space), a file, or a list by name; every one in the given directions, layouts, types and batch sizes,
// each once.
std::vector<std::string> problems_of(Settings const& settings, std::string const& operation) {
  if (!settings.has("problems"))
    fail(ErrorKind::usage, format("bench {} needs problems=...: {}, a file, or one problem such as '{}'", operation, problem_lists(operation), first_problem(operation)));
  auto const wanted = settings.text("problems");
  std::vector<std::string> texts;
  if (wanted.find(' ') != std::string::npos) {
    texts.push_back(wanted);
  } else {
    auto const list = program_text("problems/" + operation, wanted, ".txt", "list of problems");
    texts = problem_lines(list.text);
    if (texts.empty()) fail(ErrorKind::data, list.where + ": holds no problem");
  }
  if (operation != "conv") {
    for (char const* key : {"precision", "batch", "directions", "layouts"})
      if (settings.given(key)) fail(ErrorKind::usage, format("bench {}: {}= is of convolution only; problems of {} say what they are made of, such as '{}'", operation, key, operation, first_problem(operation)));
    return texts;
  }
  std::vector<Direction> directions;
  for (auto const& word : settings.texts("directions")) {
    std::vector<std::string> known;
    bool found = false;
    for (auto d : {Direction::fwd, Direction::bwd_data, Direction::bwd_filter}) {
      known.emplace_back(name(d));
      if (name(d) == word) directions.push_back(d), found = true;
    }
    if (!found) fail_unknown("direction", word, known);
  }
  std::vector<Layout> layouts;
  for (auto const& word : layout_words(settings)) {
    if (word != "nhwc" && word != "nchw") fail_unknown("layout", word, std::vector<std::string>{"nhwc", "nchw"});
    layouts.push_back(word == "nhwc" ? Layout::nhwc : Layout::nchw);
  }
  std::vector<Precision> precisions;
  if (settings.has("precision"))
    for (auto const& word : settings.texts("precision")) {
      std::vector<std::string> const known = {"f32", "tf32", "bf16", "f64"};
      if (std::find(known.begin(), known.end(), word) == known.end()) fail_unknown("precision", word, known);
      precisions.push_back(parse_precision(word));
    }
  std::vector<std::int64_t> batches;
  if (settings.has("batch")) batches = settings.wholes("batch");
  std::vector<std::string> out;
  for (auto const& text : texts) {
    auto const listed = ConvProblem::parse(text);
    std::vector<ConvProblem> wanted;
    for (auto n : batches.empty() ? std::vector<std::int64_t>{listed.n} : batches) {
      ConvProblem p = listed;
      p.n = int(n);
      if (precisions.empty()) wanted.push_back(p);
      for (auto precision : precisions) {
        p.x_type = p.w_type = p.y_type = precision.type, p.math = precision.math;
        wanted.push_back(p);
      }
    }
    bool const states_one = text.starts_with("fwd") || text.starts_with("bwd");  // a problem that names its direction keeps it
    for (auto& problem : wanted)
      for (auto d : states_one ? std::vector{problem.direction} : directions)
        for (auto layout : layouts.empty() ? std::vector{listed.layout} : layouts) {
          problem.direction = d, problem.layout = layout;
          auto const one = problem.text();
          if (std::find(out.begin(), out.end(), one) == out.end()) out.push_back(one);   // lines that differed in what is set here
        }
  }
  return out;
}

// "direct:tile:4" and "vectors:2", cut at the comma, are one algorithm: a name alone or with parameters is no parameter.
std::vector<std::string> named_algorithms(std::vector<std::string> const& pieces) {
  std::vector<std::string> out;
  for (auto const& piece : pieces) {
    bool const parameter = std::count_if(piece.begin(), piece.end(), [](char c) { return c == ':' || c == '='; }) == 1;
    if (parameter && !out.empty() && out.back().find(':') != std::string::npos) out.back() += "," + piece;
    else out.push_back(piece);
  }
  return out;
}

// The same problem with every element type f64, and exact.
std::string in_f64(std::string text) {
  if (auto const at = text.find(" math=tf32"); at != std::string::npos) text.erase(at, std::string_view(" math=tf32").size());
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    std::size_t end = i;
    while (end < text.size() && std::isalnum(static_cast<unsigned char>(text[end]))) ++end;
    auto const word = text.substr(i, end - i);
    out += word == "f32" || word == "bf16" ? "f64" : word;
    if (end < text.size()) out += text[end];
    i = end + 1;
  }
  return out;
}

struct Rival {
  Choice choice;
  Device device;
  Alone alone;
  std::vector<double> seconds;
  bool vendor;
  double once = 0;   // seconds of the first run
  int wanted = 0;
  double error = -1;
};

struct Pending {
  Choice choice;
  Device device;
  double estimate;   // the algorithm's own, seconds on one core
  bool baseline, vendor;
  std::size_t row;
};

// plot= and roofline= of what was measured, or read again.
void draw_rows(Settings const& settings, std::string const& operation, std::vector<BenchRow> const& all, Ceilings const& ceilings) {
  bool const search = settings.flag("search");
  auto const rows = for_picture(all, search);
  std::string const title = operation + " on " + ceilings.name;
  for (char const* key : {"plot", "roofline"}) {
    if (!settings.has(key)) continue;
    auto const file = settings.text(key);
    write_atomically(file, key == std::string_view("roofline") ? roofline_picture(title, rows, ceilings) : search ? search_picture(title, rows) : bench_picture(title, rows));
    if (!settings.flag("json")) std::printf("\ndrawn in %s\n", file.c_str());
  }
}

class Bench {
 public:
  Bench(Settings const& settings, std::string operation)
      : settings_(settings), operation_(std::move(operation)), table_(algorithms_of(operation_)), json_(settings.flag("json")), calls_(settings.text("launches") == "calls"), search_(settings.flag("search")) {
    isa_ = model_options_of(settings);
    std::string const wanted = settings.text("device");
    for (auto const word : split(wanted, ',')) devices_.push_back(facts_of(Device::parse(word), isa_));
    if (settings.has("algorithms"))
      for (auto const& text : named_algorithms(settings.texts("algorithms"))) wanted_.push_back(Choice::parse(text));
  }

  void run(std::vector<std::string> const& problems) {
    check_names(problems);
    for (char const* key : {"plot", "roofline"}) {   // said before anything is measured
      if (!settings_.has(key)) continue;
      auto const file = settings_.text(key);
      if (std::error_code error; std::filesystem::is_directory(file, error)) fail(ErrorKind::file, file + ": is a folder, expected a file to draw into");
      AtomicFile const writable(file);
    }
    catch_signals();
    for (auto const& p : problems) problem_width_ = std::max(problem_width_, p.size());
    std::vector<std::int64_t> threads = {usable_cpus()};
    if (settings_.has("threads")) threads = settings_.wholes("threads");
    std::optional<Tuner> tuner;   // remembers what a search over everything has found
    if (search_ && wanted_.empty() && !calls_) tuner.emplace(TuneMode::cache);
    for (auto t : threads) {
      ThreadPool pool{int(t)};
      Limits limits(pool, isa_);
      if (!json_) {
        std::printf("%s", rows_.empty() ? "" : "\n");
        for (auto const& facts : devices_) {
          if (facts.device.kind == DeviceKind::cpu) std::printf("%s, %s\n", facts.name.c_str(), limits.text().c_str());
          else std::printf("%s (%s), %s; a run is a tenth of ten %s\n", facts.name.c_str(), facts.device.text().c_str(), limits_of(facts.device).text().c_str(),
                           calls_ ? "calls by the host's clock" : "launches in one graph");
        }
        std::printf("median of %lld runs, fewer for slow ones; interleaved; caches as the run before leaves them\n",
                    static_cast<long long>(settings_.whole("repetitions")));
        line("problem", "algorithm", "config", "us", "least", "limit", "of limit", "err(f64)", "vs best");
      }
      for (auto const& problem : problems) try {
          if (stop_requested()) break;
          std::size_t const before = rows_.size();
          one(problem, pool, limits);
          if (tuner && !stop_requested()) remember(*tuner, problem, before, pool.size());
        } catch (Error const& e) {
          if (e.kind != ErrorKind::device || !e.layer.empty()) throw;
          throw Error(e.kind, problem, e.message, e.where);       // memory that it does not find
        }
      if (stop_requested()) break;
    }
    if (above_limit_ && !json_) std::printf("%s\n", above_limit_note);
    if (tuner) {
      tuner->save();
      if (!json_) std::printf("\nremembered for tune=cache in %s\n", tuner->file().c_str());
    }
    if (json_ || settings_.has("roofline")) {
      ThreadPool pool{int(threads.back())};
      Limits limits(pool, isa_);
      Ceilings ceilings{devices_.front().name, 0, 0};
      if (devices_.front().device.kind == DeviceKind::cpu) ceilings.operations = limits.fma(), ceilings.bytes = limits.copy(64 << 20);
      else ceilings.operations = limits_of(devices_.front().device).multiply_adds(Arithmetic::f32), ceilings.bytes = limits_of(devices_.front().device).copy();
      if (json_) {
        JsonRow row;
        row.add("what", "limits").add("name", ceilings.name).add("operations", ceilings.operations).add("bytes", ceilings.bytes);
        std::fputs(row.text().c_str(), stdout);
      }
      draw_rows(settings_, operation_, rows_, ceilings);
    } else {
      draw_rows(settings_, operation_, rows_, {devices_.front().name, 0, 0});
    }
    if (stop_requested()) fail(ErrorKind::interrupted, format("stopped; {} rows are measured", rows_.size()));
  }

 private:
  static Isa model_options_of(Settings const& settings) {
    if (!settings.has("isa")) return detected_isa();
    Isa const wanted = parse_isa(settings.text("isa"));
    if (wanted > detected_isa())
      fail(ErrorKind::device, "isa=" + settings.text("isa") + ": this processor has only " + std::string(name(detected_isa())));
    return wanted;
  }

  void check_names(std::vector<std::string> const& problems) const {
    for (auto const& choice : wanted_) {
      std::vector<std::string> known;
      for (auto const& facts : devices_)
        for (auto const& c : table_.candidates(problems.front(), facts)) known.push_back(c.algorithm);
      if (std::find(known.begin(), known.end(), choice.algorithm) == known.end())
        fail_unknown("algorithm of " + operation_, choice.algorithm, known);
    }
  }

  void one(std::string const& problem, ThreadPool& pool, Limits& limits) {
    double const operations = table_.operations(problem);
    auto const list = table_.operands(problem);
    bool const product = operation_ == "conv" || operation_ == "gemm";
    bool f64 = false, in_place = false;
    for (auto const& o : list) f64 |= o.type.dtype == DType::f64, in_place |= o.alias >= 0;
    DType const type = f64 ? DType::f64 : product && list.front().type.dtype == DType::bf16 ? DType::bf16 : DType::f32;   // of its multiply-adds
    Operands operands(list);
    std::vector<BenchRow> rows;
    std::vector<Pending> pending;
    for (auto const& facts : devices_) {
      bool const cpu = facts.device.kind == DeviceKind::cpu;
      double const limit = cpu ? limits.seconds(operations, bytes_of(list), type) : limits_of(facts.device).seconds(operation_, problem);
      // Vendor libraries are loaded only if they may run: all of them, or those that are named.
      bool const asked = settings_.flag("rivals") && (wanted_.empty() || names_a_rival(problem, facts));
      for (auto const& c : table_.candidates(problem, facts, asked)) {
        std::vector<Choice> choices;
        auto const all = [&] {   // the best guess; of a rival every engine; in a search everything
          if (!c.refusal.empty()) return std::vector<Config>{Config{}};
          auto configs = search_ ? configs_to_search(c) : c.rival ? c.configs : std::vector<Config>{c.configs.front()};
          if (!calls_) std::erase_if(configs, [](Config const& config) { return config.get("descriptors_each", 0) == 1; });   // the host's work alone
          return configs;
        };
        for (auto const& w : wanted_) {
          if (w.algorithm != c.algorithm) continue;
          if (w.config.empty())
            for (auto const& config : all()) choices.push_back({c.algorithm, config});
          else choices.push_back(c.refusal.empty() ? Choice{c.algorithm, config_by_hand(c, w.config)} : w);
        }
        if (wanted_.empty() && (!c.rival || settings_.flag("rivals")))
          for (auto const& config : all()) choices.push_back({c.algorithm, config});
        for (auto const& choice : choices) {
          BenchRow row;
          row.problem = problem, row.algorithm = c.algorithm, row.config = choice.config.text(), row.threads = pool.size(), row.limit = limit;
          row.device = facts.device.text();
          row.operations = operations, row.bytes = bytes_of(list);
          row.estimate = c.seconds, row.rival = c.rival;
          if (!c.refusal.empty()) row.refusal = "refused: " + c.refusal;
          rows.push_back(row);
          if (row.refusal.empty()) pending.push_back({choice, facts.device, c.seconds, c.baseline, c.rival, rows.size() - 1});
        }
      }
    }
    // Baselines last, when it is known what they stand beside.
    std::stable_sort(pending.begin(), pending.end(), [](Pending const& a, Pending const& b) { return !a.baseline && b.baseline; });
    std::vector<Rival> rivals;
    std::vector<std::size_t> row_of;
    double soonest = HUGE_VAL;
    for (auto const& p : pending) {
      if (stop_requested()) {
        rows[p.row].refusal = "stopped before it ran";
        continue;
      }
      auto& known = slowness_[{p.choice.algorithm, problem.substr(0, problem.find(' ')), p.device.text(), pool.size()}];
      bool const cpu = p.device.kind == DeviceKind::cpu;
      double const estimate = p.estimate < 1e20 ? p.estimate / (cpu ? pool.size() : 1) : 0;
      double const expected = estimate * (known > 0 ? known : 1) * (cpu ? 1 : 10);   // on a GPU a measurement is of ten runs
      if (wanted_.empty() && expected > std::min(slow_run, std::max(not_slow, slow_ratio * soonest))) {
        rows[p.row].refusal = format("left out: a run is expected to take {} s; algorithms={} runs it", short_number(expected), p.choice.algorithm);
        continue;
      }
      try {
        rivals.push_back({p.choice, p.device, Alone(operation_, problem, p.choice, p.device, operands.views(), pool, isa_), {}, p.vendor});
        rivals.back().once = rivals.back().alone.time(calls_);
      } catch (Error const& e) {
        if (!p.vendor) throw;
        if (rivals.size() > row_of.size()) rivals.pop_back();   // a vendor's engine that does not keep what its library promised
        rows[p.row].refusal = e.message;
        continue;
      }
      row_of.push_back(p.row);
      double const once = rivals.back().once;
      soonest = std::min(soonest, once);
      if (estimate > 0 && once > 0.005) known = once / estimate;   // shorter runs say more of what starting one takes
    }
    Stream stream(pool, isa_);
    check(problem, operations, list, operands, in_place, rivals, pool, stream);
    time(rivals);
    auto const too_fast = [&](Rival const& r) { return r.device.kind == DeviceKind::cpu && above(limits.seconds(operations, bytes_of(list), type), spread(r.seconds)); };
    if (std::any_of(rivals.begin(), rivals.end(), too_fast)) {
      limits.measure_again();
      for (auto& row : rows)
        if (row.device == "cpu") row.limit = limits.seconds(operations, bytes_of(list), type);
    }
    double best = HUGE_VAL;
    for (std::size_t i = 0; i < rivals.size(); ++i) {
      auto& row = rows[row_of[i]];
      row.repetitions = int(rivals[i].seconds.size());
      row.seconds = spread(rivals[i].seconds);
      row.error = rivals[i].error;
      above_limit_ |= above(row.limit, row.seconds);
      best = std::min(best, row.seconds.median);
    }
    std::stable_sort(rows.begin(), rows.end(), [](BenchRow const& a, BenchRow const& b) {
      return a.refusal.empty() != b.refusal.empty() ? a.refusal.empty() : a.refusal.empty() && a.seconds.median < b.seconds.median;
    });
    for (auto& row : rows) {
      row.ratio = row.seconds.median / best;
      print(row, &row == &rows.front());
      rows_.push_back(row);
    }
    std::fflush(stdout);
  }

  // The rows from `first` on are this problem's.
  void remember(Tuner& tuner, std::string const& problem, std::size_t first, int threads) const {
    for (auto const& facts : devices_) {
      std::map<std::string, double> microseconds;
      for (std::size_t i = first; i < rows_.size(); ++i)
        if (auto const& r = rows_[i]; r.refusal.empty() && r.device == facts.device.text()) microseconds[Choice{r.algorithm, Config::parse(r.config)}.text()] = r.seconds.least * 1e6;
      if (!microseconds.empty()) tuner.remember(operation_, problem, microseconds, facts, threads);
    }
  }

  static bool above(double limit, Spread const& seconds) { return limit > 1.005 * seconds.median; }  // "101 %"

  GpuLimits& limits_of(Device device) { return gpu_limits_.try_emplace(device.index, device).first->second; }

  // Every rival's output against the reference in f64 from the same inputs.
  void check(std::string const& problem, double operations, std::vector<Operand> const& list, Operands const& operands, bool in_place,
             std::vector<Rival>& rivals, ThreadPool& pool, Stream& stream) {
    if (!settings_.flag("check")) return;
    if (operations > reference_operations) {
      if (!json_)
        std::printf("%-*s  errors are not computed: %.1f GFLOP take the f64 reference long\n", int(problem_width_), problem.c_str(),
                    operations * 1e-9);
      return;
    }
    std::string const wide = in_f64(problem);
    auto const wide_list = table_.operands(wide);
    if (wide_list.size() != list.size()) return;
    Operands expected(wide_list, operands);
    Buffer const scratch(std::max<std::size_t>(table_.scratch(wide, {"reference", {}}, DeviceKind::cpu), 1));
    table_.bind(wide, {"reference", {}}, DeviceKind::cpu, expected.views(),
                {scratch.data(), {DType::u8, Shape{std::int64_t(scratch.bytes())}, Layout::nchw}})(stream);
    for (auto& r : rivals) {
      Operands const fresh(list, operands);
      Alone(operation_, problem, r.choice, r.device, fresh.views(), pool, isa_).run();
      r.error = relative_error(fresh, expected);
      if (!std::isfinite(r.error) || (!in_place && r.error > 0.1))
        fail(ErrorKind::internal,
             operation_ + " '" + problem + "': " + r.choice.text() + " on " + r.device.text() + " gives wrong results (error " + format("{:.2g}", r.error) + ")");
    }
  }

  bool names_a_rival(std::string const& problem, DeviceFacts const& facts) const {
    for (auto const& c : table_.candidates(problem, facts))
      for (auto const& w : wanted_)
        if (c.rival && w.algorithm == c.algorithm) return true;
    return false;
  }

  // Each rival's share of the problem's seconds, in turns. A run that takes long is not repeated: its first is taken.
  void time(std::vector<Rival>& rivals) const {
    double const budget = settings_.real("budget") / double(std::max<std::size_t>(rivals.size(), 1));
    int most = 0;
    for (auto& r : rivals) {
      if (r.once >= enough && r.once > budget / 2) {
        r.seconds.push_back(r.once);
        continue;
      }
      if (r.once < budget / 4) r.once = r.alone.time(calls_);   // the first run filled caches and woke threads
      r.wanted = std::clamp(int(budget / std::max(r.once, 1e-9)), 1, int(settings_.whole("repetitions")));
      most = std::max(most, r.wanted);
    }
    bool const vendors = std::any_of(rivals.begin(), rivals.end(), [](Rival const& r) { return r.vendor; });
    for (int i = 0; i < most; ++i)
      for (auto& r : rivals)
        if (i < r.wanted && (i == 0 || !stop_requested())) {
          if (vendors && r.once < brief && r.device.kind == DeviceKind::cpu) r.alone.time();
          r.seconds.push_back(r.alone.time(calls_));
        }
  }

  void line(std::string const& problem, std::string const& algorithm, std::string const& config, std::string const& us,
            std::string const& least, std::string const& limit, std::string const& share, std::string const& error,
            std::string const& ratio) const {
    std::printf("%-*s  %-20s %-18s %9s %9s %9s  %8s  %8s  %7s\n", int(problem_width_), problem.c_str(), algorithm.c_str(), config.c_str(),
                us.c_str(), least.c_str(), limit.c_str(), share.c_str(), error.c_str(), ratio.c_str());
  }

  std::string who(BenchRow const& row) const { return row.device == "cpu" ? row.algorithm : row.device + " " + row.algorithm; }

  void print(BenchRow const& row, bool first) const {
    if (json_) {
      JsonRow j;
      j.add("what", operation_)
          .add("problem", row.problem)
          .add("algorithm", row.algorithm)
          .add("config", row.config)
          .add("device", row.device);
      j.add("isa", name(isa_)).add("threads", row.threads);
      if (row.refusal.empty()) {
        j.add("us", row.seconds.median * 1e6)
            .add("us_min", row.seconds.least * 1e6)
            .add("repetitions", row.repetitions)
            .add("limit_us", row.limit * 1e6)
            .add("estimate_us", row.estimate * 1e6);
        j.add("error", row.error < 0 ? NAN : row.error).add("ratio", row.ratio);
      } else {
        j.add("refusal", row.refusal);
      }
      std::fputs(j.text().c_str(), stdout);
    } else if (!row.refusal.empty()) {
      std::printf("%-*s  %-20s %s\n", int(problem_width_), first ? row.problem.c_str() : "", who(row).c_str(), row.refusal.c_str());
    } else {
      line(first ? row.problem : "", who(row), row.config, short_number(row.seconds.median * 1e6),
           short_number(row.seconds.least * 1e6), short_number(row.limit * 1e6), format("{:.0f} %", 100 * row.limit / row.seconds.median),
           row.error < 0 ? "" : format("{:.1e}", row.error), format("{:.2f}x", row.ratio));
    }
  }

  Settings const& settings_;
  std::string operation_;
  AlgorithmTable const& table_;
  bool json_, calls_, search_, above_limit_ = false;
  std::vector<DeviceFacts> devices_;
  Isa isa_ = Isa::plain;
  std::map<int, GpuLimits> gpu_limits_;
  std::map<std::tuple<std::string, std::string, std::string, int>, double> slowness_;   // of algorithm, direction, device, threads: measured over estimated
  std::vector<Choice> wanted_;
  std::size_t problem_width_ = 7;
  std::vector<BenchRow> rows_;
};

}  // namespace

std::string problem_lists(std::string_view operation) {
  std::string const folder = "problems/" + std::string(operation) + "/";
  std::string out;
  for (auto const& file : embedded_files())
    if (file.name.starts_with(folder)) out += (out.empty() ? "" : ", ") + std::string(file.name.substr(folder.size(), file.name.size() - folder.size() - 4));
  return out;
}

int bench_algorithms(Settings& settings, std::string_view operation) {
  std::string const name(operation);
  if (settings.has("rows")) {
    if (!settings.has("plot") && !settings.has("roofline")) fail(ErrorKind::usage, "rows= draws what was recorded: plot=FILE, roofline=FILE or both are missing");
    Ceilings ceilings;
    auto rows = read_rows(name, settings.texts("rows"), ceilings);
    if (settings.has("roofline") && ceilings.bytes == 0) fail(ErrorKind::data, "rows=" + settings.text("rows") + ": no row has the limits of the device, without which there is no roofline");
    if (settings.has("problems")) {
      auto const problems = problems_of(settings, name);
      std::set<std::string> const wanted(problems.begin(), problems.end());
      std::erase_if(rows, [&](BenchRow const& r) { return !wanted.contains(r.problem); });
    }
    draw_rows(settings, name, rows, ceilings);
    return 0;
  }
  auto const problems = problems_of(settings, name);
  Bench(settings, name).run(problems);
  return 0;
}

}  // namespace falconet::cli
