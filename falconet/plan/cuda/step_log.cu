#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/plan/cuda/step_log.h"

namespace falconet {
namespace {

struct Text {
  char const* what;
  std::string text() const { return what; }
};

template <class T>
__global__ void write_log(T const* loss, T const* correct, StepLogCursor* cursor, StepLog* log) {
  if (cursor->failed) return;                    // the entry of the first failure stays
  std::int64_t const n = cursor->done;
  double volatile* const losses = log->loss;
  double volatile* const rights = log->correct;
  losses[n % StepLog::kept] = double(*loss);
  rights[n % StepLog::kept] = correct ? double(*correct) : __longlong_as_double(0x7ff8000000000000ll);
  bool const good = isfinite(*loss);
  if (good) cursor->done = n + 1;
  else cursor->failed = 1;
  cursor->guard_f64 = double(*loss), cursor->guard_f32 = float(*loss);
  __threadfence_system();                        // the host sees the entry before the count
  if (good) *const_cast<std::int64_t volatile*>(&log->done) = n + 1;
  else *const_cast<std::int32_t volatile*>(&log->failed) = 1;
}

__global__ void advance_state(StepState* state, std::int32_t const* failed) {
  wait_for_work_ahead();
  if (*failed) return;
  state->step += 1;
  state->sample += state->valid_count;
}

}  // namespace

void log_step(Stream& stream, View loss, View correct, StepLogCursor* cursor, StepLog* log) {
  auto const s = static_cast<cudaStream_t>(stream.cuda());
  if (loss.type.dtype == DType::f64) write_log<double><<<1, 1, 0, s>>>(loss.as<double>(), correct.as<double>(), cursor, log);
  else write_log<float><<<1, 1, 0, s>>>(loss.as<float>(), correct.as<float>(), cursor, log);
  check_launch("step log", Text{"loss and position"}, s);
}

void advance(Stream& stream, StepState* state, std::int32_t const* failed) {
  auto const s = static_cast<cudaStream_t>(stream.cuda());
  launch_ahead(advance_state, dim3(1), dim3(1), 0, 1, s, state, failed);
  check_launch("advance", Text{"position"}, s);
}

}  // namespace falconet
