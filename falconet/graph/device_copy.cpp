#include "falconet/graph/device_copy.h"

namespace falconet {

void* DeviceCopy::address(std::string const& name, View host) {
  auto at = memory_.find(name);
  if (at == memory_.end()) at = memory_.emplace(name, CudaMemory(device(), host.type.bytes())).first;
  return at->second.data();
}

void DeviceCopy::upload(std::map<std::string, View> const& host) {
  for (auto const& [name, memory] : memory_)
    if (auto from = host.find(name); from != host.end()) copy_to_device(memory.data(), from->second.data, memory.bytes(), stream_);
  stream_.synchronize();
  host_is_newer = false;
}

void DeviceCopy::download(std::map<std::string, View> const& host) {
  for (auto const& [name, memory] : memory_)
    if (auto to = host.find(name); to != host.end()) copy_to_host(to->second.data, memory.data(), memory.bytes(), stream_);
  stream_.synchronize();
  device_is_newer = false;
}

}  // namespace falconet
