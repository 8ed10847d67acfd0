// tune: every algorithm and launch parameter for each problem of a network's training step, measured and remembered (plan/tune.h).
#include <cmath>
#include <cstdio>
#include <set>

#include "cli/bench_algorithms.h"
#include "cli/commands.h"
#include "cli/inputs.h"
#include "cli/table.h"
#include "falconet/base/error.h"
#include "falconet/base/file.h"
#include "falconet/base/format.h"
#include "falconet/ops/algorithms.h"
#include "falconet/train/schedule.h"

namespace falconet::cli {

int tune(Settings& settings) {
  auto const model = described_model(settings, nullptr);
  auto const options = step_options(settings);
  auto const& tuner = *options.tuner;
  if (settings.has("plot")) AtomicFile const writable(settings.text("plot"));   // said before anything is measured
  Graph graph;
  CompileContext context;
  trace_training(graph, context, *model, options, cross_entropy(), sgd({.momentum = 0.9}).options);
  Plan const plan = compile(graph, context);
  Table table({"operation", "problem", "chosen", ">us", "by its estimate", ">us", ">times", ">choices"});
  std::vector<BenchRow> rows;
  std::set<std::string> seen;
  for (auto const& launch : plan.step) {
    auto const measured = tuner.measurements(launch.op, launch.problem, false, model->facts(), model->threads()->size());
    if (measured.size() < 2 || !seen.insert(launch.op + " " + launch.problem).second) continue;
    Choice estimated;
    double least = 1e30;
    for (auto const& c : algorithms_of(launch.op).candidates(launch.problem, model->facts(), options.rivals))
      if (c.refusal.empty() && (!c.rival || options.rivals) && c.seconds < least) estimated = {c.algorithm, c.configs.front()}, least = c.seconds;
    auto const us = [&](Choice const& c) {
      auto const found = measured.find(c.text());
      return found == measured.end() ? std::nan("") : found->second;
    };
    double const chosen = us(launch.choice), guess = us(estimated);
    table.row({launch.op, launch.problem, launch.choice.text(), format("{:.1f}", chosen), estimated == launch.choice ? "the same" : estimated.text(),
               std::isnan(guess) ? "" : format("{:.1f}", guess), std::isnan(guess) ? "" : format("{:.2f}", guess / chosen), std::to_string(measured.size())});
    if (launch.op == "conv")
      for (auto const& [choice, microseconds] : measured) {
        auto const c = Choice::parse(choice);
        BenchRow row;
        row.problem = launch.problem, row.algorithm = c.algorithm, row.config = c.config.text(), row.seconds = {microseconds * 1e-6, microseconds * 1e-6};
        rows.push_back(std::move(row));
      }
  }
  std::fputs(table.text().c_str(), stdout);
  auto const& count = tuner.count();
  std::printf("\n%d problems measured in %.1f s, %d as remembered, %d left for the next time; in %s\n", count.measured, count.seconds, count.remembered, count.out_of_time, tuner.file().c_str());
  if (settings.has("plot")) {
    write_atomically(settings.text("plot"), search_picture(format("{} b{} {}, {}", model->name, options.batch, name(options.precision), model->facts().name), for_picture(rows, true)));
    std::printf("drawn in %s\n", settings.text("plot").c_str());
  }
  return 0;
}

}  // namespace falconet::cli
