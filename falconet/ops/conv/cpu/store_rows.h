// What direct, pointwise and depthwise do with rows of results that are still in a near cache: the store slots {bias, residual, relu or relu6,
// mask, statistics}, in that order.
#pragma once
#include <cstdint>

#include "falconet/device/cpu/isa.h"

namespace falconet {

struct StoredRows {
  int pixels, channels;                                  // channels of this block
  float const* from;                                     // results of the sums, from_step floats apart; may be `out`
  long from_step;
  void* out;                                             // of this block, like residual, mask and other; `step` elements apart
  long step;
  float const* bias;                                     // null where unused, like the next; `mask` also where statistics alone read it
  void const *residual, *mask, *other;
  int bf16;                                              // so are out, residual, mask and other, else f32
  int converts;                                          // the processor rounds to bf16 itself (AVX512-BF16; subnormals become zero)
  int relu, mask_on;                                     // 0, 1, or 6 for relu6 and its mask
  int squares;                                           // statistics: 1: sum of v and of v^2, 0: of v * other and of v
  double* totals;                                        // null: no statistics; both sums are added here,
  long second;                                           //   the second one so many doubles further; rounded up to 16 channels
  int stream;                                            // written past the caches: out and step are aligned to whole vectors
};
// So many elements further.
static inline void advance(StoredRows& s, long elements) {
  long const bytes = elements * (s.bf16 ? 2 : 4);
  s.out = static_cast<char*>(s.out) + bytes;
  if (s.residual) s.residual = static_cast<char const*>(s.residual) + bytes;
  if (s.mask) s.mask = static_cast<char const*>(s.mask) + bytes;
  if (s.other) s.other = static_cast<char const*>(s.other) + bytes;
}
struct StoreKernels {
  void (*rows)(StoredRows const&);
};
FALCONET_DECLARE_KERNELS(StoreKernels, store_kernels)

}  // namespace falconet
