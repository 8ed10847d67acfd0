// The definition of softmax, log-softmax and their gradients in plain loops, any layout; f64, f32 and bf16 storage, f64 arithmetic.
#include <algorithm>
#include <cmath>

#include "falconet/ops/softmax/algorithms.h"
#include "falconet/tensor/element.h"

namespace falconet {
namespace {

std::string reject(SoftmaxProblem const& p, DeviceFacts const&) {
  if (p.x.dtype == DType::u8 || p.x.dtype == DType::i32) return "needs f64, f32 or bf16";
  return {};
}

void run(SoftmaxProblem const& p, Config const&, SoftmaxArgs const& args, View, Stream&) {
  auto const channels = p.channels(), places = p.places(), stride = p.stride();
  for (std::int64_t n = 0; n < p.n(); ++n)
    for (std::int64_t place = 0; place < places; ++place) {
      auto const first = n * channels * places + (stride == 1 ? place * channels : place);
      if (!p.gradient) {
        double largest = load_element(args.x, first), sum = 0;
        for (std::int64_t c = 1; c < channels; ++c) largest = std::max(largest, load_element(args.x, first + c * stride));
        for (std::int64_t c = 0; c < channels; ++c) sum += std::exp(load_element(args.x, first + c * stride) - largest);
        for (std::int64_t c = 0; c < channels; ++c) {
          double const v = load_element(args.x, first + c * stride) - largest;
          store_element(args.y, first + c * stride, p.log ? v - std::log(sum) : std::exp(v) / sum);
        }
      } else {
        double sum = 0;
        for (std::int64_t c = 0; c < channels; ++c) {
          double const dy = load_element(args.dy, first + c * stride);
          sum += p.log ? dy : dy * load_element(args.y, first + c * stride);
        }
        for (std::int64_t c = 0; c < channels; ++c) {
          double const y = load_element(args.y, first + c * stride), dy = load_element(args.dy, first + c * stride);
          store_element(args.dx, first + c * stride, p.log ? dy - std::exp(y) * sum : y * (dy - sum));
        }
      }
    }
}

}  // namespace

Algorithm<SoftmaxProblem> softmax_reference() {
  return {.name = "reference", .target = DeviceKind::cpu, .reject = reject, .run = run, .baseline = true};
}

}  // namespace falconet
