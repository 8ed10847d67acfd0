// What the programs share that need a GPU.
#pragma once
#include <cstdio>
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

inline int failures = 0;
inline void expect(bool good, std::string const& what) {
  std::printf("%s %s\n", good ? "ok    " : "FAILED", what.c_str());
  failures += !good;
}

}  // namespace falconet::gpu_test
