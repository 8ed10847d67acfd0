// checks: what this machine offers, and what falconet would use of it.
#include <dlfcn.h>
#include <link.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "cli/commands.h"
#include "cli/inputs.h"
#include "cli/table.h"
#include "falconet/base/error.h"
#include "falconet/base/format.h"
#include "falconet/data/image.h"
#include "falconet/device/cpu/onednn.h"
#include "falconet/device/cpu/openblas.h"
#include "falconet/device/cuda/handles.h"
#include "falconet/device/device.h"

namespace falconet::cli {
namespace {

struct Library {
  char const* name;
  std::vector<char const*> files;  // in the order in which they are tried
  char const* version = nullptr;   // a function that returns it as a number
  int major = 1;                   // what that number is divided by: 90501 / 10000 is 9
};

// Where the system's loader finds it, and its version if it says it; empty if nowhere.
std::string found_at(Library const& library) {
  for (char const* file : library.files) {
    // It stays loaded: unloading a vendor's library runs its destructors for nothing, and some of them leak.
    void* const handle = dlopen(file, RTLD_LAZY | RTLD_LOCAL | RTLD_NODELETE);
    if (!handle) continue;
    link_map* map = nullptr;
    std::string path = dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 && map && map->l_name ? map->l_name : file;
    if (library.version)
      if (auto const version = reinterpret_cast<std::size_t (*)()>(dlsym(handle, library.version)))
        path += format(", version {}.{}.{}", version() / std::size_t(library.major), version() % std::size_t(library.major) / 100, version() % 100);
    dlclose(handle);
    return path;
  }
  return {};
}

std::string sought(Library const& library) {
  std::string files;
  for (char const* file : library.files) files += (files.empty() ? "" : ", ") + std::string(file);
  char const* const path = std::getenv("LD_LIBRARY_PATH");
  return format("not found (sought {} in {}the system's folders)", files, path && *path ? format("LD_LIBRARY_PATH={} and ", path) : std::string());
}

std::string version_text(int v) { return v ? format("{}.{}", v / 1000, v % 1000 / 10) : std::string("none"); }

}  // namespace

int checks(Settings& settings) {
  std::vector<std::pair<std::string, std::string>> lines;
  auto const add = [&](std::string what, std::string found) { lines.emplace_back(std::move(what), std::move(found)); };
  add("falconet", FALCONET_VERSION);
  add("compiler", format("g++ {}", __VERSION__));
#if defined(__clang__)
  lines.back().second = __VERSION__;
#endif

  auto const cpu = facts_of(Device{});
  int const threads = usable_cpus();
  add("cpu", cpu.name);
  std::string sets;
  for (int isa = 0; isa <= int(detected_isa()); ++isa) sets += (sets.empty() ? "" : ", ") + std::string(name(Isa(isa)));
  add("instruction sets", format("{}; {} is used", sets, name(detected_isa())));
  add("threads", format("{} (the CPUs that this process may use)", threads));
  add("caches", format("{} L1, {} L2 a core, {} L3", bytes_text(double(cpu.l1_bytes)), bytes_text(double(cpu.l2_bytes)),
                       bytes_text(double(cpu.l3_bytes))));

  auto const cuda = cuda_status();
  add("cuda", cuda.built ? format("built for {}; runtime {}, driver {}", cuda.architectures, version_text(cuda.runtime_version),
                                  version_text(cuda.driver_version))
                         : "not built in");
  if (cuda.devices == 0) add("gpu", cuda.reason);
  std::string unused;                                 // why a GPU that is there does not train
  for (int i = 0; i < cuda.devices; ++i) {
    if (auto const why = cuda_refusal(i); !why.empty()) {
      add(format("gpu {}", i), why);
      unused += (unused.empty() ? "" : "; ") + why;
      continue;
    }
    auto const gpu = cuda_facts(i);
    auto const memory = cuda_memory(i);
    int const own = cuda_compute_capability(i), compiled = gpu.compute_capability;
    add(format("gpu {}", i), format("{}, {} memory, {} free, {} multiprocessors, compute capability {}.{}{}", gpu.name, bytes_text(double(gpu.memory_bytes)), bytes_text(double(memory.free)),
                                    gpu.multiprocessors, own / 10, own % 10, own == compiled ? "" : format(", runs kernels of {}.{}", compiled / 10, compiled % 10)));
  }

  for (Library const& library : {Library{"cuDNN", {"libcudnn.so.9", "libcudnn.so"}, "cudnnGetVersion", 10000},
                                 Library{"cuBLASLt", {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"}, "cublasLtGetVersion", 10000}}) {
    auto const path = found_at(library);
    add(library.name, path.empty() ? sought(library) : path);
  }
  // These two are rivals among the algorithms already: said as those who run them find them.
  add("oneDNN", onednn::found().empty() ? sought({"", {onednn::library_files}}) : onednn::found());
  add("OpenBLAS", openblas::found().empty() ? sought({"", {openblas::library_files}}) : openblas::found());
  add("rivals", "vendor libraries run only in bench, by pin. or with rivals=on");

  add("image files", format("PNG {}, JPEG {}", data::can_decode_png() ? "yes" : "no (built without libpng)",
                            data::can_decode_jpeg() ? "yes" : "no (built without libjpeg)"));
  for (auto const& kind : data_kinds()) {
    if (kind.folder.empty()) continue;
    auto const folder = find_data_folder(std::string(kind.folder));
    std::error_code error;
    add(format("data {}", kind.name), std::filesystem::exists(folder, error)
                                          ? folder
                                          : format("not found (sought {} here, below FALCONET_DATA and beside the program)", kind.folder));
  }
  auto const device = Device::parse(settings.text("device"));
  add("training runs on", device.kind == DeviceKind::cpu
                              ? format("the CPU, {}, {} thread{}{}", name(detected_isa()), threads, threads == 1 ? "" : "s", unused.empty() ? "" : " (" + unused + ")")
                              : device.text() + ", " + cuda_facts(device.index).name);

  if (settings.flag("json")) {
    JsonRow row;
    for (auto const& [what, found] : lines) row.add(what, found);
    std::fputs(row.text().c_str(), stdout);
    return 0;
  }
  for (auto const& [what, found] : lines) std::printf("%-18s %s\n", what.c_str(), found.c_str());
  return 0;
}

}  // namespace falconet::cli
