// Convolution on an NVIDIA GPU. Exits 77 (skipped) where none is seen.
//   gpu_conv check [TEXT]...        (of the problems that contain a TEXT, or of the algorithms that are named) every CUDA algorithm and config against the CPU reference: poisoned
//                                   outputs and scratch, guard
//                                   zones, small integers (exact) and normal numbers, each run twice (same bytes); TF32 also on
//                                   operands that are TF32 numbers, which only the sums may change
//                                   rivals=true: every engine of vendor libraries in their place, over all lists of problems in both layouts, on normal numbers;
//                                   refusals=true: what each refuses, by its own words, and how often; seconds=N: stops after so many
//   gpu_conv bench FILE... [KEY=V]  times over lists of problems (a line that begins with its direction is run as it stands), batch=N replaces the lists' batch,
//                                   type=bf16|f32|tf32, directions=fwd,bwd_data,
//                                   store_fwd=, store_bwd_data= add slots; algorithms=TEXT: those whose names contain it; sampled results are compared with f64;
//                                   together=true: the three directions as launches of one graph, one after another; together=lanes: the filter gradient
//                                   beside the data gradient, as a plan runs them; unasked=true: also by algorithms that plans take by pin alone; contains=TEXT,TEXT: problems that do; layouts=nhwc,nchw: in
//                                   each; rivals=true: every engine of vendor libraries, too; json=true: rows for bench/conv_ratio.py
#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <set>

#include "agreement.h"
#include "falconet/base/error.h"
#include "falconet/device/cuda/handles.h"
#include "falconet/device/cuda/limits.h"
#include "falconet/ops/conv/algorithms.h"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/problem_list.h"
#include "falconet/ops/problem_text.h"
#include "gpu_conv_problems.h"
#include "gpu_test.h"

