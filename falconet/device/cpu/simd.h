// The head of every SIMD source file's kernel half. Such a file is compiled once without FALCONET_ISA (its host half: what it
// accepts, its cost, how it is launched) and once per instruction set with FALCONET_ISA=plain|avx2|avx512 (its kernels, in
// namespace falconet::FALCONET_ISA). The kernel half includes no standard templates and no header with inline functions that
// are not static: an inline copy compiled for AVX-512 may be the one the linker keeps. tools/check_isa_objects.py checks it.
#pragma once
#ifndef FALCONET_ISA
#error "simd.h belongs in the kernel half of a file listed in falconet_simd_sources"
#endif
#ifndef HWY_COMPILE_ONLY_STATIC
#define HWY_COMPILE_ONLY_STATIC
#endif
#include <hwy/highway.h>

namespace falconet::FALCONET_ISA {
namespace hn = hwy::HWY_NAMESPACE;
}
