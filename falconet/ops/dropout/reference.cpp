// Dropout by its definition, element by element. Element e of a sample counts channels innermost (position * c + channel) in either
// layout, so that a network drops the same elements whatever its layout. Four elements share one draw of 128 bits.
#include "falconet/base/random.h"
#include "falconet/ops/dropout/algorithms.h"
#include "falconet/tensor/element.h"

namespace falconet {
namespace {

std::string reject(DropoutProblem const&, DeviceFacts const&) { return {}; }

void run(DropoutProblem const& p, Config const&, DropoutArgs const& a, View, Stream&) {
  RandomKey const key = random_key(a.step->seed, p.key);
  for (std::int64_t n = 0; n < p.n; ++n)
    for (std::int64_t at = 0; at < p.hw; ++at)
      for (std::int64_t c = 0; c < p.c; ++c) {
        std::uint64_t const e = std::uint64_t(at * p.c + c);
        RandomBits const bits = draw(key, std::uint64_t(a.step->sample + n), e / 4);
        bool const kept = !(uniform(bits.word[e % 4]) < float(p.p));
        std::int64_t const i = p.layout == Layout::nhwc ? (n * p.hw + at) * p.c + c : (n * p.c + c) * p.hw + at;
        store_element(a.y, i, kept ? load_element(a.x, i) / (1 - p.p) : 0);
      }
}

}  // namespace

extern Algorithm<DropoutProblem> const dropout_reference = {
    .name = "reference", .target = DeviceKind::cpu, .reject = reject, .run = run, .baseline = true};

}  // namespace falconet
