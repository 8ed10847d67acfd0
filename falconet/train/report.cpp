#include "falconet/train/report.h"

#include <algorithm>
#include <cmath>

#include "falconet/base/file.h"
#include "falconet/base/format.h"
#include "falconet/base/svg.h"
#include "falconet/ops/algorithms.h"

namespace falconet {
namespace {

std::string share(double v) { return std::isnan(v) ? "" : format("{:.4f}", v); }

// An SVG text inside HTML: without the XML declaration.
std::string inline_svg(std::string const& svg) {
  auto const start = svg.find("<svg");
  return start == std::string::npos ? svg : svg.substr(start);
}

struct Html {
  std::string text;
  void heading(std::string_view t) { text += "<h2>" + svg::escape(t) + "</h2>\n"; }
  // The first row is the head; cells from column `numbers` on are set to the right.
  void table(std::vector<std::vector<std::string>> const& rows, std::size_t numbers) {
    text += "<table>\n";
    for (std::size_t r = 0; r < rows.size(); ++r) {
      text += "<tr>";
      for (std::size_t c = 0; c < rows[r].size(); ++c)
        text += format("<{0}{1}>{2}</{0}>", r ? "td" : "th", c >= numbers ? " class=n" : "", svg::escape(rows[r][c]));
      text += "</tr>\n";
    }
    text += "</table>\n";
  }
};

constexpr std::string_view head = R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<style>
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 62em; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; margin-bottom: .2em; } h2 { font-size: 1.15em; margin-top: 1.8em; }
table { border-collapse: collapse; font-size: .9em; } th, td { padding: .15em .8em .15em 0; text-align: left; border-bottom: 1px solid #e4e4e4; }
th { color: #555; font-weight: 600; } .n { text-align: right; font-variant-numeric: tabular-nums; }
pre { font: .85em/1.4 ui-monospace, monospace; background: #f6f6f6; padding: .8em; overflow-x: auto; }
.result { font-size: 1.1em; } svg { max-width: 100%; height: auto; }
</style>
)";

}  // namespace

std::string curves_svg(std::vector<EpochResult> const& epochs) {
  svg::Line train_loss{"training loss", {}, {}}, val_loss{"validation loss", {}, {}}, train{"training accuracy", {}, {}, true, true},
      val{"validation accuracy", {}, {}, true, true};
  bool validated = false;
  for (auto const& e : epochs) {
    for (auto [line, value] :
         {std::pair{&train_loss, e.train_loss}, {&val_loss, e.val_loss}, {&train, e.train_accuracy}, {&val, e.val_accuracy}}) {
      line->x.push_back(e.epoch);
      line->y.push_back(value);
    }
    validated |= !std::isnan(e.val_loss);
  }
  svg::LineChart chart{.title = "loss and accuracy", .x_label = "epoch", .y_label = "loss", .right_label = "accuracy"};
  chart.lines = validated ? std::vector{train_loss, val_loss, train, val} : std::vector{train_loss, train};
  chart.log_y = true;
  return svg::draw(chart);
}

std::string confusion_svg(Evaluation const& evaluation, std::vector<std::string> const& labels) {
  svg::HeatMap map{.title = format("confusion, {} samples", evaluation.samples),
                   .x_label = "prediction",
                   .y_label = "label",
                   .rows = labels,
                   .columns = labels};
  map.rows.resize(std::size_t(evaluation.classes));
  map.columns.resize(std::size_t(evaluation.classes));
  map.values.assign(evaluation.confusion.begin(), evaluation.confusion.end());
  return svg::draw(map);
}

std::string report_html(Report const& report) {
  Html h;
  h.text =
      std::string(head) + "<title>" + svg::escape(report.title) + "</title></head><body>\n<h1>" + svg::escape(report.title) + "</h1>\n";
  if (!report.epochs.empty()) {
    auto const& last = report.epochs.back();
    double seconds = 0;
    for (auto const& e : report.epochs) seconds += e.seconds;
    bool const validated = !std::isnan(last.val_accuracy);
    std::string line = format("{} {:.4f} after epoch {}, loss {:.4f}", validated ? "validation accuracy" : "training accuracy",
                              validated ? last.val_accuracy : last.train_accuracy, last.epoch, validated ? last.val_loss : last.train_loss);
    if (report.best_epoch > 0 && std::size_t(report.best_epoch) <= report.epochs.size()) {
      auto const& best = report.epochs[std::size_t(report.best_epoch - 1)];
      line += format("; best {:.4f} in epoch {}", validated ? best.val_accuracy : best.train_accuracy, best.epoch);
    }
    h.text += "<p class=result>" + line + format("; {} steps in {:.1f} s", last.step, seconds) + "</p>\n";
    if (report.promised_accuracy > 0)
      h.text += format("<p>The recipe promises {:.4f} in the last epoch: {}.</p>\n", report.promised_accuracy,
                       last.val_accuracy >= report.promised_accuracy ? "reached" : "not reached");
    h.heading("Curves");
    h.text += inline_svg(curves_svg(report.epochs));
    std::vector<std::vector<std::string>> rows = {
        {"epoch", "steps", "training loss", "accuracy", "validation loss", "accuracy", "rate at the end", "seconds"}};
    for (auto const& e : report.epochs)
      rows.push_back({std::to_string(e.epoch), std::to_string(e.step), share(e.train_loss), share(e.train_accuracy), share(e.val_loss),
                      share(e.val_accuracy), format("{:.3g}", e.learning_rate), format("{:.2f}", e.seconds)});
    h.table(rows, 0);
  }
  if (auto const& e = report.evaluation; e.samples > 0) {
    h.heading(format("Classes, of the best weights on {} samples", e.samples));
    h.text += inline_svg(confusion_svg(e, report.labels));
    std::vector<std::vector<std::string>> rows = {{"label", "samples", "recall", "precision"}};
    for (int c = 0; c < e.classes; ++c) {
      std::int64_t samples = 0;
      for (int p = 0; p < e.classes; ++p) samples += e.confusion[std::size_t(c * e.classes + p)];
      rows.push_back({std::size_t(c) < report.labels.size() ? report.labels[std::size_t(c)] : std::to_string(c), std::to_string(samples),
                      share(e.recall(c)), share(e.precision(c))});
    }
    h.table(rows, 1);
  }
  if (!report.plan.step.empty()) {
    h.heading(format("A training step: {} launches on {}, {:.1f} MiB", report.plan.step.size(), report.plan.device.text(),
                     double(report.plan.memory_bytes) / (1 << 20)));
    std::vector<std::vector<std::string>> rows = {{"layer", "direction", "operation", "algorithm", "MFLOP"}};
    for (auto const& l : report.plan.step)
      rows.push_back({l.layer, l.direction, l.op, l.choice.text(), format("{:.2f}", algorithms_of(l.op).operations(l.problem) * 1e-6)});
    h.table(rows, 4);
  }
  if (!report.settings.empty()) {
    h.heading("Settings");
    h.text += "<pre>" + svg::escape(report.settings) + "</pre>\n";
  }
  return h.text + "</body></html>\n";
}

void write_report(std::string const& folder, Report const& report) {
  write_atomically(folder + "/results.svg", curves_svg(report.epochs));
  if (report.evaluation.samples > 0) write_atomically(folder + "/confusion.svg", confusion_svg(report.evaluation, report.labels));
  write_atomically(folder + "/report.html", report_html(report));
}

}  // namespace falconet
