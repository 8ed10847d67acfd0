// The values that outlive a step: weights, running statistics, optimizer moments. Shared between plans: training at batch 128,
// evaluation at 1000 and prediction at 1 use the same memory.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "falconet/graph/graph.h"
#include "falconet/tensor/tensor.h"

namespace falconet {

class Parameters {
 public:
  struct Entry {
    std::string name;
    Role role;                       // parameter or state
    Init init;
    Tensor tensor;                   // rank-4 tensors lie in nhwc, all others row-major
  };

  // seed decides the initial values, together with each name: adding a layer leaves the others' start as it was.
  explicit Parameters(std::uint64_t seed = 0, DType dtype = DType::f32) : seed_(seed), dtype_(dtype) {}

  // Adds what the graph's parameters and states lack here, initialised; checks the shapes of what is there already
  // (model error naming the key).
  void adopt(Graph const&);
  Entry* find(std::string const& name);
  Entry const* find(std::string const& name) const;
  std::vector<Entry>& entries() { return entries_; }
  std::vector<Entry> const& entries() const { return entries_; }
  DType dtype() const { return dtype_; }
  void convert(DType);               // f32 <-> f64, all entries; views taken before are void
  std::int64_t trained_elements() const;

 private:
  std::uint64_t seed_;
  DType dtype_;
  std::vector<Entry> entries_;
  std::map<std::string, std::size_t> index_;
};

// Fills a tensor with its start values: a pure function of init, seed, name and the element's logical index.
void initialise(Tensor&, Init const&, std::uint64_t seed, std::string_view name);

}  // namespace falconet
