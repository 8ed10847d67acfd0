// Dropout with Philox in vectors: one counter per lane, so that a vector of L counters yields the bits of 4 L elements. The bits are
// those of base/random.h, word k of draw b being element 4 b + k of the sample.
// Limits: f32 or bf16, channels innermost (nhwc, or hw = 1). Cost: x read, y written, 10 rounds of Philox for 4 elements.
#include <cstdint>

#include "falconet/base/random.h"
#include "falconet/device/cpu/isa.h"
#include "falconet/tensor/bf16.h"

namespace falconet {

// Elements [begin, end) of one sample; begin is a multiple of 4.
struct DropoutTask {
  void const* x;  // of the sample
  void* y;
  std::uint64_t sample;  // in the whole run
  std::int64_t begin, end;
  RandomKey key;
  float p, factor;  // 1 / (1 - p)
};
struct DropoutKernels {
  void (*f32)(DropoutTask const&);
  void (*bf16)(DropoutTask const&);
};
FALCONET_DECLARE_KERNELS(DropoutKernels, dropout_kernels)

}  // namespace falconet

#ifdef FALCONET_ISA
#include "falconet/device/cpu/simd.h"
#include "falconet/device/cpu/vector_access.h"

namespace falconet::FALCONET_ISA {
namespace {

using D = hn::ScalableTag<float>;
constexpr D d;
constexpr std::size_t most = hn::MaxLanes(D());

#if HWY_TARGET == HWY_SCALAR
// keep[0..4) of one draw: the factor, or zero.
HWY_INLINE void draw_factors(DropoutTask const& t, std::uint64_t block, float* keep) {
  RandomBits const bits = draw(t.key, t.sample, block);
  for (int k = 0; k < 4; ++k) keep[k] = uniform(bits.word[k]) < t.p ? 0.0f : t.factor;
}
#else
using D32 = hn::RebindToUnsigned<D>;
using U = hn::Vec<D32>;
constexpr D32 du;
constexpr hn::RebindToSigned<D> di;
constexpr hn::RepartitionToWide<D32> d64;

// The upper halves of the products of all lanes with m.
HWY_INLINE U upper_product(U a, U m) {
  auto const even = hn::MulEven(a, m);
  auto const odd = hn::MulEven(hn::BitCast(du, hn::ShiftRight<32>(hn::BitCast(d64, a))), m);
  return hn::OddEven(hn::BitCast(du, odd), hn::BitCast(du, hn::ShiftRight<32>(even)));
}

// keep[0..4 lanes) of the draws block, block + 1 ...: the factor, or zero.
HWY_INLINE void draw_factors(DropoutTask const& t, std::uint64_t block, float* keep) {
  U const m0 = hn::Set(du, 0xD2511F53u), m1 = hn::Set(du, 0xCD9E8D57u);
  U c0 = hn::Iota(du, std::uint32_t(block));
  U c1 = hn::Set(du, std::uint32_t(block >> 32));
  c1 = hn::IfThenElse(hn::Lt(c0, hn::Set(du, std::uint32_t(block))), hn::Add(c1, hn::Set(du, 1u)), c1);  // the carry
  U c2 = hn::Set(du, std::uint32_t(t.sample)), c3 = hn::Set(du, std::uint32_t(t.sample >> 32));
  std::uint32_t k0 = t.key.low, k1 = t.key.high;
  for (int round = 0; round < 10; ++round) {
    U const upper0 = upper_product(c0, m0), lower0 = hn::Mul(c0, m0), upper1 = upper_product(c2, m1), lower1 = hn::Mul(c2, m1);
    c0 = hn::Xor(hn::Xor(upper1, c1), hn::Set(du, k0));
    c1 = lower1;
    c2 = hn::Xor(hn::Xor(upper0, c3), hn::Set(du, k1));
    c3 = lower0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  auto factors = [&](U bits) {
    auto const uniform = hn::Mul(hn::ConvertTo(d, hn::BitCast(di, hn::ShiftRight<8>(bits))), hn::Set(d, 0x1p-24f));
    return hn::IfThenElseZero(hn::Ge(uniform, hn::Set(d, t.p)), hn::Set(d, t.factor));
  };
  hn::StoreInterleaved4(factors(c0), factors(c1), factors(c2), factors(c3), d, keep);
}
#endif

template <class T>
void run(DropoutTask const& t) {
  std::int64_t const lanes = std::int64_t(hn::Lanes(d));
  T const* x = static_cast<T const*>(t.x);
  T* y = static_cast<T*>(t.y);
  alignas(64) float keep[4 * most];
  for (std::int64_t e = t.begin; e < t.end; e += 4 * lanes) {
    draw_factors(t, std::uint64_t(e) / 4, keep);
    for_elements(0, t.end - e < 4 * lanes ? t.end - e : 4 * lanes, [&](auto at) {
      auto const kept = hn::LoadU(d, keep + at.i);
      at.put(y + e, hn::IfThenElseZero(hn::Gt(kept, hn::Zero(d)), hn::Mul(at.get(x + e), kept)));
    });
  }
}

}  // namespace

extern DropoutKernels const dropout_kernels = {run<float>, run<bf16>};

}  // namespace falconet::FALCONET_ISA

#else
#include <algorithm>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/dropout/algorithms.h"

namespace falconet {
namespace {

std::string reject(DropoutProblem const& p, DeviceFacts const&) {
  if (p.type == DType::f64) return "computes in f32, not f64";
  if (p.layout == Layout::nchw && p.hw > 1) return "needs channels innermost (nhwc)";
  return {};
}
double seconds(DropoutProblem const& p, DeviceFacts const&) { return bytes_of(p.operands()) / 1e10 + 5e-10 * double(p.elements()); }

void run(DropoutProblem const& p, Config const&, DropoutArgs const& a, View, Stream& stream) {
  auto const& kernels = FALCONET_KERNELS(stream.isa(), dropout_kernels);
  auto const kernel = p.type == DType::bf16 ? kernels.bf16 : kernels.f32;
  std::int64_t const each = p.c * p.hw;  // elements of a sample
  std::int64_t const piece = std::min<std::int64_t>(each, 8192), pieces = (each + piece - 1) / piece;
  std::int64_t const per_task = std::max<std::int64_t>(1, 8192 / piece), all = p.n * pieces;
  RandomKey const key = random_key(a.step->seed, p.key);
  stream.threads().run(int((all + per_task - 1) / per_task), [&](int task) {
    for (std::int64_t i = task * per_task; i < std::min(all, (task + 1) * per_task); ++i) {
      std::int64_t const n = i / pieces, begin = i % pieces * piece;
      std::size_t const offset = std::size_t(n * each) * size_of(p.type);
      kernel({a.x.as<char const>() + offset, a.y.as<char>() + offset, std::uint64_t(a.step->sample + n), begin,
              std::min(each, begin + piece), key, float(p.p), float(1 / (1 - p.p))});
    }
  });
}

}  // namespace

extern Algorithm<DropoutProblem> const dropout_simd = {
    .name = "simd", .target = DeviceKind::cpu, .reject = reject, .seconds = seconds, .run = run};

}  // namespace falconet
#endif
