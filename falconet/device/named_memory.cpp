#include "falconet/device/named_memory.h"

#include <map>
#include <mutex>
#include <utility>

namespace falconet {
namespace {

struct Named {
  Device device;
  Consumer consumer;
};
std::mutex guard;
std::map<int, Named>& list() {         // made before the first object that is in it, so destroyed after the last
  static std::map<int, Named> all;
  return all;
}

}  // namespace

NamedMemory::NamedMemory(Device device, std::string name, std::int64_t bytes) {
  std::lock_guard const lock(guard);
  static int last = 0;
  list().emplace(number_ = ++last, Named{device, {std::move(name), bytes}});
}
NamedMemory::NamedMemory(NamedMemory&& other) noexcept : number_(std::exchange(other.number_, 0)) {}
NamedMemory& NamedMemory::operator=(NamedMemory&& other) noexcept {
  std::swap(number_, other.number_);
  return *this;
}
NamedMemory::~NamedMemory() {
  if (number_ == 0) return;
  std::lock_guard const lock(guard);
  list().erase(number_);
}

std::vector<Consumer> named_memory(Device device) {
  std::lock_guard const lock(guard);
  std::vector<Consumer> out;
  for (auto const& [number, named] : list())
    if (named.device == device) out.push_back(named.consumer);
  return out;
}

}  // namespace falconet
