// Losses and their gradients in vectors of f32.
//   cross-entropy of up to 64 classes: the lanes are rows. A block of rows is turned into columns, so that maxima, exponentials and
//   sums of all its rows are plain vector operations. More classes: the lanes are classes, one row after another.
//     loss_i = lse_i - (1 - e) x_i[label] - e mean(x_i),  lse_i = max + log(sum exp(x_i - max))     (e: label smoothing)
//     dx_i[c] = (softmax(x_i)[c] - (1 - e) [c = label] - e / C) * dloss / valid
//   mean squared error and binary cross-entropy: the lanes are elements.
// Limits: f32 or bf16 storage, f32 arithmetic; sums of rows and blocks in f64, in a fixed order. Cost: one exponential per element.
#include <cstdint>

namespace falconet {

struct LossWork {
  void const* x = nullptr;
  void const* target = nullptr;      // labels, or like x
  void* dx = nullptr;                // null: not asked for
  int kind = 0;                      // LossKind
  bool x_bf16 = false, target_bf16 = false;
  long row = 0, valid = 0;           // elements of a row; rows that count
  float smoothing = 0, factor = 0;   // factor: dloss / valid, and for the losses by element / row
};
struct LossSums {
  double loss, correct;
};
struct LossLanes {
  void (*rows)(LossWork const&, long begin, long end, LossSums&);   // rows [begin, end) of the batch
};

}  // namespace falconet

#ifdef FALCONET_ISA
#include "falconet/device/cpu/simd.h"
#include "falconet/device/cpu/simd_load.h"
#include <hwy/contrib/math/math-inl.h>

