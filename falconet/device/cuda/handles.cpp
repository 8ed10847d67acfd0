#include "falconet/device/cuda/handles.h"

#include <atomic>
#include <utility>

#include "falconet/base/error.h"
#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/probe_kernel.h"

#ifndef FALCONET_CUDA_ARCHITECTURES
#define FALCONET_CUDA_ARCHITECTURES "unknown"
#endif

namespace falconet {
namespace {

std::atomic<CudaCheck> check_mode{CudaCheck::off};
std::atomic<std::int64_t> graph_launches{0}, kernel_launches{0}, copies{0}, allocations{0}, synchronizations{0};
void count(std::atomic<std::int64_t>& counter) { counter.fetch_add(1, std::memory_order_relaxed); }

std::string described(cudaError_t code) { return std::string(cudaGetErrorString(code)) + " (" + cudaGetErrorName(code) + ")"; }

cudaStream_t raw(void* handle) { return static_cast<cudaStream_t>(handle); }
cudaStream_t raw(CudaStream const& s) { return static_cast<cudaStream_t>(s.stream().cuda()); }

}  // namespace

void check_cuda(cudaError_t code, char const* call, std::string const& context) {
  if (code == cudaSuccess) return;
  cudaGetLastError();   // a refused call must not be blamed on the next launch
  fail(ErrorKind::device, cuda_failure(std::string(call).substr(0, std::string_view(call).find('(')), int(code), described(code), context, cuda_check() == CudaCheck::sync));
}

cudaError_t launch_result(cudaStream_t stream) {
  count(kernel_launches);
  cudaError_t code = cudaGetLastError();
  if (code != cudaSuccess || check_mode.load(std::memory_order_relaxed) == CudaCheck::off) return code;
  cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
  if (cudaStreamIsCapturing(stream, &capturing) == cudaSuccess && capturing == cudaStreamCaptureStatusNone) code = cudaStreamSynchronize(stream);
  return code;
}

void fail_launch(cudaError_t code, char const* kernel, std::string const& problem) {
  fail(ErrorKind::device, cuda_failure("launching kernel " + std::string(kernel), int(code), described(code), "problem '" + problem + "'", cuda_check() == CudaCheck::sync));
}

void set_cuda_check(CudaCheck mode) { check_mode = mode; }
CudaCheck cuda_check() { return check_mode.load(std::memory_order_relaxed); }
CudaCounts cuda_counts() { return {graph_launches, kernel_launches, copies, allocations, synchronizations}; }

CudaProbe const& real_cuda_probe() {
  static CudaProbe const probe = [] {
    CudaProbe p;
    p.built = true;
    p.architectures = FALCONET_CUDA_ARCHITECTURES;
    p.driver_version = [](int& v) { return int(cudaDriverGetVersion(&v)); };
    p.runtime_version = [](int& v) { return int(cudaRuntimeGetVersion(&v)); };
    p.device_count = [](int& n) {
      cudaError_t const code = cudaGetDeviceCount(&n);
      cudaGetLastError();
      return int(code);
    };
    p.try_device = [](int device) {
      cudaError_t code = cudaSetDevice(device);
      if (code == cudaSuccess) code = find_a_kernel();
      cudaGetLastError();
      return int(code);
    };
    p.device_name = [](int device) {
      cudaDeviceProp d{};
      if (cudaGetDeviceProperties(&d, device) != cudaSuccess) return std::string("which does not say its name");
      return std::string(d.name) + " (compute capability " + std::to_string(d.major) + "." + std::to_string(d.minor) + ")";
    };
    p.describe = [](int code) { return described(cudaError_t(code)); };
    return p;
  }();
  return probe;
}

CudaMemoryInfo cuda_memory(int device) {
  CudaMemoryInfo m;
  FALCONET_CUDA(cudaSetDevice(device));
  FALCONET_CUDA(cudaMemGetInfo(&m.free, &m.total));
  return m;
}

DeviceFacts cuda_facts(int device) {
  cudaDeviceProp p{};
  check_cuda(cudaGetDeviceProperties(&p, device), "cudaGetDeviceProperties", "cuda:" + std::to_string(device));
  DeviceFacts f;
  f.device = {DeviceKind::cuda, device};
  f.name = p.name;
  int before = 0;
  FALCONET_CUDA(cudaGetDevice(&before));
  FALCONET_CUDA(cudaSetDevice(device));
  f.compute_capability = kernels_compiled_for();
  FALCONET_CUDA(cudaSetDevice(before));
  f.multiprocessors = p.multiProcessorCount;
  f.shared_memory_bytes = std::int64_t(p.sharedMemPerBlockOptin);
  f.memory_bytes = std::int64_t(p.totalGlobalMem);
  f.l2_bytes = p.l2CacheSize;
  return f;
}

int cuda_compute_capability(int device) {
  int major = 0, minor = 0;
  FALCONET_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  FALCONET_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  return major * 10 + minor;
}

CudaStream::CudaStream(int device) : device_(device) {
  FALCONET_CUDA(cudaSetDevice(device));
  cudaStream_t s = nullptr;
  count(allocations);
  FALCONET_CUDA(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
  handle_ = s;
  void* counter = nullptr;
  cudaError_t code = cudaMalloc(&counter, sizeof(unsigned));
  arrivals_ = static_cast<unsigned*>(counter);
  if (code == cudaSuccess) code = cudaMemsetAsync(counter, 0, sizeof(unsigned), s);
  if (code == cudaSuccess) return;
  cudaFree(counter);                       // a constructor that throws is not destroyed
  cudaStreamDestroy(s);
  check_cuda(code, "cudaMalloc", "a stream's counter");
}
CudaStream::CudaStream(CudaStream&& other) noexcept
    : handle_(std::exchange(other.handle_, nullptr)), arrivals_(std::exchange(other.arrivals_, nullptr)), device_(other.device_) {}
CudaStream& CudaStream::operator=(CudaStream&& other) noexcept {
  std::swap(handle_, other.handle_);
  std::swap(arrivals_, other.arrivals_);
  std::swap(device_, other.device_);
  return *this;
}
CudaStream::~CudaStream() {
  if (handle_) cudaStreamDestroy(raw(handle_));
  if (arrivals_) cudaFree(arrivals_);
}
void CudaStream::synchronize() const {
  count(synchronizations);
  FALCONET_CUDA(cudaStreamSynchronize(raw(handle_)));
}
bool CudaStream::idle() const {
  cudaError_t const code = cudaStreamQuery(raw(handle_));
  if (code == cudaErrorNotReady) return cudaGetLastError(), false;
  check_cuda(code, "cudaStreamQuery");
  return true;
}
void CudaStream::wait(CudaEvent const& event) const {
  FALCONET_CUDA(cudaStreamWaitEvent(raw(handle_), static_cast<cudaEvent_t>(event.handle()), 0));
}

CudaEvent::CudaEvent(int device) {
  FALCONET_CUDA(cudaSetDevice(device));
  cudaEvent_t e = nullptr;
  count(allocations);
  FALCONET_CUDA(cudaEventCreate(&e));
  handle_ = e;
}
CudaEvent::CudaEvent(CudaEvent&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
CudaEvent& CudaEvent::operator=(CudaEvent&& other) noexcept { return std::swap(handle_, other.handle_), *this; }
CudaEvent::~CudaEvent() {
  if (handle_) cudaEventDestroy(static_cast<cudaEvent_t>(handle_));
}
void CudaEvent::record(CudaStream const& s) { FALCONET_CUDA(cudaEventRecord(static_cast<cudaEvent_t>(handle_), raw(s))); }
void CudaEvent::synchronize() const {
  count(synchronizations);
  FALCONET_CUDA(cudaEventSynchronize(static_cast<cudaEvent_t>(handle_)));
}
double CudaEvent::milliseconds_since(CudaEvent const& earlier) const {
  float ms = 0;
  FALCONET_CUDA(cudaEventElapsedTime(&ms, static_cast<cudaEvent_t>(earlier.handle_), static_cast<cudaEvent_t>(handle_)));
  return ms;
}

CudaGraph::CudaGraph(CudaStream const& s, std::function<void(Stream&)> const& work) {
  FALCONET_CUDA(cudaSetDevice(s.device()));
  count(allocations);
  FALCONET_CUDA(cudaStreamBeginCapture(raw(s), cudaStreamCaptureModeThreadLocal));
  cudaGraph_t graph = nullptr;
  try {
    Stream stream = s.stream();
    work(stream);
  } catch (...) {
    cudaStreamEndCapture(raw(s), &graph);
    if (graph) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  FALCONET_CUDA(cudaStreamEndCapture(raw(s), &graph));
  cudaGraphExec_t executable = nullptr;
  cudaError_t code = cudaGraphGetNodes(graph, nullptr, &nodes_);
  if (code == cudaSuccess) code = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check_cuda(code, "cudaGraphInstantiate", std::to_string(nodes_) + " nodes");
  code = cudaGraphUpload(executable, raw(s));
  if (code != cudaSuccess) cudaGraphExecDestroy(executable);
  check_cuda(code, "cudaGraphUpload");
  executable_ = executable;
}
CudaGraph::CudaGraph(CudaGraph&& other) noexcept : executable_(std::exchange(other.executable_, nullptr)), nodes_(other.nodes_) {}
CudaGraph& CudaGraph::operator=(CudaGraph&& other) noexcept {
  std::swap(executable_, other.executable_);
  std::swap(nodes_, other.nodes_);
  return *this;
}
CudaGraph::~CudaGraph() {
  if (executable_) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(executable_));
}
void CudaGraph::launch(CudaStream const& s) const {
  count(graph_launches);
  FALCONET_CUDA(cudaGraphLaunch(static_cast<cudaGraphExec_t>(executable_), raw(s)));
}

CudaMemory::CudaMemory(int device, std::size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  FALCONET_CUDA(cudaSetDevice(device));
  count(allocations);
  cudaError_t code = cudaMalloc(&data_, bytes);
  if (code == cudaErrorMemoryAllocation) {
    std::size_t free = 0, total = 0;
    cudaGetLastError();
    cudaMemGetInfo(&free, &total);
    fail(ErrorKind::device, "out of memory on cuda:" + std::to_string(device) + ": " + std::to_string(bytes) + " bytes wanted, " +
                                std::to_string(free) + " of " + std::to_string(total) + " free");
  }
  check_cuda(code, "cudaMalloc", std::to_string(bytes) + " bytes on cuda:" + std::to_string(device));
}
CudaMemory::CudaMemory(CudaMemory&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
CudaMemory& CudaMemory::operator=(CudaMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}
CudaMemory::~CudaMemory() {
  if (data_) cudaFree(data_);
}

PinnedMemory::PinnedMemory(std::size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  count(allocations);
  check_cuda(cudaMallocHost(&data_, bytes), "cudaMallocHost", std::to_string(bytes) + " bytes");
}
PinnedMemory::PinnedMemory(PinnedMemory&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
PinnedMemory& PinnedMemory::operator=(PinnedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}
PinnedMemory::~PinnedMemory() {
  if (data_) cudaFreeHost(data_);
}

void copy_to_device(void* device, void const* host, std::size_t bytes, CudaStream const& s) {
  if (bytes == 0) return;
  count(copies);
  FALCONET_CUDA(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, raw(s)));
}
void copy_to_host(void* host, void const* device, std::size_t bytes, CudaStream const& s) {
  if (bytes == 0) return;
  count(copies);
  FALCONET_CUDA(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, raw(s)));
}
void copy_on_device(void* to, void const* from, std::size_t bytes, CudaStream const& s) {
  if (bytes == 0) return;
  count(copies);
  FALCONET_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, raw(s)));
}
void fill_bytes(void* device, int byte, std::size_t bytes, CudaStream const& s) {
  if (bytes == 0) return;
  count(copies);
  FALCONET_CUDA(cudaMemsetAsync(device, byte, bytes, raw(s)));
}

}  // namespace falconet
