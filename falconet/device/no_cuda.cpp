// The CUDA side of the device layer in a build without CUDA: the same functions, no device.
#include "falconet/base/error.h"
#include "falconet/device/cuda/handles.h"
#include "falconet/device/cuda/limits.h"

namespace falconet {
namespace {
[[noreturn]] void absent() { fail(ErrorKind::device, "this falconet was built without CUDA; FALCONET_CUDA=on make build brings it"); }
}  // namespace

CudaProbe const& real_cuda_probe() {
  static CudaProbe const none;
  return none;
}
DeviceFacts cuda_facts(int) { absent(); }
CudaMemoryInfo cuda_memory(int) { absent(); }
int cuda_compute_capability(int) { absent(); }
void set_cuda_check(CudaCheck) {}
CudaCheck cuda_check() { return CudaCheck::off; }
CudaCounts cuda_counts() { return {}; }

CudaStream::CudaStream(int) { absent(); }
CudaStream::CudaStream(CudaStream&&) noexcept = default;
CudaStream& CudaStream::operator=(CudaStream&&) noexcept = default;
CudaStream::~CudaStream() = default;
void CudaStream::synchronize() const { absent(); }
bool CudaStream::idle() const { absent(); }
void CudaStream::wait(CudaEvent const&) const { absent(); }

CudaEvent::CudaEvent(int) { absent(); }
CudaEvent::CudaEvent(CudaEvent&&) noexcept = default;
CudaEvent& CudaEvent::operator=(CudaEvent&&) noexcept = default;
CudaEvent::~CudaEvent() = default;
void CudaEvent::record(CudaStream const&) { absent(); }
void CudaEvent::synchronize() const { absent(); }
double CudaEvent::milliseconds_since(CudaEvent const&) const { absent(); }

CudaGraph::CudaGraph(CudaStream const&, std::function<void(Stream&)> const&) { absent(); }
CudaGraph::CudaGraph(CudaGraph&&) noexcept = default;
CudaGraph& CudaGraph::operator=(CudaGraph&&) noexcept = default;
CudaGraph::~CudaGraph() = default;
void CudaGraph::launch(CudaStream const&) const { absent(); }

CudaMemory::CudaMemory(int, std::size_t) { absent(); }
CudaMemory::CudaMemory(CudaMemory&&) noexcept = default;
CudaMemory& CudaMemory::operator=(CudaMemory&&) noexcept = default;
CudaMemory::~CudaMemory() = default;

PinnedMemory::PinnedMemory(std::size_t) { absent(); }
PinnedMemory::PinnedMemory(PinnedMemory&&) noexcept = default;
PinnedMemory& PinnedMemory::operator=(PinnedMemory&&) noexcept = default;
PinnedMemory::~PinnedMemory() = default;

void copy_to_device(void*, void const*, std::size_t, CudaStream const&) { absent(); }
void copy_to_host(void*, void const*, std::size_t, CudaStream const&) { absent(); }
void copy_on_device(void*, void const*, std::size_t, CudaStream const&) { absent(); }
double multiply_adds_per_second(Device, Arithmetic) { absent(); }
double copy_bytes_per_second(Device) { absent(); }
void fill_bytes(void*, int, std::size_t, CudaStream const&) { absent(); }

}  // namespace falconet
