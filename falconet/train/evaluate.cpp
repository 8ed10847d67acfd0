#include "falconet/train/evaluate.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "falconet/base/error.h"
#include "falconet/data/loader.h"
#include "falconet/device/cuda/handles.h"
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

namespace {

// Whether two pipelines visit the same samples of the same data set, pixels untouched or changed in the same ways that a GPU knows.
bool same_samples(data::Pipeline const& a, data::Pipeline const& b) {
  auto const &s = a.transforms(), &t = b.transforms();
  if (&a.dataset() != &b.dataset() || s.size() != t.size()) return false;
  for (std::size_t i = 0; i < s.size(); ++i) {
    auto const &x = s[i], &y = t[i];
    if ((x.alter && x.kind == data::Transform::unknown) || !x.alter != !y.alter || x.kind != y.kind || x.padding != y.padding || x.begin != y.begin || x.end != y.end ||
        x.shuffles != y.shuffles || x.drawn != y.drawn || x.seed != y.seed || x.others != y.others)
      return false;
  }
  return true;
}

// Adds up what the outputs of batches say.
struct Tally {
  Evaluation& out;
  double loss = 0;
  std::int64_t right = 0;

  void add(View const& output, std::int32_t const* labels, std::int32_t rows) {
    int const classes = out.classes;
    for (std::int32_t row = 0; row < rows; ++row) {
      int const label = labels[row];
      int best = 0;
      double top = -std::numeric_limits<double>::infinity(), sum = 0;
      for (int c = 0; c < classes; ++c) {
        double const v = load_element(output, std::int64_t(row) * classes + c);
        if (v > top) top = v, best = c;
      }
      for (int c = 0; c < classes; ++c) sum += std::exp(load_element(output, std::int64_t(row) * classes + c) - top);
      loss += std::log(sum) + top - load_element(output, std::int64_t(row) * classes + label);
      right += best == label;
      ++out.confusion[std::size_t(label) * std::size_t(classes) + std::size_t(best)];
    }
    out.samples += rows;
  }
};

}  // namespace

Evaluator::Evaluator(Model& model, EvaluateOptions options) : model_(model), options_(options) {
  if (options.batch < 1) fail(ErrorKind::usage, "batch should be at least 1, not " + std::to_string(options.batch));
  if (model.output_shape().rank() != 2) fail(ErrorKind::model, "evaluation wants a network that ends in [N, classes], not " + model.output_shape().text());
}

int Evaluator::prepare(std::int64_t samples) {
  int const batch = int(std::clamp<std::int64_t>(samples, 1, options_.batch));
  if (!step_ || step_->batch() != batch) {
    kept_.reset(), step_.reset();                         // its memory first
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
  int const size = prepare(set.size());
  std::int64_t const batches = (set.size() + size - 1) / size;
  Tally tally{out};
  if (model_.device().kind == DeviceKind::cpu) {
    if (options_.feed != Feeding::automatic) fail(ErrorKind::usage, "only a GPU is fed; on the CPU batches are prepared where they are used");
    data::Loader loader(set, {.batch = size, .threads = 1, .epochs = 1});
    for (std::int64_t b = 0; b < batches; ++b) {
      auto const& batch = loader.next();
      convert(batch.images, step_->images());
      step_->run();
      tally.add(step_->output(), batch.labels.as<std::int32_t>(), batch.valid_count);
    }
  } else if (batches > 0) {
    Fed source = fed(set, size);                          // lost if something throws
    source.feed->start_epoch(0, 0, std::vector<float>(std::size_t(batches), 0.0f));
    Tensor output(step_->output().type);
    std::vector<std::int32_t> labels(std::size_t(size), 0);
    source.inference->launch(0);
    for (std::int64_t b = 0; b < batches; ++b) {
      View const arrived = source.inference->wait();
      std::memcpy(labels.data(), arrived.data, arrived.type.bytes());
      std::memcpy(output.as<void>(), step_->output().data, output.type().bytes());
      if (b + 1 < batches) source.inference->launch((b + 1) * size);   // runs while this one is added up
      tally.add(output.view(), labels.data(), std::int32_t(std::min<std::int64_t>(size, set.size() - b * size)));
    }
    if (source.resident) kept_.emplace(std::move(source));
  }
  if (out.samples) {
    out.loss = tally.loss / double(out.samples);
    out.accuracy = double(tally.right) / double(out.samples);
  }
  return out;
}

Evaluator::Fed Evaluator::fed(data::Pipeline const& set, int batch) {
  if (kept_ && same_samples(kept_->set, set)) {
    Fed found = std::move(*kept_);
    kept_.reset();
    return found;
  }
  kept_.reset();                                          // its memory first
  Device const device = model_.device();
  Fed out{set, options_.feed == Feeding::resident || (options_.feed == Feeding::automatic && resident_refusal(set, cuda_memory(device.index).free).empty()), nullptr, nullptr};
  FeedOptions const options{.batch = batch, .epochs = 1};
  out.feed = out.resident ? resident_feed(set, options, device, *model_.threads()) : staged_feed(set, options, device);
  out.inference = step_->fed(*out.feed);
  return out;
}

}  // namespace falconet
