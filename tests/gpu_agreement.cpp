// Every CUDA algorithm of every operation against the CPU reference, over problems/OPERATION/*.txt, on an NVIDIA GPU: outputs and scratch
// poisoned, guard zones, small integers (exact where the arithmetic is) and normal numbers, every config, each run twice (same bytes).
// Exits 77 (skipped) where no GPU is seen. Usage: gpu_agreement [OPERATION...]; convolution has its own program, gpu_conv.
#include <cstdio>
#include <map>

#include "agreement.h"
#include "falconet/base/error.h"
#include "falconet/device/cuda/handles.h"
#include "gpu_test.h"

namespace falconet {
namespace {

struct Card {
  DeviceFacts facts = facts_of({DeviceKind::cuda, 0});
  CudaStream stream{0};
  CudaMemory memory{0, std::size_t(4) << 30};
  char* at(std::size_t offset) const { return static_cast<char*>(memory.data()) + offset; }
};

struct Tally {
  int problems = 0, runs = 0, failures = 0;
  std::map<std::string, int> accepted, refused;
};

// Runs a launch on a copy of the operands; returns what went wrong, and the outputs' bytes.
std::string run_on(Card& card, AlgorithmTable const& table, std::string const& problem, Choice const& choice, agreement::Operands const& operands,
                   std::vector<std::string>& outputs) {
  constexpr std::size_t guard = 4096;
  std::vector<View> views;
  std::size_t used = guard;
  for (std::size_t i = 0; i < operands.views().size(); ++i) {
    auto const& v = operands.views()[i];
    int const alias = operands.list()[i].alias;
    views.push_back({alias >= 0 ? views[std::size_t(alias)].data : card.at(used), v.type});
    if (alias < 0) used += (v.type.bytes() + 255) / 256 * 256 + guard;
  }
  std::size_t const scratch = used, scratch_bytes = table.scratch(problem, choice, DeviceKind::cuda);
  used += (scratch_bytes + 255) / 256 * 256 + guard;
  if (used > card.memory.bytes()) return "needs " + std::to_string(used) + " bytes, more than the test's memory";
  fill_bytes(card.at(0), 0xff, used, card.stream);
  for (std::size_t i = 0; i < views.size(); ++i)
    if (!operands.list()[i].written) copy_to_device(views[i].data, operands.views()[i].data, views[i].type.bytes(), card.stream);
  Stream stream = card.stream.stream();
  table.bind(problem, choice, DeviceKind::cuda, views, {card.at(scratch), {}})(stream);
  std::string everything(used, 0);
  copy_to_host(everything.data(), card.at(0), used, card.stream);
  card.stream.synchronize();
  auto const clean = [&](std::size_t from, std::size_t to) {
    return std::all_of(everything.begin() + std::ptrdiff_t(from), everything.begin() + std::ptrdiff_t(to), [](char c) { return c == char(0xff); });
  };
  outputs.clear();
  for (std::size_t i = 0; i < views.size(); ++i) {
    std::size_t const begin = std::size_t(static_cast<char*>(views[i].data) - card.at(0)), end = begin + views[i].type.bytes();
    if (!clean(begin - guard, begin) || !clean(end, end + guard)) return "wrote outside operand '" + operands.list()[i].name + "'";
    if (operands.list()[i].written) outputs.push_back(everything.substr(begin, end - begin));
  }
  return clean(scratch + scratch_bytes, used) ? "" : "wrote outside its scratch memory";
}

void check(Card& card, std::string const& operation, std::string const& problem, Tally& tally) {
  AlgorithmTable const& table = algorithms_of(operation);
  ++tally.problems;
  for (bool integers : {true, false}) {
    agreement::Operands operands(table.operands(problem), integers);
    agreement::Operands fresh(table.operands(problem), integers);   // inputs as they were, also those updated in place
    if (auto trouble = agreement::run_guarded(table, problem, {"reference", {}}, Isa::plain, 3, operands); !trouble.empty()) {
      std::printf("reference: %s: %s\n", problem.c_str(), trouble.c_str());
      ++tally.failures;
      return;
    }
    auto const expected = operands.outputs();
    for (auto const& candidate : table.candidates(problem, card.facts)) {
      std::string const who = operation + " " + candidate.algorithm;
      if (!candidate.refusal.empty()) {
        ++tally.refused[who];
        continue;
      }
      ++tally.accepted[who];
      for (auto const& config : agreement::configs_to_check(candidate, problem)) {
        std::string trouble;
        std::vector<std::string> first, second;
        try {
          trouble = run_on(card, table, problem, {candidate.algorithm, config}, fresh, first);
          if (trouble.empty()) trouble = run_on(card, table, problem, {candidate.algorithm, config}, fresh, second);
          if (trouble.empty() && first != second) trouble = "two runs gave different bytes";
        } catch (Error const& e) {
          trouble = e.what();
        }
        ++tally.runs;
        bool const exact = integers && !agreement::inexact_activation(problem) && operation != "softmax" && operation != "loss" && operation != "batch_norm" && operation != "conv_norm" && operation != "optimizer" &&
                           problem.find("average") == std::string::npos && problem.find("mean") == std::string::npos && problem.find("spread") == std::string::npos;
        for (std::size_t i = 0, out = 0; trouble.empty() && i < operands.list().size(); ++i) {
          auto const& o = operands.list()[i];
          if (!o.written) continue;
          // f32 beside bf16 images: sums of results that rounding may move by 2^-8, bound as in gpu_conv.
          bool const of_rounded = operation == "conv_norm" && problem.find("bf16") != std::string::npos;
          double const bound = exact ? 0 : o.type.dtype == DType::bf16 ? 1e-2 : o.type.dtype == DType::f64 ? 1e-10 : of_rounded ? 2e-3 : 2e-5;
          trouble = agreement::difference(o.type, expected[out], first[out], bound, exact ? 0 : 1e-3);
          if (!trouble.empty()) trouble = "output '" + o.name + "': " + trouble;
          ++out;
        }
        if (trouble.empty()) continue;
        if (++tally.failures < 60) std::printf("FAILED %s %s %s: %s\n  %s\n", who.c_str(), config.text().c_str(), integers ? "integers" : "normal", trouble.c_str(), problem.c_str());
        if (trouble.find("cuda") != std::string::npos) throw Error(ErrorKind::device, "", trouble, std::source_location::current());   // the context is lost
      }
    }
  }
}

}  // namespace
}  // namespace falconet

int main(int argc, char** argv) {
  using namespace falconet;
  if (int const code = gpu_test::skipped()) return code;
  Tally tally;
  try {
    Card card;
    std::vector<std::string> operations(argv + 1, argv + argc);
    if (operations.empty())
      for (auto operation : operations_with_algorithms())
        if (operation != "conv") operations.emplace_back(operation);
    int index = 0;
    for (auto const& operation : operations)
      for (auto const& problem : agreement::problems_of(operation))
        if (gpu_test::in_shard(index++)) check(card, operation, problem, tally);
  } catch (Error const& e) {
    std::printf("error: %s\n", e.what());
    ++tally.failures;
  }
  std::printf("%d problems, %d runs, %d failures\n", tally.problems, tally.runs, tally.failures);
  for (auto const& [name, count] : tally.accepted) std::printf("  %-28s accepted %d, refused %d\n", name.c_str(), count, tally.refused[name]);
  return tally.failures ? 1 : 0;
}
