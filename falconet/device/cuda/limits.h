// What a GPU can do at most, measured: the limits that benchmarks quote their times against.
#pragma once
#include "falconet/device/device.h"

namespace falconet {

// f32, f64: the ordinary cores. bf16: tensor cores, f32 sums, by wgmma on Hopper and mma.sync elsewhere. tf32: as bf16 at half its rate (NVIDIA A100
// and H100 white papers, 2020 and 2022).
enum class Arithmetic { f32, f64, bf16, tf32 };

// Floating-point operations per second of multiply-adds on registers and shared memory alone (a multiply-add counts 2): the best of several runs of
// about a millisecond, on random operands.
double multiply_adds_per_second(Device, Arithmetic);

// Bytes read plus bytes written per second when 256 MiB are copied: the best of several runs.
double copy_bytes_per_second(Device);

}  // namespace falconet
