#include "falconet/train/evaluate.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "falconet/base/error.h"
#include "falconet/data/loader.h"
#include "falconet/tensor/element.h"

namespace falconet {

double Evaluation::recall(int label) const {
  std::int64_t all = 0;
  for (int c = 0; c < classes; ++c) all += confusion[std::size_t(label * classes + c)];
  return all ? double(confusion[std::size_t(label * classes + label)]) / double(all) : std::numeric_limits<double>::quiet_NaN();
}
double Evaluation::precision(int label) const {
  std::int64_t all = 0;
  for (int c = 0; c < classes; ++c) all += confusion[std::size_t(c * classes + label)];
  return all ? double(confusion[std::size_t(label * classes + label)]) / double(all) : std::numeric_limits<double>::quiet_NaN();
}

Evaluator::Evaluator(Model& model, EvaluateOptions options) : model_(model), options_(options) {
  if (options.batch < 1) fail(ErrorKind::usage, "batch should be at least 1, not " + std::to_string(options.batch));
  if (model.output_shape().rank() != 2) fail(ErrorKind::model, "evaluation wants a network that ends in [N, classes], not " + model.output_shape().text());
}

int Evaluator::prepare(std::int64_t samples) {
  int const batch = int(std::clamp<std::int64_t>(samples, 1, options_.batch));
  if (!step_ || step_->batch() != batch) {
    step_.reset();                                        // its memory first
    step_.emplace(model_, StepOptions{.batch = batch, .precision = options_.precision});
  }
  return batch;
}

Evaluation Evaluator::operator()(data::Pipeline const& set) {
  auto const& spec = set.spec();
  int const classes = int(model_.output_shape()[1]);
  if (!(spec.image == model_.spec().image))
    fail(ErrorKind::data, "the data's images are " + spec.image.text() + ", the model wants " + model_.spec().image.text());
  if (int(spec.labels.size()) != classes)
    fail(ErrorKind::data, "the data has " + std::to_string(spec.labels.size()) + " classes, the model " + std::to_string(classes));
  Evaluation out;
  out.classes = classes;
  out.confusion.assign(std::size_t(classes) * std::size_t(classes), 0);
  data::Loader loader(set, {.batch = prepare(set.size()), .threads = 1, .epochs = 1});
  double loss = 0;
  std::int64_t right = 0;
  for (std::int64_t b = 0; b < loader.batches_per_epoch(); ++b) {
    auto const& batch = loader.next();
    convert(batch.images, step_->images());
    step_->run();
    for (std::int32_t row = 0; row < batch.valid_count; ++row) {
      int const label = batch.labels.as<std::int32_t>()[row];
      int best = 0;
      double top = -std::numeric_limits<double>::infinity(), sum = 0;
      for (int c = 0; c < classes; ++c) {
        double const v = load_element(step_->output(), std::int64_t(row) * classes + c);
        if (v > top) top = v, best = c;
      }
      for (int c = 0; c < classes; ++c) sum += std::exp(load_element(step_->output(), std::int64_t(row) * classes + c) - top);
      loss += std::log(sum) + top - load_element(step_->output(), std::int64_t(row) * classes + label);
      right += best == label;
      ++out.confusion[std::size_t(label) * std::size_t(classes) + std::size_t(best)];
    }
    out.samples += batch.valid_count;
  }
  if (out.samples) {
    out.loss = loss / double(out.samples);
    out.accuracy = double(right) / double(out.samples);
  }
  return out;
}

}  // namespace falconet
