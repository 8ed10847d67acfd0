// What this processor can do at most, measured: the limits that benchmarks quote their times against.
#pragma once
#include <cstddef>

#include "falconet/device/cpu/isa.h"
#include "falconet/device/cpu/threads.h"

namespace falconet {

// Floating-point operations per second of multiply-adds on registers alone (a multiply-add counts 2), in f32 or f64, over all
// threads of the pool: the best of several runs of about a millisecond.
double fma_per_second(ThreadPool&, Isa, bool f64 = false);

// The same of products of bf16 with sums in f32, by the widest unit that the instruction set and this processor have: AMX's tiles, pairs of
// AVX512-BF16, or f32's multiply-adds, to which bf16 is widened.
double bf16_products_per_second(ThreadPool&, Isa);

// Bytes read plus bytes written per second when memory is copied between two blocks of `working_set / 2` bytes, over all threads
// of the pool: the best of several runs. A small working set stays in the caches.
double copy_bytes_per_second(ThreadPool&, Isa, std::size_t working_set);

}  // namespace falconet
