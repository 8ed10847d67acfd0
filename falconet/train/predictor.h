// Predicts single images or batches. Several predictors may share one model's weights, one per thread.
#pragma once
#include <string>
#include <vector>

#include "falconet/data/image.h"
#include "falconet/plan/step.h"

namespace falconet {

struct Prediction {
  std::string label;
  double probability = 0;
  int index = 0;
};

struct PredictorOptions {
  int batch = 1;
  Precision precision = DType::f32;
  int threads = 0;                       // 0: the model's own pool, which one thread at a time may use; else a pool of its own
};

class Predictor {
 public:
  explicit Predictor(Model& model, PredictorOptions options = {});
  // The image is resized, turned into the model's channels and normalised as the model says.
  Prediction operator()(data::Image const& image);
  std::vector<Prediction> operator()(std::vector<data::Image> const& images);
  // [images of the last call, classes], row by row.
  std::vector<float> const& probabilities() const { return probabilities_; }

 private:
  Model& model_;
  InferenceStep step_;
  std::vector<float> probabilities_;
};

}  // namespace falconet