namespace falconet::FALCONET_ISA {
namespace {

HWY_INLINE float scalar(float v) { return v; }
HWY_INLINE float scalar(bf16 v) { return to_float(v); }
HWY_INLINE void put(float v, float& to) { to = v; }
HWY_INLINE void put(float v, bf16& to) { to = to_bf16(v); }

constexpr long most_columns = 64;

// Up to Lanes(d) rows from `first` on; C <= most_columns.
template <class T>
void rows_as_lanes(LossWork const& work, long first, long count, LossSums& sums) {
  hn::ScalableTag<float> const d;
  constexpr long L = HWY_LANES(float);
  long const C = work.row;
  if (C < 1) return;
  HWY_ALIGN float t[most_columns * L];       // t[c][lane]: the logits, then their exponentials
  HWY_ALIGN float at_label[L], loss[L], winner[L];
  T const* const x = static_cast<T const*>(work.x) + first * C;
  std::int32_t const* const label = static_cast<std::int32_t const*>(work.target) + first;
  for (long i = 0; i < L; ++i) {
    T const* const row = x + (i < count ? i : 0) * C;
    for (long c = 0; c < C; ++c) t[c * L + i] = scalar(row[c]);
    std::int32_t const l = label[i < count ? i : 0];
    at_label[i] = l >= 0 && l < C ? scalar(row[l]) : __builtin_nanf("");
  }
  auto largest = hn::Load(d, t);
  auto first_maximum = hn::Zero(d), all = largest;
  auto bad = hn::IsNaN(largest);                            // Exp and Log do not carry a NaN on
  for (long c = 1; c < C; ++c) {
    auto const v = hn::Load(d, t + c * L);
    auto const larger = hn::Gt(v, largest);
    largest = hn::IfThenElse(larger, v, largest);
    first_maximum = hn::IfThenElse(larger, hn::Set(d, float(c)), first_maximum);
    all = hn::Add(all, v);
    bad = hn::Or(bad, hn::IsNaN(v));
  }
  bad = hn::Or(bad, hn::Not(hn::IsFinite(largest)));
  auto sum = hn::Zero(d);
  for (long c = 0; c < C; ++c) {
    auto const e = hn::Exp(d, hn::Sub(hn::Load(d, t + c * L), largest));
    hn::Store(e, d, t + c * L);
    sum = hn::Add(sum, e);
  }
  sum = hn::IfThenElse(bad, hn::Set(d, __builtin_nanf("")), sum);
  // Differences to the maximum first: they are small, and exact where logits are large.
  auto const log_sum = hn::IfThenElse(bad, sum, hn::Log(d, sum));
  auto const keep = hn::Set(d, 1 - work.smoothing), spread = hn::Set(d, work.smoothing);
  auto const mean = hn::Mul(all, hn::Set(d, 1.0f / float(C)));
  auto const of_label = hn::Sub(log_sum, hn::Sub(hn::Load(d, at_label), largest));
  auto const of_all = hn::Sub(log_sum, hn::Sub(mean, largest));
  hn::Store(work.smoothing != 0 ? hn::MulAdd(keep, of_label, hn::Mul(spread, of_all)) : of_label, d, loss);
  hn::Store(first_maximum, d, winner);
  for (long i = 0; i < count; ++i) {
    sums.loss += double(loss[i]);
    sums.correct += winner[i] == float(label[i]) ? 1 : 0;
  }
  if (!work.dx) return;
  auto const scale = hn::Div(hn::Set(d, work.factor), sum), base = hn::Set(d, work.smoothing / float(C) * work.factor);
  for (long c = 0; c < C; ++c) hn::Store(hn::MulSub(hn::Load(d, t + c * L), scale, base), d, t + c * L);
  T* const dx = static_cast<T*>(work.dx) + first * C;
  for (long i = 0; i < count; ++i) {
    bool const known = label[i] >= 0 && label[i] < C;
    if (known) t[label[i] * L + i] -= (1 - work.smoothing) * work.factor;
    for (long c = 0; c < C; ++c) put(known ? t[c * L + i] : __builtin_nanf(""), dx[i * C + c]);
  }
}

template <class T>
void classes_as_lanes(LossWork const& work, long n, LossSums& sums) {
  hn::ScalableTag<float> const d;
  long const C = work.row;                                  // > most_columns, so at least one vector
  T const* const x = static_cast<T const*>(work.x) + n * C;
  std::int32_t const label = static_cast<std::int32_t const*>(work.target)[n];
  auto maxima = load_f32(d, x);
  auto bad = hn::IsNaN(maxima);
  for_lanes(d, C, [&](long at) HWY_ATTR {
    auto const v = load_f32(d, x + at);
    maxima = hn::Max(maxima, v);
    bad = hn::Or(bad, hn::IsNaN(v));
  });
  bool const known = label >= 0 && label < C && hn::AllFalse(d, bad) && hn::AllTrue(d, hn::IsFinite(hn::MaxOfLanes(d, maxima)));
  float const largest = hn::GetLane(hn::MaxOfLanes(d, maxima));
  auto sum = hn::Zero(d), all = hn::Zero(d);
  auto const shift = hn::Set(d, largest);
  for_lanes_once(d, C, [&](long at, hn::Mask<decltype(d)> fresh) HWY_ATTR {
    auto const v = hn::Sub(load_f32(d, x + at), shift);
    all = hn::Add(all, hn::IfThenElseZero(fresh, v));
    sum = hn::Add(sum, hn::IfThenElseZero(fresh, hn::Exp(d, v)));
  });
  auto const total = hn::SumOfLanes(d, sum);
  float const log_sum = hn::GetLane(hn::Log(d, total)), mean = hn::GetLane(hn::SumOfLanes(d, all)) / float(C);
  float const at_label = known ? scalar(x[label]) - largest : __builtin_nanf("");
  sums.loss += double(log_sum) - double(1 - work.smoothing) * double(at_label) - double(work.smoothing) * double(mean);
  if (known && scalar(x[label]) == largest) {               // the first maximum is the label if none before it is as large
    long c = 0;
    while (scalar(x[c]) != largest) ++c;
    sums.correct += c == label ? 1 : 0;
  }
  if (!work.dx) return;
  T* const dx = static_cast<T*>(work.dx) + n * C;
  auto const scale = hn::Div(hn::Set(d, work.factor), total), base = hn::Set(d, work.smoothing / float(C) * work.factor);
  auto const poison = hn::Set(d, known ? 0.0f : __builtin_nanf(""));
  for_lanes(d, C, [&](long at) HWY_ATTR {
    store_f32(hn::Add(hn::MulSub(hn::Exp(d, hn::Sub(load_f32(d, x + at), shift)), scale, base), poison), d, dx + at);
  });
  if (known) {
    float const p = hn::GetLane(hn::Mul(hn::Exp(d, hn::Set(d, at_label)), scale)) - work.smoothing / float(C) * work.factor;
    put(p - (1 - work.smoothing) * work.factor, dx[label]);
  }
}

// Elements [0, count) of one block. kind: mse, or else binary cross-entropy.
template <class T, class U>
double elements(LossWork const& work, T const* x, U const* target, T* dx, long count) {
  double result = 0;
  with_lanes(count, [&](auto d) {
    auto sum = hn::Zero(d);
    auto const factor = hn::Set(d, work.factor), one = hn::Set(d, 1.0f);
    for_lanes_once(d, count, [&](long at, hn::Mask<decltype(d)> fresh) HWY_ATTR {
      auto const v = load_f32(d, x + at), t = load_f32(d, target + at);
      auto loss = hn::Zero(d), gradient = hn::Zero(d);
      if (work.kind == 1) {
        auto const difference = hn::Sub(v, t);
        loss = hn::Mul(difference, difference);
        gradient = hn::Add(difference, difference);
      } else {
        auto const small = hn::Exp(d, hn::Neg(hn::Abs(v)));                      // in (0, 1]
        loss = hn::Add(hn::Sub(hn::Max(v, hn::Zero(d)), hn::Mul(v, t)), hn::Log1p(d, small));
        loss = hn::IfThenElse(hn::IsNaN(v), v, loss);                            // Exp does not carry a NaN on
        auto const sigmoid = hn::Div(hn::IfThenElse(hn::Lt(v, hn::Zero(d)), small, one), hn::Add(one, small));
        gradient = hn::IfThenElse(hn::IsNaN(v), v, hn::Sub(sigmoid, t));
      }
      sum = hn::Add(sum, hn::IfThenElseZero(fresh, loss));
      if (dx) store_f32(hn::Mul(gradient, factor), d, dx + at);
    });
    result = double(hn::GetLane(hn::SumOfLanes(d, sum)));
  });
  return result;
}
template <class T, class U>
void element_rows(LossWork const& work, long begin, long end, LossSums& sums) {
  constexpr long block = 4096;                              // f32 sums within a block, f64 between blocks
  double sum = 0;
  for (long at = begin * work.row; at < end * work.row; at += block) {
    long const count = end * work.row - at < block ? end * work.row - at : block;
    sum += elements(work, static_cast<T const*>(work.x) + at, static_cast<U const*>(work.target) + at,
                    work.dx ? static_cast<T*>(work.dx) + at : nullptr, count);
  }
  sums.loss += sum / double(work.row);
}

template <class T>
void rows_of(LossWork const& work, long begin, long end, LossSums& sums) {
  long const valid = end < work.valid ? end : work.valid;
  if (begin < valid) {
    if (work.kind != 0) {
      work.target_bf16 ? element_rows<T, bf16>(work, begin, valid, sums) : element_rows<T, float>(work, begin, valid, sums);
    } else if (work.row <= most_columns) {
      long const L = HWY_LANES(float);
      for (long n = begin; n < valid; n += L) rows_as_lanes<T>(work, n, valid - n < L ? valid - n : L, sums);
    } else {
      for (long n = begin; n < valid; ++n) classes_as_lanes<T>(work, n, sums);
    }
  }
  if (!work.dx) return;
  for (long n = begin > work.valid ? begin : work.valid; n < end; ++n)
    for (long i = 0; i < work.row; ++i) put(0.0f, static_cast<T*>(work.dx)[n * work.row + i]);
}
void rows(LossWork const& work, long begin, long end, LossSums& sums) {
  work.x_bf16 ? rows_of<bf16>(work, begin, end, sums) : rows_of<float>(work, begin, end, sums);
}

}  // namespace

extern LossLanes const loss_lanes_kernels;
LossLanes const loss_lanes_kernels = {rows};

}  // namespace falconet::FALCONET_ISA

