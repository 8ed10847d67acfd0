// Devices, what algorithms may know about them, and the stream that a kernel runs on.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "falconet/device/cpu/isa.h"

namespace falconet {

class ThreadPool;

enum class DeviceKind : std::uint8_t { cpu, cuda };

struct Device {
  DeviceKind kind = DeviceKind::cpu;
  int index = 0;
  std::string text() const;                       // "cpu", "cuda:0"
  static Device parse(std::string_view);          // "auto", "cpu", "cuda", "cuda:N"; throws usage or device errors
  bool operator==(Device const&) const = default;
};

// Everything an algorithm may look at besides the problem. A pure value: tests build any they like.
// The number of threads is not part of it: a plan, and so its results, does not depend on it.
struct DeviceFacts {
  Device device;
  std::string name;                               // as the vendor prints it
  Isa isa = Isa::plain;                           // CPU: the instruction set that kernels may use
  std::int64_t l1_bytes = 32 << 10, l2_bytes = 1 << 20, l3_bytes = 8 << 20;   // CPU: per core, per core, shared
  int compute_capability = 0;                     // CUDA: what its kernels were compiled for, 90 for Hopper; the card's own or a smaller one (docs/adr/0119)
  int multiprocessors = 0;                        // CUDA
  std::int64_t shared_memory_bytes = 0;           // CUDA: per block, opt-in
  std::int64_t memory_bytes = 0;                  // CUDA: of the card
  bool operator==(DeviceFacts const&) const = default;
};
DeviceFacts facts_of(Device, Isa cap = Isa::avx512);   // cap: the largest instruction set to report

// Where a launch goes: the CPU's thread pool, or a CUDA stream.
class Stream {
 public:
  explicit Stream(ThreadPool& threads, Isa isa) : threads_(&threads), isa_(isa) {}
  explicit Stream(void* cuda_stream, unsigned* arrivals = nullptr) : cuda_(cuda_stream), arrivals_(arrivals) {}
  ThreadPool& threads() const { return *threads_; }
  Isa isa() const { return isa_; }
  void* cuda() const { return cuda_; }            // a cudaStream_t
  // CUDA: a counter in device memory that is zero between launches. A kernel may count its blocks there, so that the last one finishes
  // what all have begun, and leaves it zero. Launches of one stream follow one another, so one counter serves them all.
  unsigned* arrivals() const { return arrivals_; }
  // CUDA: a scalar in device memory (f64 beside f64 parameters, else f32). What is launched here must have no effect unless it is finite;
  // only algorithms that say so (Algorithm::heeds_guard) may be. Null: no condition.
  void const* guard() const { return guard_; }
  Stream guarded_by(void const* scalar) const { Stream s = *this; s.guard_ = scalar; return s; }

 private:
  ThreadPool* threads_ = nullptr;
  Isa isa_ = Isa::plain;
  void* cuda_ = nullptr;
  unsigned* arrivals_ = nullptr;
  void const* guard_ = nullptr;
};

// What changes from step to step lives in memory that kernels read, never in their arguments.
struct StepState {
  std::int64_t step = 0;           // optimizer steps done
  std::int64_t sample = 0;         // samples seen before this batch, in the whole run (for counter-based random bits)
  std::uint64_t seed = 0;
  float learning_rate = 0;
  std::int32_t valid_count = 0;    // rows of the batch that are real; the rest is padding
};

}  // namespace falconet
