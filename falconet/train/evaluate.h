// Measures a model on a data set.
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "falconet/data/pipeline.h"
#include "falconet/plan/step.h"

namespace falconet {

struct Evaluation {
  double loss = 0;                       // mean cross-entropy
  double accuracy = 0;                   // share classified right
  std::int64_t samples = 0;
  std::vector<std::int64_t> confusion;   // [label][prediction], classes x classes
  int classes = 0;
  double recall(int label) const;        // share of the label's samples classified right; NaN if there are none
  double precision(int label) const;     // share right of those predicted as the label; NaN if there are none
};

struct EvaluateOptions {
  int batch = 1000;                      // at most; a smaller data set takes its own size
  Precision precision = DType::f32;
};
class Evaluator {
 public:
  Evaluator(Model& model, EvaluateOptions options = {});
  Evaluation operator()(data::Pipeline const& set);
  // Compiles for a set of so many samples ahead of time, and says the batch; keeps what it has where that batch is the same.
  int prepare(std::int64_t samples);

 private:
  Model& model_;
  EvaluateOptions options_;
  std::optional<InferenceStep> step_;
};

}  // namespace falconet
