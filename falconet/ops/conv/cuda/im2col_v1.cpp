// im2col with a thread for every place of a filter (Li, Goebel and Fu 2019, Listing 17): each copies r*s elements to as many rows of the matrix, so
// there are few threads, and a small problem leaves most of the card idle. col2im likewise: a thread for every pixel of dx adds r*s elements. The
// stages are those of columns.h, the product falconet's own in f32 (gemm's tiled).
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/columns.h"
#include "falconet/ops/conv/cuda/own_product.h"

namespace falconet {
namespace {

using namespace columns;

std::string reject_v1(ConvProblem const& p, DeviceFacts const&) { return reject(p, Gathering::ordered); }
std::size_t scratch_v1(ConvProblem const& p, Config const&) { return scratch(p, Gathering::ordered, own_product()); }
double seconds_v1(ConvProblem const& p, DeviceFacts const& facts) { return seconds(p, Mapping::per_position, own_product_seconds(product(p), facts)); }
void run_v1(ConvProblem const& p, Config const& config, ConvArgs const& args, View memory, Stream& on) {
  run("conv im2col_v1", p, config, args, memory, on, Mapping::per_position, Gathering::ordered, own_product());
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_im2col_v1{.name = "im2col_v1", .target = DeviceKind::cuda, .reject = reject_v1, .configs = configs, .scratch = scratch_v1,
                                                 .seconds = seconds_v1, .run = run_v1, .ranges = ranges};

}  // namespace falconet
