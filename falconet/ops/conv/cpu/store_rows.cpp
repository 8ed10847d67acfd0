// The kernels of store_rows.h: one vector of channels at a time goes down the pixels. Statistics are summed in f32 over 32 pixels at most,
// then in f64.
#ifdef FALCONET_ISA

#include "falconet/ops/conv/cpu/store_rows.h"

#include "falconet/device/cpu/simd.h"
#include "falconet/ops/conv/cpu/direct_rows.h"
#include "falconet/ops/conv/cpu/direct_tile.h"

namespace falconet::FALCONET_ISA {
namespace {

// The first n lanes: all of them, which is cheaper, or fewer.
HWY_INLINE hn::Vec<Wide> load(float const* from, int n) {
  Wide const d;
  return n == kLanes ? hn::LoadU(d, from) : load_first(d, from, n);
}

void add_to(hn::Vec<Wide> sum, double* totals) {
  HWY_ALIGN float lane[kLanes];
  hn::Store(sum, Wide(), lane);
  for (int i = 0; i < kLanes; ++i) totals[i] += double(lane[i]);
}

enum { no_statistics, squares, dot };

template <bool plain, bool mask, int statistics>         // plain: without bias, residual and ReLU
void rows_of(StoredRows const& slots) {
  StoredRows const s = slots;                            // a copy, which no store can change
  Wide const d;
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
          if (s.residual) v = hn::Add(v, load(s.residual + at, n));
          if (s.relu) v = rectified(d, v, s.relu);
        }
        if constexpr (mask) {
          auto const m = load(s.mask + at, n);
          v = hn::IfThenElseZero(hn::AndNot(hn::Ge(m, limit), hn::Gt(m, none)), v);
        }
        if (n < kLanes) store_first(v, d, s.out + at, n);
        else if (s.stream) hn::Stream(v, d, s.out + at);
        else hn::StoreU(v, d, s.out + at);
        if constexpr (statistics == squares) {
          sum = hn::Add(sum, v);
          second = hn::MulAdd(v, v, second);
        } else if constexpr (statistics == dot) {
          sum = hn::MulAdd(v, load(s.other + at, n), sum);
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

template <bool plain, bool mask>
void rows_with(StoredRows const& s) {
  if (!s.totals) rows_of<plain, mask, no_statistics>(s);
  else if (s.squares) rows_of<plain, mask, squares>(s);
  else rows_of<plain, mask, dot>(s);
}

void rows(StoredRows const& s) {
  bool const plain = !s.bias && !s.residual && !s.relu;
  if (s.mask_on) plain ? rows_with<true, true>(s) : rows_with<false, true>(s);
  else plain ? rows_with<true, false>(s) : rows_with<false, false>(s);
}

}  // namespace

extern StoreKernels const store_kernels{rows};
}  // namespace falconet::FALCONET_ISA

#endif
