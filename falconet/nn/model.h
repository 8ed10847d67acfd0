// A model: a network, what it is fed, where it runs, and its weights.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "falconet/device/cpu/threads.h"
#include "falconet/device/device.h"
#include "falconet/graph/layer.h"
#include "falconet/graph/parameters.h"
#include "falconet/tensor/image_spec.h"

namespace falconet {

struct ModelOptions {
  std::string device = "auto";       // "auto", "cpu", "cuda", "cuda:N"
  std::uint64_t seed = 0;            // of the initial weights and of everything random in training
  int threads = 0;                   // CPU threads; 0: all that the process may use
  Isa isa = detected_isa();          // the largest instruction set that kernels may use
};

class Model {
 public:
  // Traces the network once, so that every shape error surfaces here, and initialises the weights.
  Model(ImageSpec spec, Layer net, ModelOptions options = {});

  ImageSpec const& spec() const { return spec_; }
  Layer const& net() const { return net_; }
  Device device() const { return facts_.device; }
  DeviceFacts const& facts() const { return facts_; }
  ModelOptions const& options() const { return options_; }
  std::shared_ptr<Parameters> const& parameters() const { return parameters_; }
  std::shared_ptr<ThreadPool> const& threads() const { return threads_; }
  Shape output_shape() const { return output_; }     // for a batch of 1

  std::string name;                  // of a network known by name (models::find); empty for one of the user's own

 private:
  ImageSpec spec_;
  Layer net_;
  ModelOptions options_;
  DeviceFacts facts_;
  std::shared_ptr<Parameters> parameters_;
  std::shared_ptr<ThreadPool> threads_;
  Shape output_;
};

}  // namespace falconet
