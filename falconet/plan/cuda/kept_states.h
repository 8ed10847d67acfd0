// What a step writes before its loss is known and that outlives it (batch norm's running statistics), as it was when the step began.
#pragma once
#include <cstdint>
#include <vector>

#include "falconet/device/cuda/handles.h"
#include "falconet/tensor/tensor.h"

namespace falconet {

struct StatePair {
  std::uint32_t *live, *kept;
  std::int64_t words;
};

class KeptStates {
 public:
  explicit KeptStates(int device) : stream_(device) {}
  // live: device memory of f32 or f64. Allocates; not while a step is captured.
  void watch(std::vector<View> const& live);
  bool empty() const { return count_ == 0; }
  // One launch each. keep does nothing where *failed, if given, is not 0 by then.
  void keep(Stream&, std::int32_t const* failed) const;
  void restore(Stream&) const;

 private:
  CudaStream stream_;
  CudaMemory memory_, pairs_;
  int count_ = 0;
};

}  // namespace falconet
