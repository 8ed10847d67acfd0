// What a run looks like in pictures and on one page: results.svg, confusion.svg, report.html.
#pragma once
#include <string>
#include <vector>

#include "falconet/plan/plan.h"
#include "falconet/train/evaluate.h"
#include "falconet/train/trainer.h"

namespace falconet {

struct Report {
  std::string title;                // "mnist_cnn on mnist"
  std::vector<EpochResult> epochs;  // of the whole run
  int best_epoch = 0;               // 0: none yet
  Evaluation evaluation;            // of best.safetensors on the validation set; no samples: left out
  std::vector<std::string> labels;
  std::string settings;          // args.toml
  Plan plan;                     // of the training step; an empty one is left out
  double promised_accuracy = 0;  // what the recipe must reach; 0: nothing
};

// Loss (log scale) and accuracy over the epochs, training and validation.
std::string curves_svg(std::vector<EpochResult> const& epochs);
// Rows are labels, columns predictions.
std::string confusion_svg(Evaluation const& evaluation, std::vector<std::string> const& labels);
// One page that needs no other file: settings, last and best accuracy, curves, confusion, recall and precision, launches.
std::string report_html(Report const& report);

// Writes the three into the folder, each atomically. Throws file errors.
void write_report(std::string const& folder, Report const& report);

}  // namespace falconet