#else
#include <algorithm>

#include "falconet/ops/loss/algorithms.h"
#include "falconet/tensor/element.h"

namespace falconet {
FALCONET_DECLARE_KERNELS(LossLanes, loss_lanes_kernels)
namespace {

std::string reject(LossProblem const& p, DeviceFacts const&) {
  if (p.product.inputs) return "a product";
  if (p.x.dtype != DType::f32 && p.x.dtype != DType::bf16) return "needs f32 or bf16";
  if (p.kind != LossKind::cross_entropy && p.target != DType::f32 && p.target != DType::bf16) return "needs targets in f32 or bf16";
  return {};
}

// Tasks of some ten microseconds each; a small loss is one task, which wakes nobody.
int tasks_of(LossProblem const& p) { return int(std::clamp<std::int64_t>(p.x.shape.elements() / 16384, 1, std::min<std::int64_t>(p.n(), 256))); }

std::size_t scratch(LossProblem const& p, Config const&) { return std::size_t(tasks_of(p)) * sizeof(LossSums); }

double seconds(LossProblem const& p, DeviceFacts const& facts) {
  double const lanes = facts.isa == Isa::avx512 ? 16 : facts.isa == Isa::avx2 ? 8 : 1;
  return 2e-7 + double(p.x.shape.elements()) * (10e-9 / lanes + 1e-9);
}

void run(LossProblem const& p, Config const&, LossArgs const& args, View scratch, Stream& stream) {
  auto const valid = std::clamp<std::int64_t>(args.step->valid_count, 0, p.n());
  double const dloss = args.dloss ? load_element(args.dloss, 0) : p.dloss;
  LossWork work;
  work.x = args.x.data, work.target = args.target.data, work.dx = args.dx.data;
  work.kind = int(p.kind);
  work.x_bf16 = p.x.dtype == DType::bf16, work.target_bf16 = p.target == DType::bf16;
  work.row = long(p.row()), work.valid = long(valid);
  work.smoothing = float(p.label_smoothing);
  work.factor = valid ? float(dloss / double(valid) / (p.kind == LossKind::cross_entropy ? 1 : double(p.row()))) : 0;
  int const tasks = tasks_of(p);
  auto* const sums = scratch.as<LossSums>();
  auto const kernel = FALCONET_KERNELS(stream.isa(), loss_lanes_kernels).rows;
  stream.threads().run(tasks, [&](int task) {
    sums[task] = {0, 0};
    kernel(work, long(p.n() * task / tasks), long(p.n() * (task + 1) / tasks), sums[task]);
  });
  LossSums total{0, 0};
  for (int task = 0; task < tasks; ++task) total.loss += sums[task].loss, total.correct += sums[task].correct;
  if (args.loss) store_element(args.loss, 0, valid ? total.loss / double(valid) : 0);
  if (args.correct) store_element(args.correct, 0, total.correct);
}

}  // namespace

Algorithm<LossProblem> loss_lanes() {
  return {.name = "lanes", .target = DeviceKind::cpu, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run};
}

}  // namespace falconet
#endif
