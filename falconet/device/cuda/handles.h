// CUDA's streams, events, graphs and memory as move-only types, free of CUDA's own headers. Without CUDA in the build
// (device/no_cuda.cpp) the same functions exist, no device is found and every constructor throws a device error.
#pragma once
#include <cstddef>
#include <functional>
#include <string>

#include "falconet/device/cuda_status.h"
#include "falconet/device/device.h"

namespace falconet {

DeviceFacts cuda_facts(int device);
struct CudaMemoryInfo {
  std::size_t free = 0, total = 0;   // bytes
};
CudaMemoryInfo cuda_memory(int device);
int cuda_compute_capability(int device);   // of the card, 80 for 8.0; DeviceFacts has that of the code it runs

// sync: every launch is followed by a synchronisation, so that an asynchronous fault is reported by the kernel that caused it.
enum class CudaCheck { off, sync };
void set_cuda_check(CudaCheck);
CudaCheck cuda_check();

// What has been asked of GPUs so far in this process: a steady step is one graph launch and nothing else.
struct CudaCounts {
  std::int64_t graph_launches = 0;
  std::int64_t kernel_launches = 0;      // outside graphs, and while graphs are captured
  std::int64_t copies = 0;               // and fills, likewise
  std::int64_t allocations = 0;          // of device and of pinned memory, streams, events and graphs included
  std::int64_t synchronizations = 0;     // the host waited
};
CudaCounts cuda_counts();

// A stream that synchronises with no other. Falconet's kernels take it as Stream.
class CudaStream {
 public:
  explicit CudaStream(int device);
  CudaStream(CudaStream&& other) noexcept;
  CudaStream& operator=(CudaStream&& other) noexcept;
  ~CudaStream();
  Stream stream() const { return Stream(handle_, arrivals_); }
  int device() const { return device_; }
  void synchronize() const;      // throws the device error of anything that ran before
  bool idle() const;             // everything has ended; throws likewise, and waits for nothing
  void wait(class CudaEvent const&) const;

 private:
  void* handle_ = nullptr;
  unsigned* arrivals_ = nullptr;
  int device_ = 0;
};

class CudaEvent {
 public:
  explicit CudaEvent(int device);
  CudaEvent(CudaEvent&& other) noexcept;
  CudaEvent& operator=(CudaEvent&& other) noexcept;
  ~CudaEvent();
  void record(CudaStream const&);
  void synchronize() const;
  double milliseconds_since(CudaEvent const& earlier) const;   // both recorded and reached
  void* handle() const { return handle_; }

 private:
  void* handle_ = nullptr;
};

// Work captured once and launched many times. Whatever `work` launches on the stream becomes a node; nothing runs during capture.
class CudaGraph {
 public:
  CudaGraph(CudaStream const&, std::function<void(Stream&)> const& work);
  CudaGraph(CudaGraph&& other) noexcept;
  CudaGraph& operator=(CudaGraph&& other) noexcept;
  ~CudaGraph();
  void launch(CudaStream const&) const;
  std::size_t nodes() const { return nodes_; }

 private:
  void* executable_ = nullptr;
  std::size_t nodes_ = 0;
};

// Device memory, 256-byte aligned (in practice 2 MiB). One block serves as an arena; plans place everything inside it.
class CudaMemory {
 public:
  CudaMemory() = default;
  CudaMemory(int device, std::size_t bytes);          // throws, naming the bytes wanted and the bytes free
  CudaMemory(CudaMemory&& other) noexcept;
  CudaMemory& operator=(CudaMemory&& other) noexcept;
  ~CudaMemory();
  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// Host memory that copies overlap with kernels from.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  explicit PinnedMemory(std::size_t bytes);
  PinnedMemory(PinnedMemory&& other) noexcept;
  PinnedMemory& operator=(PinnedMemory&& other) noexcept;
  ~PinnedMemory();
  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// Ordered on the stream. Copies from or to ordinary host memory return when the host memory may be reused; pinned memory may be
// reused once the stream has passed them.
void copy_to_device(void* device, void const* host, std::size_t bytes, CudaStream const&);
void copy_to_host(void* host, void const* device, std::size_t bytes, CudaStream const&);
void copy_on_device(void* to, void const* from, std::size_t bytes, CudaStream const&);
void fill_bytes(void* device, int byte, std::size_t bytes, CudaStream const&);

}  // namespace falconet
