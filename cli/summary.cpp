// summary: what a network consists of and how a training step of it would run, before any training.
#include <algorithm>
#include <cmath>
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
  std::string kind, output, forward, backward, backward_kind;
  std::int64_t parameters = 0;
};

constexpr char const* loops = "loops";  // what runs where an operation has no algorithm but its reference: vectors of a number a channel

// Whether the operation has something else than its reference for this problem, as loss, step and batch norm's vectors have not.
bool has_algorithms(Launch const& launch, DeviceFacts const& facts) { return algorithms_of(launch.op).candidates(launch.problem, facts).size() > 1; }

// The layers in the order in which the network was traced, so that one whose forward half is fused away keeps its place.
std::vector<std::string> traced_order(Graph const& graph) {
  std::vector<std::string> out;
  for (auto const& node : graph.nodes)
    if (std::find(out.begin(), out.end(), node.layer) == out.end()) out.push_back(node.layer);
  return out;
}

// Adds an algorithm to a list "a, b" unless it is there.
void join(std::string& list, std::string const& item) {
  if (("," + list + ",").find("," + item + ",") == std::string::npos) list += (list.empty() ? "" : ",") + item;
}

void print_candidates(Plan const& plan, Model const& model, Tuner const* tuner, bool json) {
  std::vector<std::string> columns = {"layer", "direction", "operation", "algorithm", ">estimate us", "or why not"};
  if (tuner) columns.insert(columns.end() - 1, ">measured us");
  Table table(columns);
  for (auto const& launch : plan.step)
    for (auto const& c : algorithms_of(launch.op).candidates(launch.problem, model.facts())) {
      bool const chosen = c.algorithm == launch.choice.algorithm;
      std::string const estimate = !c.refusal.empty() || c.seconds > 1e20 ? "" : format("{:.1f}", c.seconds * 1e6);
      std::string const why = chosen               ? "chosen"
                              : !c.refusal.empty() ? "refused: " + c.refusal
                              : !c.unasked.empty() ? "refused unless pinned: " + c.unasked
                              : c.rival            ? "rival"
                              : c.baseline         ? "baseline"
                                                   : "";
      double measured = NAN;                               // the fastest config
      for (auto const& config : c.configs)
        if (tuner) measured = std::fmin(measured, tuner->measured(launch.op, launch.problem, false, {c.algorithm, config}, model.facts(), model.threads()->size()));
      if (!json) {
        std::vector<std::string> row = {launch.layer, launch.direction, launch.op, c.algorithm, estimate, why};
        if (tuner) row.insert(row.end() - 1, std::isnan(measured) ? "" : format("{:.1f}", measured * 1e6));
        table.row(row);
        continue;
      }
      JsonRow row;
      row.add("what", "candidate").add("layer", launch.layer).add("direction", launch.direction).add("op", launch.op);
      row.add("problem", launch.problem).add("algorithm", c.algorithm).add("estimate_us", estimate.empty() ? NAN : c.seconds * 1e6);
      if (tuner) row.add("measured_us", measured * 1e6);
      row.add("why", why);
      std::fputs(row.text().c_str(), stdout);
    }
  if (!json) std::fputs(("\n" + table.text()).c_str(), stdout);
}

}  // namespace

int summary(Settings& settings) {
  std::unique_ptr<NamedData> data;
  std::unique_ptr<ImageSpec> spec;
  if (settings.has("data") && !is_trained(settings.text("model"))) {   // a trained one knows its images and classes
    data = std::make_unique<NamedData>(open_data(settings.text("data"), models::find(settings.text("model"))));
    auto const& d = data->split.train.spec();
    spec = std::make_unique<ImageSpec>(ImageSpec{d.image, d.mean, d.std, d.labels});
  }
  auto const model = described_model(settings, spec.get());
  auto const options = step_options(settings);
  Graph graph;
  CompileContext context;
  trace_training(graph, context, *model, options, cross_entropy(), sgd({.momentum = 0.9}).options);
  auto const traced = traced_order(graph);
  bool const json = settings.flag("json");
  if (settings.has("after")) {
    if (json) fail(ErrorKind::usage, "after= prints a graph as text, which json=true has no rows for");
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
  bool some_loops = false;
  for (auto const& launch : plan.step) {
    auto const& table = algorithms_of(launch.op);
    double const operations = table.operations(launch.problem);
    bool const is_forward = launch.direction == "fwd";
    (is_forward ? forward : backward) += operations;
    if (launch.direction == "update") continue;
    auto [line, fresh] = lines.try_emplace(launch.layer);
    if (fresh) order.push_back(launch.layer);
    auto& l = line->second;
    bool const plain = launch.choice.algorithm == "reference" && !has_algorithms(launch, model->facts());
    some_loops |= plain;
    join(is_forward ? l.forward : l.backward, plain ? loops : launch.choice.text());
    join(is_forward ? l.kind : l.backward_kind, launch.op);
    if (is_forward) {
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

  std::stable_sort(order.begin(), order.end(), [&](std::string const& a, std::string const& b) {  // layers of passes stay where they run, last
    return std::find(traced.begin(), traced.end(), a) < std::find(traced.begin(), traced.end(), b);
  });
  for (auto& [path, l] : lines)
    if (l.forward.empty()) l.kind = l.backward_kind, l.forward = "(fused)";  // into the layer before it
  if (json) {
    for (auto const& layer : order) {
      auto const& l = lines[layer];
      JsonRow row;
      row.add("what", "layer").add("model", model->name).add("layer", layer).add("operations", l.kind).add("output", l.output);
      row.add("parameters", l.parameters).add("forward", l.forward).add("backward", l.backward);
      std::fputs(row.text().c_str(), stdout);
    }
    JsonRow row;
    row.add("what", "summary").add("model", model->name).add("batch", options.batch).add("precision", name(options.precision));
    row.add("device", plan.device.text()).add("isa", name(model->facts().isa)).add("parameters", model->parameters()->trained_elements());
    row.add("mflop_forward", forward / options.batch * 1e-6).add("mflop_step", (forward + backward) / options.batch * 1e-6);
    row.add("launches", std::int64_t(plan.step.size())).add("arena_bytes", plan.memory_bytes);
    std::fputs(row.text().c_str(), stdout);
    if (settings.flag("why")) print_candidates(plan, *model, options.tuner.get(), true);
    return 0;
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
  if (some_loops) std::printf("%s: the plain loops of the reference, on a few numbers a channel, where nothing faster is worth having\n", loops);
  std::printf("\n%s parameters; %.2f MFLOP an image forward, %.2f a training step; %zu launches a step; %s of memory for the step\n",
              with_commas(model->parameters()->trained_elements()).c_str(), forward / options.batch * 1e-6,
              (forward + backward) / options.batch * 1e-6, plan.step.size(), bytes_text(double(plan.memory_bytes)).c_str());
  if (options.tuner) {
    auto const& c = options.tuner->count();
    std::printf("tune: %d problems as remembered, %d measured in %.1f s, %d left for the next time; in %s\n", c.remembered, c.measured, c.seconds, c.out_of_time, options.tuner->file().c_str());
  }
  if (settings.flag("why")) print_candidates(plan, *model, options.tuner.get(), false);
  return 0;
}

}  // namespace falconet::cli
