// Instruction sets that kernels are built for. Each SIMD source file is compiled once per set (see CMakeLists.txt,
// falconet_simd_sources) and the set is chosen when the program starts.
#pragma once
#include <cstdint>
#include <string_view>

namespace falconet {

enum class Isa : std::uint8_t { plain, avx2, avx512 };   // plain: what the compiler's baseline gives (SSE2 on x86-64)
std::string_view name(Isa);
Isa parse_isa(std::string_view);                         // throws a usage error naming the known sets
Isa detected_isa();                                      // the largest that this processor and system run
bool has_bf16_products();                                // beside avx512: AVX512-BF16, products of bf16 pairs summed in f32
// Beside avx512: AMX's tiles of bf16, and the system lets this process use them (Linux; asked once, which is the permission for all threads).
bool has_amx();

#if defined(__x86_64__)
// Declares a table of kernels that a SIMD source file defines once per instruction set: `extern TYPE const NAME` in
// namespaces falconet::plain, ::avx2, ::avx512 (use at namespace falconet scope).
#define FALCONET_DECLARE_KERNELS(TYPE, NAME) \
  namespace plain { extern TYPE const NAME; } \
  namespace avx2 { extern TYPE const NAME; } \
  namespace avx512 { extern TYPE const NAME; }
// The table built for an instruction set.
#define FALCONET_KERNELS(ISA, NAME) \
  ((ISA) == ::falconet::Isa::avx512 ? ::falconet::avx512::NAME : (ISA) == ::falconet::Isa::avx2 ? ::falconet::avx2::NAME : ::falconet::plain::NAME)
#else
#define FALCONET_DECLARE_KERNELS(TYPE, NAME) \
  namespace plain { extern TYPE const NAME; }
#define FALCONET_KERNELS(ISA, NAME) ((void)(ISA), ::falconet::plain::NAME)
#endif

}  // namespace falconet
