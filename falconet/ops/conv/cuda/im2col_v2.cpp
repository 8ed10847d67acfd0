// im2col with a thread for every element of the matrix (Li, Goebel and Fu 2019, Listing 18 and the text before it): r*s times the threads of im2col_v1,
// which write side by side. col2im: a thread for every tap of a pixel of dx, added up in the block in order. im2col_atomic is the data gradient as in
// their Listing 19: every element adds itself to its pixel by atomicAdd. Floating-point addition depends on its order, and atomicAdd has none: the same
// seed would give other bytes, so that form runs in bench alone, to show what gathering costs or gains.
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/columns.h"
#include "falconet/ops/conv/cuda/own_product.h"

namespace falconet {
namespace {

using namespace columns;

template <Gathering gathering>
std::string reject_v2(ConvProblem const& p, DeviceFacts const&) { return reject(p, gathering); }
template <Gathering gathering>
std::size_t scratch_v2(ConvProblem const& p, Config const&) { return scratch(p, gathering, own_product()); }
template <Gathering gathering>
void run_v2(ConvProblem const& p, Config const& config, ConvArgs const& args, View memory, Stream& on) {
  run(gathering == Gathering::atomic ? "conv im2col_atomic" : "conv im2col_v2", p, config, args, memory, on, Mapping::per_element, gathering, own_product());
}
double seconds_v2(ConvProblem const& p, DeviceFacts const& facts) { return seconds(p, Mapping::per_element, own_product_seconds(product(p), facts)); }
std::vector<Config> unordered(ConvProblem const&, DeviceFacts const&) { return {Config{{"threads", 256}, {"blocks", 0}, {"deterministic", 0}}}; }

}  // namespace

Algorithm<ConvProblem> const conv_cuda_im2col_v2{.name = "im2col_v2", .target = DeviceKind::cuda, .reject = reject_v2<Gathering::ordered>, .configs = configs,
                                                 .scratch = scratch_v2<Gathering::ordered>, .seconds = seconds_v2, .run = run_v2<Gathering::ordered>, .ranges = ranges};
Algorithm<ConvProblem> const conv_cuda_im2col_atomic{.name = "im2col_atomic", .target = DeviceKind::cuda, .reject = reject_v2<Gathering::atomic>, .configs = unordered,
                                                     .scratch = scratch_v2<Gathering::atomic>, .run = run_v2<Gathering::atomic>};

}  // namespace falconet
