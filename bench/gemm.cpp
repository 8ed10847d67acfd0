// Times the matrix products of a list of problems: every algorithm that accepts each, median and minimum of 0.2 s in microseconds.
// usage: bench_gemm THREADS ISA [LIST]        bench/peers/pytorch_gemm.py does the same for PyTorch
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>
#include <vector>

#include "falconet/base/error.h"
#include "falconet/device/cpu/threads.h"
#include "falconet/ops/algorithms.h"
#include "falconet/ops/problem_list.h"
#include "falconet/tensor/bf16.h"

namespace {
using namespace falconet;
using Clock = std::chrono::steady_clock;

void time_problem(std::string const& problem, ThreadPool& threads, Isa isa) {
  AlgorithmTable const& table = algorithms_of("gemm");
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<Tensor> tensors;
  std::vector<View> views;
  for (auto const& operand : table.operands(problem)) {
    Tensor values({DType::f32, operand.type.shape});
    for (std::int64_t i = 0; i < operand.type.shape.elements(); ++i) values.as<float>()[i] = normal(random);
    tensors.emplace_back(operand.type);
    convert(values.view(), tensors.back().view());
    views.push_back(tensors.back().view());
  }
  DeviceFacts const facts = facts_of(Device{}, isa);
  for (auto const& candidate : table.candidates(problem, facts)) {
    if (!candidate.refusal.empty() || candidate.baseline) continue;
    Choice const choice{candidate.algorithm, candidate.configs.front()};
    Buffer scratch(table.scratch(problem, choice, DeviceKind::cpu) + 64);
    auto const launch =
        table.bind(problem, choice, DeviceKind::cpu, views, {scratch.data(), {DType::u8, Shape{std::int64_t(scratch.bytes())}}});
    Stream stream(threads, isa);
    for (int i = 0; i < 5; ++i) launch(stream);
    std::vector<double> us;
    for (auto const start = Clock::now(); us.size() < 10 || Clock::now() - start < std::chrono::milliseconds(200);) {
      auto const before = Clock::now();
      launch(stream);
      us.push_back(std::chrono::duration<double, std::micro>(Clock::now() - before).count());
    }
    std::sort(us.begin(), us.end());
    std::printf("%-60s %-8s %9.1f us, min %9.1f, %6.1f GFLOP/s, estimate %9.1f\n", problem.c_str(), candidate.algorithm.c_str(),
                us[us.size() / 2], us[0], table.operations(problem) / us[us.size() / 2] / 1e3, candidate.seconds * 1e6);
  }
}
}  // namespace

int main(int argc, char** argv) try {
  ThreadPool threads(argc > 1 ? std::atoi(argv[1]) : usable_cpus());
  Isa const isa = argc > 2 ? parse_isa(argv[2]) : detected_isa();
  for (auto const& problem : read_problem_list(argc > 3 ? argv[3] : "problems/gemm/networks.txt")) time_problem(problem, threads, isa);
} catch (falconet::Error const& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
