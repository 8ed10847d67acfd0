// The store slots of a result's element in f32, for kernels that hold many of them in registers: what is rare is a function of its own. Written out for
// each of a thread's results, activations are more code than all the rest, and a short launch waits for its code.
#pragma once
#include "falconet/ops/fusion.h"

namespace falconet {

struct ResultSlots {
  float const *residual, *mask;          // null: none
  Activation act;
  __host__ __device__ bool few() const { return !residual && !mask && (act == Activation::none || act == Activation::relu); }
};

static __device__ __noinline__ float through_all_slots(Activation act, float const* residual, float const* mask, float v, int at) {
  if (residual) v += residual[at];
  v = activate(act, v);
  return mask && !(mask[at] > 0) ? 0 : v;
}
// v behind residual, activation and mask of element `at`; few: slots.few(), asked once.
static __device__ __forceinline__ float through_slots(ResultSlots const& slots, bool few, float v, int at) {
  if (few) return slots.act == Activation::relu && v < 0 ? 0 : v;
  return through_all_slots(slots.act, slots.residual, slots.mask, v, at);
}

}  // namespace falconet
