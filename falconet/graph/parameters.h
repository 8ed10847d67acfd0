// The values that outlive a step: weights, running statistics, optimizer moments. Shared between plans: training at batch 128,
// evaluation at 1000 and prediction at 1 use the same memory. On a GPU steps work on a copy in its memory; whichever side is asked for
// is brought up to date first, so host tensors are right whenever they are got from here (a reference kept over a step is not).
#pragma once
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "falconet/graph/graph.h"
#include "falconet/tensor/tensor.h"

namespace falconet {

class DeviceCopy;

class Parameters {
 public:
  struct Entry {
    std::string name;
    Role role;                       // parameter or state
    Init init;
    Tensor tensor;                   // rank-4 tensors lie in nhwc, all others row-major
  };

  // seed decides the initial values, together with each name: adding a layer leaves the others' start as it was.
  explicit Parameters(std::uint64_t seed = 0, DType dtype = DType::f32);
  ~Parameters();

  // Adds what the graph's parameters and states lack here, initialised; checks the shapes of what is there already
  // (model error naming the key).
  void adopt(Graph const&);
  // Read the values of the last step; through those that are not const they may be written, before the next step.
  Entry* find(std::string const& name);
  Entry const* find(std::string const& name) const;
  std::vector<Entry>& entries();
  std::vector<Entry> const& entries() const;
  DType dtype() const { return dtype_; }
  void convert(DType);               // f32 <-> f64, all entries; views taken before are void
  std::int64_t trained_elements() const;
  // Grows whenever values may have changed: with each access that is not const, and with each step that writes. Sessions compare it to know
  // whether what they have computed from the values is still right. Never 0.
  std::uint64_t version() const { return version_.load(std::memory_order_acquire); }
  void changed() { version_.fetch_add(1, std::memory_order_acq_rel); }   // a session on the CPU is about to write values

  // For sessions on a GPU. The address of a value there (it must exist), good until convert(); all of one Parameters lie on one GPU.
  void* on_device(std::string const& name, int device);
  bool lies_on_device(std::string const& name) const;
  // Before a step: brings over what the host wrote; `written`: the step changes values.
  void to_device(bool written);

 private:
  void to_host() const;              // brings over what steps on a GPU wrote
  std::map<std::string, View> views() const;
  std::uint64_t seed_;
  DType dtype_;
  std::atomic<std::uint64_t> version_{1};
  std::vector<Entry> entries_;
  std::map<std::string, std::size_t> index_;
  std::unique_ptr<DeviceCopy> copy_;   // none before a session on a GPU asks for it
};

// Fills a tensor with its start values: a pure function of init, seed, name and the element's logical index.
void initialise(Tensor&, Init const&, std::uint64_t seed, std::string_view name);

}  // namespace falconet
