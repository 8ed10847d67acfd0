#include "falconet/device/cuda_status.h"

#include <map>
#include <mutex>
#include <optional>

namespace falconet {
namespace {

// cudaError_t's numbers; they are a part of CUDA's stable interface.
enum Code { success = 0, memory_allocation = 2, insufficient_driver = 35, devices_unavailable = 46, stub_library = 34, invalid_device_function = 98, no_device = 100, no_kernel_image = 209,
            no_ptx_compiler = 221, unsupported_ptx = 222, ptx_compiler_off = 223, system_not_ready = 802, system_driver_mismatch = 803, compat_not_supported = 804 };

std::mutex guard;
CudaProbe const* replaced = nullptr;
std::optional<CudaStatus> known_status;
std::map<int, std::string> known_refusals;

CudaProbe const& probe() { return replaced ? *replaced : real_cuda_probe(); }
std::string version_text(int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); }
bool caused_by_a_kernel(int code) { return code >= 700 && code < 720 && code != 704 && code != 708 && code != 709; }

CudaStatus ask(CudaProbe const& p) {
  CudaStatus s;
  s.built = p.built;
  s.architectures = p.architectures;
  if (!p.built) {
    s.reason = "this falconet was built without CUDA; FALCONET_CUDA=on make build brings it";
    return s;
  }
  p.runtime_version(s.runtime_version);
  if (p.driver_version(s.driver_version) != success) s.driver_version = 0;
  int count = 0;
  int const code = p.device_count(count);
  if (s.driver_version == 0 || code == stub_library) s.reason = "no NVIDIA driver was found (libcuda.so.1)";
  else if (code == insufficient_driver || code == compat_not_supported)
    s.reason = "the NVIDIA driver is too old: it supports CUDA " + version_text(s.driver_version) + ", this program needs " + version_text(s.runtime_version);
  else if (code == system_driver_mismatch) s.reason = "the NVIDIA driver's library and its kernel module are of different versions; a restart of the machine usually helps";
  else if (code == system_not_ready) s.reason = "the NVIDIA GPUs are not ready: the fabric manager does not run";
  else if (code == no_device || (code == success && count == 0)) s.reason = "no NVIDIA GPU was found";
  else if (code != success) s.reason = "the NVIDIA driver says: " + p.describe(code);
  else s.devices = count;
  return s;
}

int runtime_of(CudaProbe const& p) {
  int version = 0;
  p.runtime_version(version);
  return version;
}
std::string refusal(CudaProbe const& p, int device) {
  int const code = p.try_device(device);
  if (code == success) return {};
  std::string const who = "GPU " + std::to_string(device) + ", " + p.device_name(device) + ", ";
  switch (code) {
    case devices_unavailable: return who + "is busy: another process holds it for itself";
    case memory_allocation: return who + "has not enough free memory for a program to start";
    case no_kernel_image:
    case invalid_device_function:
      return who + "is not among the architectures that this program has kernels for (" + p.architectures +
             "); FALCONET_CUDA_ARCHITECTURES adds them when it is built, 80-ptx for every GPU from compute capability 8.0 on";
    case unsupported_ptx:
    case no_ptx_compiler:
    case ptx_compiler_off:
      return who + "has no machine code in this program (" + p.architectures + "), and the driver did not compile its PTX: " +
             (code == unsupported_ptx ? "the driver is older than this program's CUDA " + version_text(runtime_of(p)) : p.describe(code));
    case system_not_ready: return who + "is not ready: the fabric manager does not run";
    default: return who + "cannot be used: " + p.describe(code);
  }
}

}  // namespace

CudaStatus cuda_status() {
  std::lock_guard lock(guard);
  if (!known_status) known_status = ask(probe());
  return *known_status;
}

std::string cuda_refusal(int device) {
  CudaStatus const status = cuda_status();
  if (status.devices == 0) return status.reason;
  if (device >= status.devices) return "there " + std::string(status.devices == 1 ? "is 1 GPU" : "are " + std::to_string(status.devices) + " GPUs");
  std::lock_guard lock(guard);
  auto at = known_refusals.find(device);
  if (at == known_refusals.end()) at = known_refusals.emplace(device, refusal(probe(), device)).first;
  return at->second;
}

void set_cuda_probe(CudaProbe const* p) {
  std::lock_guard lock(guard);
  replaced = p;
  known_status.reset();
  known_refusals.clear();
}

std::string cuda_failure(std::string const& call, int code, std::string const& description, std::string const& context, bool checked) {
  std::string text = call + " failed: " + description;
  if (!context.empty()) text += "; " + context;
  if (caused_by_a_kernel(code) && !checked) text += "; a kernel before it may have caused this: cuda.check=sync names it";
  return text;
}

}  // namespace falconet
