#include "cli/measure.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
#include <new>

#include "falconet/base/format.h"
#include "falconet/base/random.h"
#include "falconet/device/cpu/limits.h"
#include "falconet/ops/algorithms.h"
#include "falconet/tensor/element.h"

namespace falconet::cli {

namespace {
double multiply_adds_of(ThreadPool& threads, Isa isa, DType type) {
  return type == DType::bf16 ? bf16_products_per_second(threads, isa) : fma_per_second(threads, isa, type == DType::f64);
}
}  // namespace

double Limits::fma(DType type) {
  double& rate = fma_[type];
  if (rate == 0) rate = multiply_adds_of(threads_, isa_, type);
  return rate;
}

double Limits::copy(double working_set) {
  int const log = std::clamp(int(std::lround(std::log2(std::max(working_set, 1.0)))), 14, 28);  // 16 KiB to 256 MiB
  double& rate = copy_[log];
  if (rate == 0) rate = copy_bytes_per_second(threads_, isa_, std::size_t(1) << log);
  return rate;
}

void Limits::measure_again() {
  for (auto& [type, rate] : fma_) rate = std::max(rate, multiply_adds_of(threads_, isa_, type));
  for (auto& [log, rate] : copy_) rate = std::max(rate, copy_bytes_per_second(threads_, isa_, std::size_t(1) << log));
}

double Limits::seconds(double operations, double bytes, DType type) { return std::max(operations / fma(type), bytes / copy(bytes)); }

std::string Limits::text() {
  std::string bf16;                                        // only where it has a rate of its own
  if (isa_ == Isa::avx512 && has_bf16_products()) bf16 = format(" ({:.0f} of bf16 by {})", fma(DType::bf16) * 1e-9, has_amx() ? "AMX" : "AVX512-BF16");
  return format("{}, {} thread{}: {:.0f} GFLOP/s of multiply-adds{}, {:.0f} GB/s copied in memory, {:.0f} GB/s in caches (1 MiB)", name(isa_),
                threads_.size(), threads_.size() == 1 ? "" : "s", fma() * 1e-9, bf16, copy(1 << 28) * 1e-9, copy(1 << 20) * 1e-9);
}

double GpuLimits::multiply_adds(Arithmetic a) {
  auto const [rate, fresh] = multiply_adds_.try_emplace(a, 0);
  if (fresh) rate->second = multiply_adds_per_second(device_, a);
  return rate->second;
}

double GpuLimits::copy() {
  if (copy_ == 0) copy_ = copy_bytes_per_second(device_);
  return copy_;
}

double GpuLimits::seconds(std::string_view operation, std::string const& problem) {
  auto const& table = algorithms_of(operation);
  auto const operands = table.operands(problem);
  DType const type = operands.empty() ? DType::f32 : operands.front().type.dtype;
  bool const product = operation == "conv" || operation == "gemm";
  Arithmetic arithmetic = type == DType::f64 ? Arithmetic::f64 : Arithmetic::f32;
  if (product && type == DType::bf16) arithmetic = Arithmetic::bf16;
  else if (product && problem.find("math=tf32") != std::string::npos) arithmetic = Arithmetic::tf32;
  double rate = multiply_adds(arithmetic);
  if (rate == 0) rate = multiply_adds(Arithmetic::f32);
  return std::max(table.operations(problem) / rate, bytes_of(operands) / copy());
}

std::string GpuLimits::text() {
  return format("{:.0f} TFLOP/s bf16, {:.1f} TFLOP/s f32, {:.0f} GB/s copied in memory", multiply_adds(Arithmetic::bf16) * 1e-12, multiply_adds(Arithmetic::f32) * 1e-12, copy() * 1e-9);
}

Spread spread(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  std::size_t const half = values.size() / 2;
  return {values.size() % 2 ? values[half] : (values[half - 1] + values[half]) / 2, values.front()};
}

std::int64_t peak_resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::stoll(line.substr(6)) * 1024;
  return 0;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::string short_number(double value) {
  if (!std::isfinite(value)) return "";
  if (value == 0) return "0";
  int const digits = std::clamp(2 - int(std::floor(std::log10(std::abs(value)))), 0, 4);
  return format("{:.{}f}", value, digits);
}

void Operands::allocate() {
  for (auto const& o : operands_) {
    memory_.push_back(o.alias >= 0 ? Buffer() : Buffer(std::max<std::size_t>(o.type.bytes(), 1)));
    void* const data = o.alias >= 0 ? views_[std::size_t(o.alias)].data : memory_.back().data();
    views_.push_back({data, o.type});
  }
}

Operands::Operands(std::vector<Operand> operands, std::uint64_t seed) : operands_(std::move(operands)) {
  allocate();
  for (std::size_t i = 0; i < operands_.size(); ++i) {
    auto const& o = operands_[i];
    if (o.alias >= 0) continue;
    View const v = views_[i];
    auto const count = o.type.shape.elements();
    if (o.written) {
      std::memset(v.data, 0xff, o.type.bytes());
      continue;
    }
    RandomKey const key = random_key(seed, hash(o.name));
    auto const limit = std::uint32_t(std::max<std::int64_t>(o.limit, 1));
    switch (o.fill) {
      case Fill::step_state: {
        auto* state = new (v.data) StepState;
        state->seed = seed;
        state->learning_rate = 1e-3f;
        state->valid_count = std::int32_t(o.limit);
        break;
      }
      case Fill::label:
      case Fill::choice:
        for (std::int64_t e = 0; e < count; ++e)
          store_element(v, e, bounded(wide_bits(draw(key, 0, std::uint64_t(e)).word[0], draw(key, 0, std::uint64_t(e)).word[1]), limit));
        break;
      case Fill::normal:
      case Fill::positive: {
        // Large operands repeat their first million: drawing 50 million numbers takes longer than what is measured.
        constexpr std::int64_t drawn = 4 * 262147;
        std::int64_t const fresh = std::min(count, drawn);
        for (std::int64_t e = 0; e < fresh; e += 4) {
          auto const four = normals(draw(key, 0, std::uint64_t(e / 4)));
          for (std::int64_t j = e; j < std::min(e + 4, fresh); ++j) {
            double const value = four[std::size_t(j - e)];
            store_element(v, j, o.fill == Fill::positive ? std::abs(value) + 0.5 : value);
          }
        }
        std::size_t const size = size_of(o.type.dtype);
        for (std::int64_t e = fresh; e < count; e += fresh) std::memcpy(static_cast<char*>(v.data) + std::size_t(e) * size, v.data, std::size_t(std::min(fresh, count - e)) * size);
        break;
      }
    }
  }
}

Operands::Operands(std::vector<Operand> operands, Operands const& from) : operands_(std::move(operands)) {
  allocate();
  for (std::size_t i = 0; i < operands_.size(); ++i) {
    if (operands_[i].alias >= 0) continue;
    if (operands_[i].type.dtype == from.views_[i].type.dtype)
      std::memcpy(views_[i].data, from.views_[i].data, operands_[i].type.bytes());
    else
      convert(from.views_[i], views_[i]);
  }
}

double relative_error(Operands const& got, Operands const& expected) {
  double worst = 0;
  for (std::size_t i = 0; i < got.list().size(); ++i) {
    auto const& type = got.list()[i].type;
    if (!got.list()[i].written || type.dtype == DType::u8 || type.dtype == DType::i32) continue;
    double square = 0, difference = 0;
    for (std::int64_t e = 0; e < type.shape.elements(); ++e) {
      double const right = load_element(expected.views()[i], e);
      square += right * right;
      difference += (load_element(got.views()[i], e) - right) * (load_element(got.views()[i], e) - right);
    }
    double const error = square > 0 ? std::sqrt(difference / square) : std::sqrt(difference);
    worst = std::isfinite(error) ? std::max(worst, error) : HUGE_VAL;
  }
  return worst;
}

}  // namespace falconet::cli
