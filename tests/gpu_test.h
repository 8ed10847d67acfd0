// What the programs share that need a GPU.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <string>

#include "falconet/device/cuda_status.h"

namespace falconet::gpu_test {

// The first lines of main(): if (int const code = skipped()) return code; says why where no GPU can be used, and CTest counts 77 as skipped.
inline int skipped() {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  std::string const why = cuda_refusal(0);
  if (why.empty()) return 0;
  std::printf("skipped: %s\n", why.c_str());
  return 77;
}

// Whether problem `index` of a list belongs to this run: FALCONET_SHARD=I/N takes every N-th from the I-th on (0 <= I < N), so that a sanitizer,
// under which kernels are many times slower, watches the parts of a list side by side.
inline bool in_shard(int index) {
  int part = 0, parts = 1;
  if (char const* text = std::getenv("FALCONET_SHARD"); text && (std::sscanf(text, "%d/%d", &part, &parts) != 2 || part < 0 || part >= parts)) {
    std::printf("error: FALCONET_SHARD: expected I/N with 0 <= I < N, got '%s'\n", text);
    std::exit(2);
  }
  return index % parts == part;
}

inline int failures = 0;
inline void expect(bool good, std::string const& what) {
  std::printf("%s %s\n", good ? "ok    " : "FAILED", what.c_str());
  failures += !good;
}

}  // namespace falconet::gpu_test
