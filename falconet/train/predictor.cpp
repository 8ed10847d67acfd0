#include "falconet/train/predictor.h"

#include <algorithm>
#include <cstring>

#include "falconet/base/error.h"

namespace falconet {

Predictor::Predictor(Model& model, PredictorOptions options)
    : model_(model), step_(model, {.batch = options.batch, .precision = options.precision},
            options.threads > 0 ? std::make_shared<ThreadPool>(options.threads) : nullptr) {
  if (!step_.probability()) fail(ErrorKind::model, "prediction wants a network that ends in [N, classes], not " + model.output_shape().text());
  if (model.spec().labels.size() != std::size_t(model.output_shape()[1]))
    fail(ErrorKind::model, "the model names " + std::to_string(model.spec().labels.size()) + " classes, the network has " + std::to_string(model.output_shape()[1]));
}

Prediction Predictor::operator()(data::Image const& image) { return (*this)(std::vector<data::Image>{image}).front(); }

std::vector<Prediction> Predictor::operator()(std::vector<data::Image> const& images) {
  auto const& spec = model_.spec();
  auto const pixels = std::size_t(spec.image.elements());
  auto const classes = std::size_t(model_.output_shape()[1]);
  auto const batch = std::size_t(step_.batch());
  Tensor probability({DType::f32, step_.probability().type.shape, Layout::nchw});
  std::vector<Prediction> out;
  probabilities_.clear();
  for (std::size_t begin = 0; begin < images.size(); begin += batch) {
    std::size_t const rows = std::min(batch, images.size() - begin);
    Tensor prepared({DType::f32, step_.images().type.shape, Layout::nhwc});
    std::memset(prepared.as<void>(), 0, prepared.type().bytes());
    for (std::size_t i = 0; i < rows; ++i) data::prepare(images[begin + i], spec, {prepared.as<float>() + i * pixels, pixels});
    convert(prepared.view(), step_.images());
    step_.run();
    convert(step_.probability(), probability.view());
    for (std::size_t i = 0; i < rows; ++i) {
      float const* p = probability.as<float>() + i * classes;
      probabilities_.insert(probabilities_.end(), p, p + classes);
      auto const best = std::size_t(std::max_element(p, p + classes) - p);
      out.push_back({spec.labels[best], p[best], int(best)});
    }
  }
  return out;
}

}  // namespace falconet
