// summary: what a network consists of and how a training step of it would run, before any training.
#include <cstdio>
#include <map>

#include "cli/commands.h"
#include "cli/inputs.h"
#include "cli/table.h"
#include "falconet/base/error.h"
#include "falconet/base/format.h"
#include "falconet/nn/models.h"
#include "falconet/ops/algorithms.h"
#include "falconet/train/schedule.h"

namespace falconet::cli {
namespace {

struct LayerLine {
  std::string kind, output, forward, backward;
  std::int64_t parameters = 0;
};

// Adds an algorithm to a list "a, b" unless it is there.
void join(std::string& list, std::string const& item) {
  if (("," + list + ",").find("," + item + ",") == std::string::npos) list += (list.empty() ? "" : ",") + item;
}

void print_candidates(Plan const& plan, Model const& model) {
  Table table({"layer", "direction", "operation", "algorithm", ">estimate us", "or why not"});
  for (auto const& launch : plan.step)
    for (auto const& c : algorithms_of(launch.op).candidates(launch.problem, model.facts())) {
      bool const chosen = c.algorithm == launch.choice.algorithm;
      std::string const estimate = !c.refusal.empty() || c.seconds > 1e20 ? "" : format("{:.1f}", c.seconds * 1e6);
      std::string const why = chosen               ? "chosen"
                              : !c.refusal.empty() ? "refused: " + c.refusal
                              : c.rival            ? "rival"
                              : c.baseline         ? "baseline"
                                                   : "";
      table.row({launch.layer, launch.direction, launch.op, c.algorithm, estimate, why});
    }
  std::fputs(("\n" + table.text()).c_str(), stdout);
}

}  // namespace

int summary(Settings& settings) {
  std::unique_ptr<NamedData> data;
  std::unique_ptr<ImageSpec> spec;
  if (settings.has("data")) {
    data = std::make_unique<NamedData>(open_data(settings.text("data"), models::find(settings.text("model")).image));
    auto const& d = data->split.train.spec();
    spec = std::make_unique<ImageSpec>(ImageSpec{d.image, d.mean, d.std, d.labels});
  }
  auto const model = make_model(settings, spec.get());
  auto const options = step_options(settings);
  Graph graph;
  CompileContext context;
  trace_training(graph, context, *model, options, cross_entropy(), sgd({.momentum = 0.9}).options);
  if (settings.has("after")) {
    std::vector<std::string> known;
    bool found = false;
    for (auto const& pass : passes()) {
      known.emplace_back(pass.name);
      found |= settings.text("after") == pass.name;
    }
    if (!found) fail_unknown("pass", settings.text("after"), known);
    context.options.stop_after = settings.text("after");
    compile(graph, context);
    std::fputs(graph.text().c_str(), stdout);
    return 0;
  }
  Plan const plan = compile(graph, context);

  std::vector<std::string> order;
  std::map<std::string, LayerLine> lines;
  double forward = 0, backward = 0;
  for (auto const& launch : plan.step) {
    auto const& table = algorithms_of(launch.op);
    double const operations = table.operations(launch.problem);
    bool const is_forward = launch.direction == "fwd";
    (is_forward ? forward : backward) += operations;
    if (launch.direction == "update") continue;
    auto [line, fresh] = lines.try_emplace(launch.layer);
    if (fresh) order.push_back(launch.layer);
    auto& l = line->second;
    join(is_forward ? l.forward : l.backward, launch.choice.text());
    if (is_forward) {
      join(l.kind, launch.op);
      auto const operands = table.operands(launch.problem);
      for (std::size_t i = 0; i < operands.size(); ++i)
        if (operands[i].written) {
          l.output = launch.operands[i].type.shape.text();
          break;
        }
    }
  }
  for (auto const& e : model->parameters()->entries()) {
    if (e.role != Role::parameter) continue;
    auto const dot = e.name.rfind('.');
    if (auto line = lines.find(e.name.substr(0, dot)); line != lines.end()) line->second.parameters += e.tensor.shape().elements();
  }

  auto const& image = model->spec().image;
  std::string const labels = std::to_string(model->spec().labels.size());
  std::printf("%s for images of %s, %s classes; batch %d, %s, on %s (%s)\n\n", model->name.c_str(), image.text().c_str(), labels.c_str(),
              options.batch, std::string(name(options.precision)).c_str(), plan.device.text().c_str(),
              std::string(name(model->facts().isa)).c_str());
  Table table({"layer", "operations", "output", ">parameters", "forward by", "backward by"});
  for (auto const& layer : order) {
    auto const& l = lines[layer];
    table.row({layer, l.kind, l.output, l.parameters ? with_commas(l.parameters) : "", l.forward, l.backward});
  }
  std::fputs(table.text().c_str(), stdout);
  std::printf("\n%s parameters; %.2f MFLOP an image forward, %.2f a training step; %zu launches a step; %s of memory for the step\n",
              with_commas(model->parameters()->trained_elements()).c_str(), forward / options.batch * 1e-6,
              (forward + backward) / options.batch * 1e-6, plan.step.size(), bytes_text(double(plan.memory_bytes)).c_str());
  if (settings.flag("why")) print_candidates(plan, *model);
  return 0;
}

}  // namespace falconet::cli
