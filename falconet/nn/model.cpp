#include "falconet/nn/model.h"

#include "falconet/base/error.h"

namespace falconet {

Model::Model(ImageSpec spec, Layer net, ModelOptions options) : spec_(std::move(spec)), net_(std::move(net)), options_(std::move(options)) {
  if (spec_.image.rank() != 3) fail(ErrorKind::shape, "a model's image is C,H,W, not " + spec_.image.text());
  facts_ = facts_of(Device::parse(options_.device), options_.isa);
  if (options_.threads < 0) fail(ErrorKind::usage, "threads should be at least 1 (0: all), not " + std::to_string(options_.threads));
  threads_ = std::make_shared<ThreadPool>(options_.threads ? options_.threads : usable_cpus());
  parameters_ = std::make_shared<Parameters>(options_.seed);
  Graph graph;
  Var x = graph.input("images", {DType::f32, Shape{1, spec_.image[0], spec_.image[1], spec_.image[2]}, Layout::nchw});
  output_ = net_(x).shape();
  parameters_->adopt(graph);
}

}  // namespace falconet
