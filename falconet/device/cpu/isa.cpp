#include "falconet/device/cpu/isa.h"

#include <string>

#include "falconet/base/error.h"

namespace falconet {
namespace {
constexpr std::string_view names[] = {"plain", "avx2", "avx512"};
}
std::string_view name(Isa isa) { return names[int(isa)]; }
Isa parse_isa(std::string_view text) {
  for (int i = 0; i < 3; ++i)
    if (names[i] == text) return Isa(i);
  fail(ErrorKind::usage, "unknown instruction set '" + std::string(text) + "'; known: plain avx2 avx512");
}
Isa detected_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  bool const avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  bool const avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd");
  return avx512 ? Isa::avx512 : avx2 ? Isa::avx2 : Isa::plain;
#else
  return Isa::plain;
#endif
}
bool has_bf16_products() {
#if defined(__x86_64__)
  return detected_isa() == Isa::avx512 && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}
}  // namespace falconet
