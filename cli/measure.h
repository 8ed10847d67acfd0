// What benchmarks share: the physical limits of the machine, medians, peak memory, random operands.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "falconet/device/cpu/isa.h"
#include "falconet/device/cpu/threads.h"
#include "falconet/device/cuda/limits.h"
#include "falconet/ops/algorithm.h"

namespace falconet::cli {

// The shortest time that any algorithm could take: its operations at the measured rate of multiply-adds, or its bytes at the rate
// at which a block as large as its operands is copied, whichever is longer. Measured when first asked for.
class Limits {
 public:
  Limits(ThreadPool& threads, Isa isa) : threads_(threads), isa_(isa) {}
  double seconds(double operations, double bytes, DType type = DType::f32);
  double fma(DType type = DType::f32);   // operations per second; of bf16: products with sums in f32
  double copy(double working_set);  // bytes per second, read and written
  void measure_again();             // every rate that was asked for, taking the maximum: other work may have held the processor
  std::string text();               // "avx512, 2 threads: 236 GFLOP/s f32, 31 GB/s copy (from caches: 210 GB/s)"

 private:
  ThreadPool& threads_;
  Isa isa_;
  std::map<DType, double> fma_;
  std::map<int, double> copy_;  // by the logarithm of the working set
};

// The same of a GPU: operations at the rate of the unit that the problem may use (tensor cores for convolutions and products in bf16 and TF32),
// bytes at the rate at which its memory is copied. Operands that stay in the second-level cache can be faster than that.
class GpuLimits {
 public:
  explicit GpuLimits(Device device) : device_(device) {}
  double seconds(std::string_view operation, std::string const& problem);
  double copy();                    // bytes per second, read and written
  double multiply_adds(Arithmetic); // operations per second
  std::string text();               // "797 TFLOP/s bf16, 56 TFLOP/s f32, 4290 GB/s copied in memory"

 private:
  Device device_;
  std::map<Arithmetic, double> multiply_adds_;
  double copy_ = 0;
};

// One line that says why a share of a limit is above 100 %.
constexpr char const* above_limit_note =
    "above 100 % of the limit: other work held the processor while the limit was measured, or operands lie nearer than in its copy (in a cache)";

struct Spread {
  double median = 0, least = 0;
};
Spread spread(std::vector<double> values);

std::int64_t peak_resident_bytes();      // VmHWM
double now();                            // seconds of a steady clock
std::string short_number(double value);  // three significant digits: 0.123, 12.3, 1230

// Memory for the operands of a problem, filled so that the mathematics is well defined, and outputs poisoned. Aliased outputs lie
// in their input.
class Operands {
 public:
  explicit Operands(std::vector<Operand> operands, std::uint64_t seed = 1);
  // The same values in other types (shapes and order must agree): for a reference in f64.
  Operands(std::vector<Operand> operands, Operands const& from);
  std::vector<Operand> const& list() const { return operands_; }
  std::vector<View> const& views() const { return views_; }

 private:
  void allocate();
  std::vector<Operand> operands_;
  std::vector<Buffer> memory_;
  std::vector<View> views_;
};

// The largest relative L2 distance |got - expected| / |expected| of the outputs of floating point.
double relative_error(Operands const& got, Operands const& expected);

}  // namespace falconet::cli
