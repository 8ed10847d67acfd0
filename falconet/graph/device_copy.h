// The copy of the parameters in the memory of a GPU: which side is newer, and bringing the other up to date.
#pragma once
#include <map>
#include <string>

#include "falconet/device/cuda/handles.h"
#include "falconet/tensor/tensor.h"

namespace falconet {

class DeviceCopy {
 public:
  explicit DeviceCopy(int device) : stream_(device) {}
  int device() const { return stream_.device(); }
  void* address(std::string const& name, View host);   // allocates at the first call for a name
  bool has(std::string const& name) const { return memory_.contains(name); }
  // Copies every value whose name has an address. Return when the copies are complete.
  void upload(std::map<std::string, View> const& host);
  void download(std::map<std::string, View> const& host);
  bool host_is_newer = true, device_is_newer = false;

 private:
  CudaStream stream_;
  std::map<std::string, CudaMemory> memory_;
};

}  // namespace falconet
