#include "falconet/device/cuda/check.h"
#include "falconet/plan/cuda/when_finite.h"

namespace falconet {
namespace {

template <class T>
__global__ void set_if_finite(cudaGraphConditionalHandle condition, T const* value, std::int32_t const* failed) {
  cudaGraphSetConditional(condition, isfinite(*value) && !(failed && *failed) ? 1u : 0u);
}

}  // namespace

void when_finite(Stream& stream, void const* value, DType type, std::int32_t const* failed, std::function<void(Stream&)> const& body) {
  auto const s = static_cast<cudaStream_t>(stream.cuda());
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  unsigned long long id = 0;
  cudaGraph_t graph = nullptr;
  cudaGraphNode_t const* before = nullptr;
  cudaGraphEdgeData const* edges = nullptr;
  std::size_t count = 0;
  FALCONET_CUDA(cudaStreamGetCaptureInfo(s, &status, &id, &graph, &before, &edges, &count));
  cudaGraphConditionalHandle condition{};
  FALCONET_CUDA(cudaGraphConditionalHandleCreate(&condition, graph, 0, cudaGraphCondAssignDefault));
  if (type == DType::f64) set_if_finite<<<1, 1, 0, s>>>(condition, static_cast<double const*>(value), failed);
  else set_if_finite<<<1, 1, 0, s>>>(condition, static_cast<float const*>(value), failed);
  FALCONET_CUDA(cudaGetLastError());
  FALCONET_CUDA(cudaStreamGetCaptureInfo(s, &status, &id, &graph, &before, &edges, &count));

  cudaGraphNodeParams node{};
  node.type = cudaGraphNodeTypeConditional;
  node.conditional.handle = condition;
  node.conditional.type = cudaGraphCondTypeIf;
  node.conditional.size = 1;
  cudaGraphNode_t added = nullptr;
  FALCONET_CUDA(cudaGraphAddNode(&added, graph, before, edges, count, &node));
  FALCONET_CUDA(cudaStreamUpdateCaptureDependencies(s, &added, nullptr, 1, cudaStreamSetCaptureDependencies));

  cudaStream_t inner = nullptr;
  FALCONET_CUDA(cudaStreamCreateWithFlags(&inner, cudaStreamNonBlocking));
  cudaGraph_t captured = nullptr;
  cudaError_t code = cudaStreamBeginCaptureToGraph(inner, node.conditional.phGraph_out[0], nullptr, nullptr, 0, cudaStreamCaptureModeThreadLocal);
  if (code == cudaSuccess) {
    try {
      Stream branch(static_cast<void*>(inner), stream.arrivals());
      body(branch);
    } catch (...) {
      cudaStreamEndCapture(inner, &captured);
      cudaStreamDestroy(inner);
      throw;
    }
    code = cudaStreamEndCapture(inner, &captured);
  }
  cudaStreamDestroy(inner);
  check_cuda(code, "cudaStreamBeginCaptureToGraph");
}

}  // namespace falconet