namespace falconet {
namespace {

struct Card {
  DeviceFacts facts = facts_of({DeviceKind::cuda, 0});
  CudaStream stream{0};
  CudaMemory memory;
  char* at(std::size_t offset) const { return static_cast<char*>(memory.data()) + offset; }
  // At least so many bytes; what lay there is lost where there were fewer. (Checks run side by side, so none takes the memory that only a benchmark needs.)
  void reserve(std::size_t bytes) {
    if (bytes <= memory.bytes()) return;
    memory = {};
    memory = CudaMemory(0, (bytes | ((std::size_t(64) << 20) - 1)) + 1);
  }
};

// ---------------------------------------------------------------- agreement

struct Tally {
  int problems = 0, runs = 0, failures = 0;
  std::map<std::string, int> accepted, refused;
  std::map<std::string, std::map<std::string, int>> reasons;   // algorithm -> its refusal -> how many problems
};
struct Asked {
  std::set<std::string> only;   // algorithms by name; empty: all
  bool rivals = false;          // vendor libraries in place of falconet's algorithms
};

void run_reference(ConvProblem const& p, agreement::Operands const& operands) {
  static ThreadPool threads(usable_cpus());
  std::vector<char> memory(conv_reference.scratch(p, {}));
  Stream host(threads, Isa::plain);
  conv_reference.run(p, {}, ConvProblem::args(p, operands.views()), {memory.data(), {}}, host);
}
// Every f32 input through a function.
void change_inputs(agreement::Operands const& operands, float (*change)(float)) {
  for (std::size_t i = 0; i < operands.list().size(); ++i) {
    auto const& o = operands.list()[i];
    if (o.written || o.type.dtype != DType::f32) continue;
    float* const v = operands.views()[i].as<float>();
    for (std::int64_t e = 0; e < o.type.shape.elements(); ++e) v[e] = change(v[e]);
  }
}
// The nearest number with 10 bits of mantissa, ties away from zero.
float to_tf32(float v) { return std::bit_cast<float>((std::bit_cast<std::uint32_t>(v) + 0x1000u) & ~0x1fffu); }

// TF32's promise for a plain problem: |error| <= (2^-10 + 2^-22) sum |u| |v| for both factors' rounding, and a little for the sums.
std::string beyond_tf32(ConvProblem const& p, std::string const& expected, std::string const& got) {
  agreement::Operands magnitudes(p.operands(), false);
  change_inputs(magnitudes, [](float v) { return std::abs(v); });
  run_reference(p, magnitudes);
  std::string const sums = magnitudes.outputs().front();
  auto const value = [](std::string const& bytes, std::size_t i) {
    float v;
    std::memcpy(&v, bytes.data() + i * sizeof v, sizeof v);
    return double(v);
  };
  for (std::size_t i = 0; i < expected.size() / sizeof(float); ++i) {
    double const error = std::abs(value(got, i) - value(expected, i)), bound = (0x1p-10 + 0x1p-16) * value(sums, i);
    if (!(error <= bound)) return "element " + std::to_string(i) + " is off by " + std::to_string(error) + ", more than TF32 may be: " + std::to_string(bound);
  }
  return {};
}

enum class Values { integers, normal, rounded };   // rounded: normal numbers that are TF32 numbers

// "winograd_nonfused:1": an engine of cuDNN that works in a transformed domain rounds there; nothing is known of it but the method that its name states.
bool transforms(Algorithm<ConvProblem> const& a, Config const& c) {
  return a.rival && (c.text().find("winograd") != std::string::npos || c.text().find("fft") != std::string::npos);
}

void check(Card& card, std::string const& text, Asked const& asked, Tally& tally) {
  ConvProblem const p = ConvProblem::parse(text);
  ++tally.problems;
  std::set<std::string> failed;
  for (Values values : {Values::integers, Values::normal, Values::rounded}) {
    if (values == Values::rounded && p.math != Math::tf32) continue;
    if (asked.rivals && values != Values::normal) continue;
    bool const integers = values == Values::integers;
    agreement::Operands operands(p.operands(), integers);
    if (values == Values::rounded) change_inputs(operands, to_tf32);
    run_reference(p, operands);
    auto const expected = operands.outputs();
    for (auto const* algorithm : conv_cuda_algorithms()) {
      if (algorithm->rival != asked.rivals || (!asked.only.empty() && !asked.only.contains(algorithm->name))) continue;
      if (std::string const why = algorithm->reject(p, card.facts); !why.empty()) {
        ++tally.refused[algorithm->name];
        ++tally.reasons[algorithm->name][why];
        continue;
      }
      ++tally.accepted[algorithm->name];
      auto configs = algorithm->configs ? algorithm->configs(p, card.facts) : std::vector<Config>{Config{}};
      DeviceFacts smaller = card.facts;   // and those for cards whose blocks have least shared memory (compute capability 8.6, 8.9, 12.0)
      smaller.shared_memory_bytes = 101376;
      if (algorithm->configs && algorithm->reject(p, smaller).empty())
        for (auto const& config : algorithm->configs(p, smaller))
          if (std::find(configs.begin(), configs.end(), config) == configs.end()) configs.push_back(config);
      Candidate candidate{algorithm->name, "", configs};
      if (algorithm->ranges) candidate.ranges = algorithm->ranges(p, card.facts);
      for (auto const& config : agreement::configs_to_check(candidate, text)) {
        std::string trouble;
        std::vector<std::string> first;
        for (int round = 0; round < 2 && trouble.empty(); ++round) try {
            // Operands one after another between guard zones of 4 KiB, everything that is not an input poisoned.
            constexpr std::size_t guard = 4096;
            std::vector<std::size_t> at;
            std::size_t used = guard;
            for (auto const& v : operands.views()) {
              at.push_back(used);
              used += (v.type.bytes() + 255) / 256 * 256 + guard;
            }
            // The second run begins with the filter in the algorithm's own form, where it has one, and finds nothing where the filter lay.
            std::size_t const prepared_bytes = round == 1 && algorithm->prepares ? algorithm->prepared(p, config) : 0;
            std::size_t const scratch = used, scratch_bytes = (algorithm->scratch ? algorithm->scratch(p, config) : 0) - prepared_bytes;
            used += (scratch_bytes + 255) / 256 * 256 + guard;
            std::size_t const prepared = used;
            used += prepared_bytes ? (prepared_bytes + 255) / 256 * 256 + guard : 0;
            card.reserve(used);
            std::vector<View> views;
            for (std::size_t i = 0; i < at.size(); ++i) views.push_back({card.at(at[i]), operands.views()[i].type});
            fill_bytes(card.at(0), 0xff, used, card.stream);
            for (std::size_t i = 0; i < views.size(); ++i)
              if (!operands.list()[i].written) copy_to_device(views[i].data, operands.views()[i].data, views[i].type.bytes(), card.stream);
            Stream stream = card.stream.stream();
            ConvArgs args = ConvProblem::args(p, views);
            if (prepared_bytes) {
              algorithm->prepare(p, config, args, {card.at(prepared), {}}, stream);
              fill_bytes(args.w.data, 0xff, args.w.type.bytes(), card.stream);
              args.prepared = {card.at(prepared), {}};
            }
            algorithm->run(p, config, args, {card.at(scratch), {}}, stream);
            std::size_t const behind = scratch + scratch_bytes;   // what scratch memory holds does not matter
            std::string everything(scratch, 0), rest(used - behind, 0);
            copy_to_host(everything.data(), card.at(0), scratch, card.stream);
            copy_to_host(rest.data(), card.at(behind), rest.size(), card.stream);
            card.stream.synchronize();
            std::vector<std::string> got;
            auto const clean = [&](std::size_t from, std::size_t to) {
              auto const& part = from < scratch ? everything : rest;
              std::size_t const begin = from < scratch ? 0 : behind;
              return std::all_of(part.begin() + std::ptrdiff_t(from - begin), part.begin() + std::ptrdiff_t(to - begin), [](char c) { return c == char(0xff); });
            };
            for (std::size_t i = 0; i < views.size(); ++i) {
              std::size_t const begin = std::size_t(static_cast<char*>(views[i].data) - card.at(0)), end = begin + views[i].type.bytes();
              if (!clean(begin - guard, begin) || !clean(end, end + guard)) trouble = "wrote outside operand '" + operands.list()[i].name + "'";
              if (operands.list()[i].written) got.push_back(everything.substr(begin, end - begin));
            }
            if (!clean(behind, prepared) || !clean(prepared + prepared_bytes, used)) trouble = "wrote outside its scratch memory or its prepared filter";
            if (round == 0) first = got;
            else if (got != first && is_deterministic(config)) trouble = "two runs gave different bytes";
          } catch (Error const& e) {
            trouble = e.what();
          }
        ++tally.runs;
        auto const* const spread = agreement::amplification_of({algorithm->name, config});
        if (asked.rivals && trouble.find(" failed (status ") != std::string::npos) {   // an engine that does not keep what its library promised: bench says so, too
          ++tally.reasons[std::string(algorithm->name) + " " + config.text()][trouble.substr(0, trouble.find(';'))];
          continue;
        }
        double const amplified = spread ? spread->mean : transforms(*algorithm, config) ? agreement::amplified[0].mean : 1;
        bool const exact = integers && !agreement::inexact_activation(text) && !(spread && !spread->exact_integers);
        bool const tensor_cores = algorithm == &conv_cuda_implicit_gemm_tf32 || (asked.rivals && p.math == Math::tf32);
        // What pointwise_mma makes on load is rounded to bf16 before it is multiplied, 2^-9 / sqrt(3) of it on average: of millions of results, and where the
        // factors are far from their mean, the worst is some 16 times that.
        bool const rounds = algorithm == &conv_cuda_pointwise_mma && (p.load_x != OnLoad{} || p.load_dy != OnLoad{});
        for (std::size_t i = 0, out = 0; trouble.empty() && i < operands.list().size(); ++i) {
          auto const& o = operands.list()[i];
          if (!o.written) continue;
          // f32 results of bf16 data, and statistics of values that were rounded to bf16 (a value on the edge may round the other way)
          // TF32: 2^-8 as a matter of statistics; factors that are TF32 numbers already leave the sums, whose last bits a tensor core cuts off.
          double const bound = exact ? 0 : tensor_cores ? (values == Values::rounded ? 5e-5 : 0x1p-8) : rounds ? 2e-2 : o.type.dtype == DType::bf16 ? 1e-2 : o.type.dtype == DType::f64 ? 1e-12 : p.x_type == DType::bf16 ? 2e-3 : 2e-5 * amplified;
          // Small integers make windows of equal values, of which an algorithm that rounds takes any: then winners say nothing.
          bool const any_winner = integers && !exact && o.type.dtype == DType::u8;
          if (!any_winner) trouble = agreement::difference(o.type, expected[out], first[out], bound, exact ? 0 : 1e-3);
          if (trouble.empty() && tensor_cores && !asked.rivals && values == Values::normal && p.plain()) trouble = beyond_tf32(p, expected[out], first[out]);
          if (!trouble.empty()) trouble = "output '" + o.name + "': " + trouble;
          ++out;
        }
        if (trouble.empty()) continue;
        ++tally.failures;
        if (failed.insert(algorithm->name).second || tally.failures < 40)
          std::printf("FAILED %s %s %s: %s\n  %s\n", algorithm->name, config.text().c_str(), integers ? "integers" : values == Values::normal ? "normal" : "rounded", trouble.c_str(), text.c_str());
        if (trouble.find("cuda") != std::string::npos) throw Error(ErrorKind::device, "", trouble, std::source_location::current());   // the context is lost
      }
    }
  }
}

int run_checks(Card& card, std::vector<std::string> parts) {
  Tally tally;
  Asked asked;
  asked.rivals = std::erase(parts, "rivals=true") > 0;
  bool const reasons = std::erase(parts, "refusals=true") > 0;
  auto& only = asked.only;
  double seconds = HUGE_VAL;
  std::erase_if(parts, [&](std::string const& part) { return part.starts_with("seconds=") && (seconds = std::stod(part.substr(8)), true); });
  auto const begin = std::chrono::steady_clock::now();
  int index = 0, left_out = 0;
  for (auto const* algorithm : conv_cuda_algorithms())
    if (std::erase(parts, algorithm->name)) only.insert(algorithm->name);
  for (auto const& p : asked.rivals ? gpu_test::problems_for_rivals() : gpu_test::problems_to_check()) {
    bool const named = only.empty() || std::any_of(conv_cuda_algorithms().begin(), conv_cuda_algorithms().end(), [&](auto const* a) {
      return only.contains(a->name) && a->reject(ConvProblem::parse(p), card.facts).empty();
    });
    bool const wanted = named && (parts.empty() || std::any_of(parts.begin(), parts.end(), [&](auto const& part) { return p.find(part) != p.npos; }));
    if (!wanted || !gpu_test::in_shard(index++)) continue;
    if (std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() < seconds) check(card, p, asked, tally);
    else ++left_out;
  }
  if (left_out) std::printf("stopped after %g s: %d problems are left out\n", seconds, left_out);
  std::printf("%d problems, %d runs, %d failures\n", tally.problems, tally.runs, tally.failures);
  for (auto const& [name, count] : tally.accepted) std::printf("  %-24s accepted %d, refused %d\n", name.c_str(), count, tally.refused[name]);
  if (reasons)
    for (auto const& [name, list] : tally.reasons)
      for (auto const& [why, count] : list) std::printf("  %s refuses %d: %s\n", name.c_str(), count, why.c_str());
  return tally.failures ? 1 : 0;
}

// ---------------------------------------------------------------- benchmark

// Operand i holds base[i] repeated with a prime period, so that the value of any element is known on the host without a copy.
constexpr std::size_t period = 1000003;

double median(std::vector<double> v) { return std::sort(v.begin(), v.end()), v[v.size() / 2]; }

// Microseconds of a launch, the mean of so many in a row.
double time_of(Card& card, CudaGraph const& graph, int launches) {
  CudaEvent start(0), stop(0);
  start.record(card.stream);
  for (int l = 0; l < launches; ++l) graph.launch(card.stream);
  stop.record(card.stream);
  stop.synchronize();
  return stop.milliseconds_since(start) * 1e3 / launches;
}

// Sampled elements of the plain result against f64; the worst error over (|expected| + rms).
double sampled_error(Card& card, ConvProblem const& p, std::vector<View> const& views, std::vector<std::vector<bf16>> const& base, View const& result) {
  bool const fwd = p.direction == Direction::fwd, data = p.direction == Direction::bwd_data;
  auto value = [&](int operand, std::int64_t i) { return double(to_float(base[std::size_t(operand)][std::size_t(i) % period])); };
  std::int64_t const P = p.p(), Q = p.q(), elements = result.type.shape.elements(), C = p.c / p.groups, K = p.k / p.groups;
  int const samples = !fwd && !data && p.n * P * Q > 1 << 18 ? 6 : 40;   // an element of a filter gradient takes them all
  std::vector<double> want, got;
  for (int i = 0; i < samples; ++i) {
    std::int64_t const e = i < 4 ? elements - 1 - i : std::int64_t(agreement::bits(5, std::uint64_t(i)) % std::uint64_t(elements));
    double sum = 0;
    if (fwd) {
      std::int64_t const k = e % p.k, q = e / p.k % Q, r0 = e / p.k / Q % P, n = e / p.k / Q / P;
      for (int r = 0; r < p.r; ++r)
        for (int s = 0; s < p.s; ++s) {
          std::int64_t const h = r0 * p.stride_h - p.pad_top + r * p.dilation_h, w = q * p.stride_w - p.pad_left + s * p.dilation_w;
          if (h < 0 || w < 0 || h >= p.h || w >= p.w) continue;
          for (std::int64_t c = 0; c < C; ++c) sum += value(0, ((n * p.h + h) * p.w + w) * p.c + k / K * C + c) * value(1, ((k * p.r + r) * p.s + s) * C + c);
        }
    } else if (data) {
      std::int64_t const c = e % p.c, w = e / p.c % p.w, h = e / p.c / p.w % p.h, n = e / p.c / p.w / p.h;
      for (int r = 0; r < p.r; ++r)
        for (int s = 0; s < p.s; ++s) {
          std::int64_t const up = h + p.pad_top - r * p.dilation_h, left = w + p.pad_left - s * p.dilation_w;
          if (up < 0 || left < 0 || up % p.stride_h || left % p.stride_w || up / p.stride_h >= P || left / p.stride_w >= Q) continue;
          for (std::int64_t k = c / C * K; k < (c / C + 1) * K; ++k)
            sum += value(1, ((n * P + up / p.stride_h) * Q + left / p.stride_w) * p.k + k) * value(0, ((k * p.r + r) * p.s + s) * C + c % C);
        }
    } else {
      std::int64_t const s = e / C % p.s, r = e / C / p.s % p.r, k = e / C / p.s / p.r, c = k / K * C + e % C;
      for (std::int64_t n = 0; n < p.n; ++n)
        for (std::int64_t i0 = 0; i0 < P; ++i0) {
          std::int64_t const h = i0 * p.stride_h - p.pad_top + r * p.dilation_h;
          if (h < 0 || h >= p.h) continue;
          for (std::int64_t j = 0; j < Q; ++j) {
            std::int64_t const w = j * p.stride_w - p.pad_left + s * p.dilation_w;
            if (w < 0 || w >= p.w) continue;
            sum += value(0, ((n * p.h + h) * p.w + w) * p.c + c) * value(1, ((n * P + i0) * Q + j) * p.k + k);
          }
        }
    }
    char raw[8] = {};
    std::size_t const size = size_of(result.type.dtype);
    copy_to_host(raw, static_cast<char*>(result.data) + std::size_t(e) * size, size, card.stream);
    card.stream.synchronize();
    want.push_back(sum), got.push_back(load_element({raw, result.type}, 0));
  }
  double square = 0, worst = 0;
  for (double v : want) square += v * v;
  double const rms = std::sqrt(square / samples);
  for (int i = 0; i < samples; ++i) {
    double const error = std::abs(got[std::size_t(i)] - want[std::size_t(i)]) / (std::abs(want[std::size_t(i)]) + rms);
    worst = std::isnan(error) ? HUGE_VAL : std::max(worst, error);
  }
  (void)views;
  return worst;
}

void bench(Card& card, ConvProblem const& p, std::vector<std::vector<bf16>> const& base, bool every_config, bool rivals, bool json, std::string const& part) {
  auto const operands = p.operands();
  std::vector<View> views;
  std::size_t used = 0;
  int pattern = 0;
  View result;
  for (auto const& o : operands) {
    views.push_back({card.at(used), o.type});
    std::size_t const bytes = o.type.bytes();
    if (o.fill == Fill::step_state) {
      StepState s;
      s.valid_count = p.n;
      copy_to_device(card.at(used), &s, sizeof s, card.stream);
    } else if (!o.written) {   // f32 elements are then pairs of normal bf16 numbers, the upper half deciding
      std::size_t done = std::min(bytes, period * 2);
      copy_to_device(card.at(used), base[std::size_t(pattern++)].data(), done, card.stream);
      for (; done < bytes; done += std::min(done, bytes - done)) copy_on_device(card.at(used + done), card.at(used), std::min(done, bytes - done), card.stream);
    } else {
      fill_bytes(card.at(used), o.written ? 0xff : 0, bytes, card.stream);
    }
    if (o.written && !result) result = views.back();
    used += (bytes + 1023) / 1024 * 1024;
  }
  double const bytes = bytes_of(operands), operations = p.operations();
  double soonest = HUGE_VAL, fastest[2] = {HUGE_VAL, HUGE_VAL};   // fastest: falconet's and rivals' so far, us
  for (auto const* algorithm : conv_cuda_algorithms()) {
    bool const wanted = !algorithm->baseline && std::string_view(algorithm->name).find(part) != std::string_view::npos;
    if (!wanted || (algorithm->rival && !rivals) || !algorithm->seconds || !algorithm->reject(p, card.facts).empty()) continue;
    double const estimate = algorithm->seconds(p, card.facts);
    if (json && !algorithm->rival && estimate > 6 * soonest) continue;   // the table stands best first
    soonest = std::min(soonest, estimate);
    auto configs = algorithm->configs ? algorithm->configs(p, card.facts) : std::vector<Config>{Config{}};
    if (!every_config && !algorithm->rival) configs.resize(1);
    std::erase_if(configs, [&](Config const& c) {
      std::size_t const scratch = algorithm->scratch ? algorithm->scratch(p, c) : 0;
      return c.get("descriptors_each", 0) == 1 || used + scratch > std::size_t(8) << 30;
    });
    for (std::size_t i = 0; i < configs.size(); ++i) try {
        View const scratch{card.at(used), {}};
        Stream stream = card.stream.stream();
        fill_bytes(result.data, 0xff, result.type.bytes(), card.stream);
        auto const args = ConvProblem::args(p, views);
        int const inside = json && operations < 1e9 ? 10 : 1;   // launches of one graph: starting it is then no part of a small one's time
        if (algorithm->rival) algorithm->run(p, configs[i], args, scratch, stream);   // loads what cannot be loaded during a capture
        CudaGraph const graph(card.stream, [&](Stream& s) {
          for (int run = 0; run < inside; ++run) algorithm->run(p, configs[i], args, scratch, s);
        });
        auto const timed = [&](int launches) { return time_of(card, graph, launches) / inside; };
        double& best = fastest[algorithm->rival];
        double once = timed(2);
        bool const hopeless = json && once > 4 * best && once > 200;   // said, but not measured again
        if (!hopeless) once = timed(2);
        int const launches = int(std::clamp(600 / once, 1.0, 50.0));
        std::vector<double> warm, cold;
        if (hopeless || (json && once > 3 * best)) warm.push_back(once);
        for (int round = 0; round < (json ? 3 : 7) && (round > 0 || warm.empty()); ++round) warm.push_back(timed(launches));
        best = std::min(best, median(warm));
        if (json) {
          std::printf("{\"problem\": \"%s\", \"algorithm\": \"%s\", \"config\": \"%s\", \"us\": %.2f}\n", p.text().c_str(), algorithm->name, configs[i].text().c_str(), median(warm));
          continue;
        }
        for (int round = 0; round < 3; ++round) {
          fill_bytes(card.at(std::size_t(8) << 30), round, std::size_t(256) << 20, card.stream);
          cold.push_back(timed(1));
        }
        double const us = median(warm);
        double const error = p.plain() && p.x_type == DType::bf16 ? sampled_error(card, p, views, base, result) : 0;
        std::printf("%-58s %-20s %-42s %7.1f us  min %7.1f cold %7.1f  %6.1f TF %5.2f TB/s  est %6.1f%s\n", p.text().c_str(), algorithm->name, configs[i].text().c_str(), us,
                    *std::min_element(warm.begin(), warm.end()), median(cold), operations / us / 1e6, bytes / us / 1e6, algorithm->seconds(p, card.facts) * 1e6,
                    error > 1e-2 ? "  WRONG" : "");
      } catch (Error const& e) {
        std::printf("%s %s %s: %s\n", p.text().c_str(), algorithm->name, configs[i].text().c_str(), e.what());
        if (!algorithm->rival) throw;
      }
  }
}

// The three directions of one convolution, each by the algorithm of the lowest estimate, as three launches in one graph.
void bench_together(Card& card, ConvProblem p, bool lanes, bool unasked, bool json) {
  struct Part {
    ConvProblem problem;
    Algorithm<ConvProblem> const* algorithm;
    Config config;
    std::vector<View> views;
    View scratch;
  };
  std::vector<Part> parts;
  std::size_t used = 0;
  std::string names;
  for (Direction d : {Direction::fwd, Direction::bwd_data, Direction::bwd_filter}) {
    p.direction = d;
    Part part{p, nullptr, {}, {}, {}};
    for (auto const* algorithm : conv_cuda_algorithms())
      if (!algorithm->rival && algorithm->seconds && (!algorithm->unasked || unasked) && algorithm->reject(p, card.facts).empty() && (!part.algorithm || algorithm->seconds(p, card.facts) < part.algorithm->seconds(p, card.facts))) part.algorithm = algorithm;
    if (part.algorithm->configs) part.config = part.algorithm->configs(p, card.facts).front();
    auto const place = [&](std::size_t bytes) {
      char* const at = card.at(used);
      used += (bytes + 1023) / 1024 * 1024;
      return at;
    };
    agreement::Operands const filled(p.operands(), false);
    for (auto const& v : filled.views()) {
      part.views.push_back({place(v.type.bytes()), v.type});
      copy_to_device(part.views.back().data, v.data, v.type.bytes(), card.stream);
    }
    card.stream.synchronize();
    part.scratch = {place(part.algorithm->scratch ? part.algorithm->scratch(p, part.config) : 0), {}};
    names += std::string(names.empty() ? "" : " | ") + part.algorithm->name + ":" + part.config.text();
    parts.push_back(std::move(part));
  }
  CudaStream const beside(0);
  CudaEvent fork(0), join(0);
  CudaGraph const graph(card.stream, [&](Stream& s) {
    auto const launch = [](Part const& part, Stream& on) { part.algorithm->run(part.problem, part.config, ConvProblem::args(part.problem, part.views), part.scratch, on); };
    launch(parts[0], s);
    if (lanes) {
      fork.record(card.stream);
      beside.wait(fork);
      Stream other = beside.stream();
      launch(parts[2], other);
      join.record(beside);
    }
    launch(parts[1], s);
    if (lanes) card.stream.wait(join);
    else launch(parts[2], s);
  });
  auto const timed = [&](int launches) { return time_of(card, graph, launches); };
  (void)timed(200);
  std::vector<double> us;
  for (int round = 0; round < 7; ++round) us.push_back(timed(1000));
  p.direction = Direction::fwd;
  double const least = *std::min_element(us.begin(), us.end());
  if (json) std::printf("{\"problem\": \"%s\", \"lanes\": %s, \"us\": %.3f, \"us_min\": %.3f, \"algorithms\": \"%s\"}\n", p.text().c_str(), lanes ? "true" : "false", median(us), least, names.c_str());
  else std::printf("%-40s three directions, one graph of %zu nodes: %6.2f us  min %6.2f  %s\n", p.text().c_str(), graph.nodes(), median(us), least, names.c_str());
}

int run_bench(Card& card, std::vector<std::string> const& arguments) {
  card.reserve(std::size_t(9) << 30);
  std::map<std::string, std::string> settings;
  std::vector<std::string> files;
  for (auto const& a : arguments)
    if (auto equals = a.find('='); equals != std::string::npos) settings[a.substr(0, equals)] = a.substr(equals + 1);
    else files.push_back(a);
  std::vector<std::vector<bf16>> base(8, std::vector<bf16>(period));
  for (std::size_t i = 0; i < base.size(); ++i)
    for (std::size_t j = 0; j < period; ++j) base[i][j] = to_bf16(float(agreement::normal(i + 1, j)));
  std::string const directions = settings.contains("directions") ? settings["directions"] : "fwd,bwd_data,bwd_filter";
  for (auto const& file : files)
    for (auto const& line : read_problem_list(file)) {
      if (auto const parts = split(settings["contains"], ','); !parts.empty() && std::none_of(parts.begin(), parts.end(), [&](auto part) { return line.find(part) != std::string::npos; })) continue;
      ConvProblem p = ConvProblem::parse(line);
      if (line.starts_with("fwd") || line.starts_with("bwd")) {
        bench(card, p, base, settings["configs"] != "first", settings["rivals"] == "true", settings["json"] == "true", settings["algorithms"]);
        continue;
      }
      if (settings.contains("batch")) p.n = std::stoi(settings["batch"]);
      Precision const precision = settings.contains("type") ? parse_precision(settings["type"]) : DType::bf16;
      p.x_type = p.w_type = p.y_type = precision.type, p.math = precision.math;
      if (std::string const& together = settings["together"]; together == "true" || together == "lanes") {
        bench_together(card, p, together == "lanes", settings["unasked"] == "true", settings["json"] == "true");
        continue;
      }
      for (Direction d : {Direction::fwd, Direction::bwd_data, Direction::bwd_filter}) {
        if (("," + directions + ",").find("," + std::string(name(d)) + ",") == std::string::npos) continue;
        p.direction = d;
        std::string const slots = settings["store_" + std::string(name(d))];
        for (Layout layout : {Layout::nhwc, Layout::nchw}) {
          if (settings.contains("layouts") ? settings["layouts"].find(layout == Layout::nhwc ? "nhwc" : "nchw") == std::string::npos : layout != p.layout) continue;
          ConvProblem q = slots.empty() ? p : ConvProblem::parse(p.text() + " store=" + slots);
          q.layout = layout;
          bench(card, q, base, settings["configs"] != "first", settings["rivals"] == "true", settings["json"] == "true", settings["algorithms"]);
        }
      }
    }
  if (settings["json"] == "true")   // what falconet bench conv rows= draws rooflines under
    std::printf("{\"what\": \"limits\", \"name\": \"%s\", \"operations\": %.4g, \"bytes\": %.4g}\n", card.facts.name.c_str(),
                multiply_adds_per_second(card.facts.device, Arithmetic::f32), copy_bytes_per_second(card.facts.device));
  return 0;
}

}  // namespace
}  // namespace falconet

int main(int argc, char** argv) {
  using namespace falconet;
  if (int const code = gpu_test::skipped()) return code;
  CudaStatus const status = cuda_status();
  try {
    Card card;
    std::vector<std::string> const arguments(argv + std::min(argc, 2), argv + argc);
    std::string const what = argc > 1 ? argv[1] : "check";
    std::printf("%s, driver %d, runtime %d, kernels %s\n", card.facts.name.c_str(), status.driver_version, status.runtime_version, status.architectures.c_str());
    return what == "bench" ? run_bench(card, arguments) : run_checks(card, arguments);
  } catch (Error const& e) {
    std::printf("error: %s\n", e.what());
    return 1;
  }
}
