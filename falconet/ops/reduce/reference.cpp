// Every reduction in plain loops over images, channels and positions, summed in f64.
#include "falconet/ops/reduce/algorithms.h"
#include "falconet/tensor/element.h"

namespace falconet {
namespace {

std::string reject(ReduceProblem const&, DeviceFacts const&) { return {}; }

void run(ReduceProblem const& p, Config const&, ReduceArgs const& a, View, Stream&) {
  using F = ReduceFunction;
  auto offset = [&](std::int64_t n, std::int64_t c, std::int64_t at) {
    return p.layout == Layout::nhwc ? (n * p.hw + at) * p.c + c : (n * p.c + c) * p.hw + at;
  };
  std::int64_t const rows = p.reads_step() ? a.step->valid_count : p.n;
  double total = 0;  // of mean
  for (std::int64_t c = 0; c < p.c; ++c) {
    double first = 0, second = 0;
    for (std::int64_t n = 0; n < rows; ++n) {
      double image = 0;
      for (std::int64_t at = 0; at < p.hw; ++at) {
        std::int64_t const i = offset(n, c, at);
        double const x = load_element(a.x, i), b = a.b ? load_element(a.b, i) : x;
        bool const counts = !p.mask || load_element(a.mask, i) > 0;
        image += x * b;
        if (p.function == F::channel_dot)
          first += counts ? x * b : 0, second += counts ? x : 0;
        else
          first += x, second += x * b;
      }
      if (p.function == F::image_dot) store_element(a.y, n * p.c + c, image);
    }
    total += first;
    if (p.function == F::channel_sum) store_element(a.y, c, first);
    if (p.function == F::channel_sums || p.function == F::channel_dot) store_element(a.y, c, first), store_element(a.y, p.c + c, second);
  }
  if (p.function == F::mean) store_element(a.y, 0, total / double(rows * p.c * p.hw));
}

}  // namespace

extern Algorithm<ReduceProblem> const reduce_reference = {
    .name = "reference", .target = DeviceKind::cpu, .reject = reject, .run = run, .baseline = true};

}  // namespace falconet
