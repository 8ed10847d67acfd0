#include "falconet/device/device.h"

#include <unistd.h>

#include <charconv>
#include <fstream>

#include "falconet/base/error.h"
#include "falconet/device/cuda/handles.h"

namespace falconet {
namespace {

std::string first_line(std::string const& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

// "48K" or "32M" as Linux prints cache sizes; 0 if it is something else.
std::int64_t cache_bytes(std::string const& text) {
  std::int64_t value = 0;
  auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{}) return 0;
  char const unit = rest < text.data() + text.size() ? *rest : ' ';
  return value * (unit == 'K' ? 1 << 10 : unit == 'M' ? 1 << 20 : 1);
}

// The data cache of a level: from sysfs, else from sysconf, else the fallback.
std::int64_t cache_of(int level, std::int64_t fallback) {
  for (int i = 0; i < 8; ++i) {
    std::string const folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(i) + "/";
    if (first_line(folder + "level") != std::to_string(level) || first_line(folder + "type") == "Instruction") continue;
    if (auto bytes = cache_bytes(first_line(folder + "size")); bytes > 0) return bytes;
  }
#ifdef _SC_LEVEL1_DCACHE_SIZE
  long const bytes = sysconf(level == 1 ? _SC_LEVEL1_DCACHE_SIZE : level == 2 ? _SC_LEVEL2_CACHE_SIZE : _SC_LEVEL3_CACHE_SIZE);
  if (bytes > 0) return bytes;
#endif
  return fallback;
}

std::string processor_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("model name"))
      if (auto colon = line.find(": "); colon != std::string::npos) return line.substr(colon + 2);
  return "CPU";
}

}  // namespace

std::string Device::text() const { return kind == DeviceKind::cpu ? "cpu" : "cuda:" + std::to_string(index); }

Device Device::parse(std::string_view text) {
  if (text == "cpu") return {};
  bool const any = text == "auto";
  int index = 0;
  if (!any && text != "cuda") {
    constexpr std::string_view prefix = "cuda:";
    auto const digits = text.substr(text.starts_with(prefix) ? prefix.size() : text.size());
    auto [rest, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
    if (digits.empty() || error != std::errc{} || rest != digits.data() + digits.size() || index < 0)
      fail(ErrorKind::usage, "unknown device '" + std::string(text) + "'; known: auto cpu cuda cuda:N");
  }
  CudaStatus const status = cuda_status();
  if (any) {
    for (int i = 0; i < status.devices; ++i)
      if (cuda_refusal(i).empty()) return {DeviceKind::cuda, i};
    return {};
  }
  if (status.devices > 0 && index >= status.devices) fail(ErrorKind::device, "device " + std::string(text) + " does not exist; " + cuda_refusal(index));
  if (auto const why = cuda_refusal(index); !why.empty()) fail(ErrorKind::device, "device " + std::string(text) + " cannot be used: " + why);
  return {DeviceKind::cuda, index};
}

DeviceFacts facts_of(Device device, Isa cap) {
  if (device.kind == DeviceKind::cuda) return cuda_facts(device.index);
  DeviceFacts facts;
  facts.device = device;
  facts.name = processor_name();
  Isa const detected = detected_isa();
  facts.isa = detected < cap ? detected : cap;
  facts.l1_bytes = cache_of(1, facts.l1_bytes);
  facts.l2_bytes = cache_of(2, facts.l2_bytes);
  facts.l3_bytes = cache_of(3, facts.l3_bytes);
  return facts;
}

}  // namespace falconet
