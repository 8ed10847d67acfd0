// What lies in a device's memory for long and belongs to no plan, such as a data set: kept by name, so that whoever finds too little memory can say
// where it went.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "falconet/device/device.h"

namespace falconet {

struct Consumer {
  std::string what;                    // "layer1.0.conv1 (fwd)", "weights", "the data set (60000 images of 1x28x28)"
  std::int64_t bytes = 0;
};

// As long as this object lives, so many bytes of the device carry this name. It owns no memory.
class NamedMemory {
 public:
  NamedMemory() = default;
  NamedMemory(Device, std::string name, std::int64_t bytes);
  NamedMemory(NamedMemory&&) noexcept;
  NamedMemory& operator=(NamedMemory&&) noexcept;
  ~NamedMemory();

 private:
  int number_ = 0;                     // 0: names nothing
};
std::vector<Consumer> named_memory(Device);    // of all objects that live, in the order in which they were made

}  // namespace falconet
