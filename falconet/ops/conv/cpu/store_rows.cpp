// The kernels of store_rows.h: one vector of channels at a time goes down the pixels. Statistics are summed in f32 over 32 pixels at most,
// then in f64. Results of bf16 are rounded to nearest even, and statistics count what is stored.
#ifdef FALCONET_ISA

#include "falconet/ops/conv/cpu/store_rows.h"

#include "falconet/device/cpu/simd.h"
#include "falconet/ops/conv/cpu/direct_rows.h"
#include "falconet/ops/conv/cpu/direct_tile.h"

namespace falconet::FALCONET_ISA {
namespace {

// The first n lanes: all of them, which is cheaper, or fewer.
template <class T>
HWY_INLINE hn::Vec<Wide> load(T const* from, int n) {
  Wide const d;
  return n == kLanes ? load_f32(d, from) : load_first(d, from, n);
}
// v as a bf16 holds it.
HWY_INLINE hn::Vec<Wide> rounded_bf16(hn::Vec<Wide> v) {
  Wide const d;
  hn::RebindToUnsigned<Wide> const bits;
  auto const u = hn::BitCast(bits, v);
  auto const up = hn::Add(u, hn::Add(hn::And(hn::ShiftRight<16>(u), hn::Set(bits, 1u)), hn::Set(bits, 0x7fffu)));
  return hn::IfThenElse(hn::IsNaN(v), v, hn::BitCast(d, hn::And(up, hn::Set(bits, 0xffff0000u))));
}

// Stores the first n lanes and returns what is then there.
HWY_INLINE hn::Vec<Wide> store(hn::Vec<Wide> v, float* to, int n, StoredRows const& s) {
  Wide const d;
  if (n < kLanes) store_first(v, d, to, n);
  else if (s.stream) hn::Stream(v, d, to);
  else hn::StoreU(v, d, to);
  return v;
}
HWY_INLINE hn::Vec<Wide> store(hn::Vec<Wide> v, std::uint16_t* to, int n, [[maybe_unused]] StoredRows const& s) {
  Wide const d;
#if HWY_TARGET <= HWY_AVX3
  if (s.converts) {                                      // one instruction for nine
    __m256i rounded;
    __asm__("vcvtneps2bf16 %1, %0" : "=v"(rounded) : "v"(v.raw));
    _mm256_mask_storeu_epi16(to, n < kLanes ? __mmask16((1u << n) - 1) : __mmask16(0xffff), rounded);
    return hn::Vec<Wide>{_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16))};
  }
#endif
  n < kLanes ? store_first(v, d, to, n) : store_f32(v, d, to);
  return rounded_bf16(v);
}

void add_to(hn::Vec<Wide> sum, double* totals) {
  HWY_ALIGN float lane[kLanes];
  hn::Store(sum, Wide(), lane);
  hn::CappedTag<double, kLanes> const d;
  hn::Rebind<float, decltype(d)> const part;
  for (int i = 0; i < kLanes; i += int(hn::MaxLanes(d))) hn::StoreU(hn::Add(hn::LoadU(d, totals + i), hn::PromoteTo(d, hn::LoadU(part, lane + i))), d, totals + i);
}

enum { no_statistics, squares, dot };

template <class T, bool plain, bool mask, int statistics>         // plain: without bias, residual and ReLU
void rows_of(StoredRows const& slots) {
  StoredRows const s = slots;                            // a copy, which no store can change
  Wide const d;
  auto* const out = static_cast<T*>(s.out);
  auto const *const residual = static_cast<T const*>(s.residual), *const masks = static_cast<T const*>(s.mask), *const other = static_cast<T const*>(s.other);
  auto const none = hn::Zero(d);
  auto const limit = hn::Set(d, s.mask_on == 6 ? 6.0f : __builtin_nanf(""));   // nothing is as large as NaN
  for (int c = 0; c < s.channels; c += kLanes) {
    int const n = s.channels - c < kLanes ? s.channels - c : kLanes;
    auto const bias = !plain && s.bias ? load(s.bias + c, n) : none;
    for (int first = 0; first < s.pixels; first += 32) {
      int const end = first + 32 < s.pixels ? first + 32 : s.pixels;
      auto sum = none, second = none;
      for (int pixel = first; pixel < end; ++pixel) {
        long const at = pixel * s.step + c;
        auto v = load(s.from + pixel * s.from_step + c, n);
        if constexpr (!plain) {
          v = hn::Add(v, bias);
          if (residual) v = hn::Add(v, load(residual + at, n));
          if (s.relu) v = rectified(d, v, s.relu);
        }
        if constexpr (mask) {
          auto const m = load(masks + at, n);
          v = hn::IfThenElseZero(hn::AndNot(hn::Ge(m, limit), hn::Gt(m, none)), v);
        }
        v = store(v, out + at, n, s);
        if constexpr (statistics == squares) {
          sum = hn::Add(sum, v);
          second = hn::MulAdd(v, v, second);
        } else if constexpr (statistics == dot) {
          sum = hn::MulAdd(v, load(other + at, n), sum);
          second = hn::Add(second, v);
        }
      }
      if constexpr (statistics != no_statistics) {
        add_to(sum, s.totals + c);
        add_to(second, s.totals + s.second + c);
      }
    }
  }
}

template <class T, bool plain, bool mask>
void rows_with(StoredRows const& s) {
  if (!s.totals) rows_of<T, plain, mask, no_statistics>(s);
  else if (s.squares) rows_of<T, plain, mask, squares>(s);
  else rows_of<T, plain, mask, dot>(s);
}

template <class T>
void rows_in(StoredRows const& s) {
  bool const plain = !s.bias && !s.residual && !s.relu;
  if (s.mask_on) plain ? rows_with<T, true, true>(s) : rows_with<T, false, true>(s);
  else plain ? rows_with<T, true, false>(s) : rows_with<T, false, false>(s);
}
void rows(StoredRows const& s) { s.bf16 ? rows_in<std::uint16_t>(s) : rows_in<float>(s); }

}  // namespace

extern StoreKernels const store_kernels{rows};
}  // namespace falconet::FALCONET_ISA

#endif
