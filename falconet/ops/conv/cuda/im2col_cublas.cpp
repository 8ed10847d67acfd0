// im2col_v2 with its product by cuBLASLt, as in Li, Goebel and Fu's report: what the kernels around the product cost where the product is a vendor's. A rival.
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/columns.h"
#include "falconet/ops/gemm/cuda/cublaslt.h"

namespace falconet {
namespace {

using namespace columns;

Multiply cublas_product() {
  return {[](GemmProblem const& p) { return gemm_cuda_cublaslt().scratch(p, {}); },
          [](GemmProblem const& p, GemmArgs const& args, View memory, Stream& on) { gemm_cuda_cublaslt().run(p, {}, args, memory, on); }};
}

std::string reject_cublas(ConvProblem const& p, DeviceFacts const& facts) {
  auto const why = reject(p, Gathering::ordered);
  return why.empty() ? gemm_cuda_cublaslt().reject(product(p), facts) : why;
}
std::vector<Config> one_config(ConvProblem const&, DeviceFacts const&) { return {Config{{"threads", 256}, {"blocks", 0}}}; }
std::size_t scratch_cublas(ConvProblem const& p, Config const&) { return scratch(p, Gathering::ordered, cublas_product()); }
double seconds_cublas(ConvProblem const& p, DeviceFacts const& facts) { return seconds(p, Mapping::per_element, gemm_cuda_cublaslt().seconds(product(p), facts)); }
void run_cublas(ConvProblem const& p, Config const& config, ConvArgs const& args, View memory, Stream& on) {
  run("conv im2col_cublas", p, config, args, memory, on, Mapping::per_element, Gathering::ordered, cublas_product());
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_im2col_cublas{.name = "im2col_cublas", .target = DeviceKind::cuda, .reject = reject_cublas, .configs = one_config,
                                                     .scratch = scratch_cublas, .seconds = seconds_cublas, .run = run_cublas, .rival = true, .ranges = ranges};

}  // namespace falconet
