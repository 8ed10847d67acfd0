// Measures a model on a data set.
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "falconet/data/pipeline.h"
#include "falconet/plan/step.h"
#include "falconet/train/feeds.h"

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
  Feeding feed = Feeding::automatic;     // how batches come to a GPU; the results are the same
};
class Evaluator {
 public:
  Evaluator(Model& model, EvaluateOptions options = {});
  // On a GPU a data set that lies there stays there for the next call with the same set.
  Evaluation operator()(data::Pipeline const& set);
  // Compiles for a set of so many samples ahead of time, and says the batch; keeps what it has where that batch is the same.
  int prepare(std::int64_t samples);

 private:
  Model& model_;
  EvaluateOptions options_;
  struct Fed {                           // batches of a set on a GPU
    data::Pipeline set;
    bool resident = false;
    std::unique_ptr<EpochFeed> feed;
    std::unique_ptr<FedInference> inference;
  };
  Fed fed(data::Pipeline const& set, int batch);
  std::optional<InferenceStep> step_;
  std::optional<Fed> kept_;              // the set that lies on the GPU
};

}  // namespace falconet
