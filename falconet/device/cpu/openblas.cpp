#include "falconet/device/cpu/openblas.h"

#include <dlfcn.h>
#include <link.h>

#include <cstdlib>

namespace falconet::openblas {
namespace {

enum : int { row_major = 101, as_it_lies = 111, transposed = 112 };   // of the C interface to the BLAS

struct Library {
  std::string path, config;
  void (*sgemm)(int, int, int, int, int, int, float, float const*, int, float const*, int, float, float*, int) = nullptr;
  void (*set_threads)(int) = nullptr;

  Library() {
    setenv("OPENBLAS_THREAD_TIMEOUT", "17", 0);       // idle workers spin for 2^17 cycles, as briefly as falconet's, not for milliseconds
    // PyPI's scipy-openblas32 has a prefix before each name.
    for (auto const& [file, prefix] : {std::pair{"libopenblas.so.0", ""}, {"libopenblas.so", ""}, {"libscipy_openblas.so", "scipy_"}}) {
      void* const handle = dlopen(file, RTLD_LAZY | RTLD_LOCAL | RTLD_NODELETE);
      if (!handle) continue;
      auto const find = [&](char const* name) {
        void* const plain = dlsym(handle, name);
        return plain ? plain : dlsym(handle, ((*prefix ? prefix : "scipy_") + std::string(name)).c_str());
      };
      sgemm = reinterpret_cast<decltype(sgemm)>(find("cblas_sgemm"));
      set_threads = reinterpret_cast<decltype(set_threads)>(find("openblas_set_num_threads"));
      if (!sgemm || !set_threads) continue;
      if (auto const text = reinterpret_cast<char const* (*)()>(find("openblas_get_config"))) config = text();
      link_map* map = nullptr;
      path = dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 && map && map->l_name ? map->l_name : file;
      return;
    }
  }
};
Library const& library() {
  static Library const one;
  return one;
}

}  // namespace

std::string found() { return library().path.empty() ? "" : library().path + (library().config.empty() ? "" : ", " + library().config); }

void sgemm(int threads, bool trans_a, bool trans_b, std::int64_t m, std::int64_t n, std::int64_t k, float const* a, std::int64_t lda, float const* b, std::int64_t ldb, float beta,
           float* y, std::int64_t ldy) {
  auto const& l = library();
  static int set = 0;
  if (set != threads) l.set_threads(set = threads);
  l.sgemm(row_major, trans_a ? transposed : as_it_lies, trans_b ? transposed : as_it_lies, int(m), int(n), int(k), 1, a, int(lda), b, int(ldb), beta, y, int(ldy));
}

}  // namespace falconet::openblas
