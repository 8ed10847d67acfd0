#include "falconet/plan/cuda/fed_inference.h"

#include <new>
#include <optional>

namespace falconet {
namespace {

class CudaInference final : public FedInference {
 public:
  CudaInference(CudaFedInference step, Feed& feed)
      : step_(std::move(step)), feed_(feed), labels_{DType::i32, Shape{step_.images.type.shape[0]}, Layout::nchw}, device_state_(step_.stream->device(), sizeof(StepState)),
        device_labels_(step_.stream->device(), labels_.bytes()), host_state_(sizeof(StepState)), host_labels_(labels_.bytes()), state_(new (host_state_.data()) StepState) {}
  ~CudaInference() override {
    try {
      step_.stream->synchronize();             // nothing may write to host memory any more
    } catch (...) {
    }
  }

  void launch(std::int64_t sample) override {
    step_.parameters_to_device();
    state_->sample = sample;
    feed_.before(*step_.stream);
    if (!ran_ || cuda_check() == CudaCheck::sync) {   // kernels are loaded now
      Stream stream = step_.stream->stream();
      ran_ = true;
      return work(stream);
    }
    if (!graph_) graph_.emplace(*step_.stream, [&](Stream& stream) { work(stream); });
    graph_->launch(*step_.stream);
  }
  View wait() override {
    step_.stream->synchronize();
    return {host_labels_.data(), labels_};
  }

 private:
  void work(Stream& stream) {
    copy_to_device(device_state_.data(), state_, sizeof(StepState), *step_.stream);
    feed_.launch({static_cast<StepState*>(device_state_.data()), step_.images, {device_labels_.data(), labels_}}, stream);
    step_.launch(stream);
    copy_to_host(host_labels_.data(), device_labels_.data(), labels_.bytes(), *step_.stream);
  }

  CudaFedInference step_;
  Feed& feed_;
  TensorType labels_;
  CudaMemory device_state_, device_labels_;
  PinnedMemory host_state_, host_labels_;
  StepState* state_;
  std::optional<CudaGraph> graph_;
  bool ran_ = false;
};

}  // namespace

std::unique_ptr<FedInference> cuda_fed_inference(CudaFedInference step, Feed& feed) { return std::make_unique<CudaInference>(std::move(step), feed); }

}  // namespace falconet
