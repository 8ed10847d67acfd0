// Inference whose images a Feed fills on the GPU, a batch a graph launch (plan/feed.h).
#pragma once
#include <functional>
#include <memory>

#include "falconet/device/cuda/handles.h"
#include "falconet/plan/feed.h"

namespace falconet {

struct CudaFedInference {
  CudaStream const* stream;
  std::function<void()> parameters_to_device;
  std::function<void(Stream&)> launch;         // the plan's launches, and its outputs to the host
  View images;                                 // device memory
};
std::unique_ptr<FedInference> cuda_fed_inference(CudaFedInference, Feed&);

}  // namespace falconet
