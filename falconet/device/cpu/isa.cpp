#include "falconet/device/cpu/isa.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

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

#if defined(__x86_64__) && defined(__linux__)
namespace {
bool amx_is_granted() {
  if (detected_isa() != Isa::avx512) return false;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24;
  if ((d & amx_bf16) == 0 || (d & amx_tile) == 0) return false;
  constexpr int request_permission = 0x1023, tile_data = 18;   // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA; refused where the system does not save tiles
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
}  // namespace
bool has_amx() {
  static bool const granted = amx_is_granted();
  return granted;
}
#else
bool has_amx() { return false; }
#endif
}  // namespace falconet
