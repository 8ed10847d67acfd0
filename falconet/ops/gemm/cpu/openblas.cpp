// The matrix product by OpenBLAS, as a rival: f32, operands as they lie.
#include "falconet/device/cpu/openblas.h"

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/gemm/algorithms.h"

namespace falconet {
namespace {

std::string reject(GemmProblem const& p, DeviceFacts const&) {
  if (p.image.which != GemmImage::none) return "an operand that lies as images";
  if (openblas::found().empty()) return std::string("OpenBLAS is not found: ") + openblas::library_files;
  if (!p.one_type(DType::f32)) return "needs f32";
  if (p.store != OnStore{}) return "slots";
  if (p.m > 1 << 30 || p.n > 1 << 30 || p.k > 1 << 30) return "a size beyond 2^30";
  return {};
}

double seconds(GemmProblem const& p, DeviceFacts const&) { return p.operations() / 120e9 + bytes_of(p.operands()) / 20e9 + 2e-6; }

void run(GemmProblem const& p, Config const&, GemmArgs const& args, View, Stream& stream) {
  openblas::sgemm(stream.threads().size(), p.trans_a, p.trans_b, p.m, p.n, p.k, args.a.as<float const>(), p.trans_a ? p.m : p.k, args.b.as<float const>(), p.trans_b ? p.k : p.n, 0,
                  args.y.as<float>(), p.n);
}

}  // namespace

Algorithm<GemmProblem> gemm_openblas() { return {.name = "openblas", .target = DeviceKind::cpu, .reject = reject, .seconds = seconds, .run = run, .rival = true}; }

}  // namespace falconet
