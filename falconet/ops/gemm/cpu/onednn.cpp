// The matrix product by oneDNN 3, as a rival: operands as they lie.
#include "falconet/device/cpu/onednn.h"

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/gemm/algorithms.h"

namespace falconet {
namespace {

onednn::Tensor matrix(DType type, std::int64_t rows, std::int64_t columns, bool transposed) {
  return {type, {rows, columns}, transposed ? std::vector<std::int64_t>{1, rows} : std::vector<std::int64_t>{columns, 1}};
}

onednn::Description description(GemmProblem const& p) {
  onednn::Description d;
  d.a = matrix(p.a_type, p.m, p.k, p.trans_a);
  d.b = matrix(p.b_type, p.k, p.n, p.trans_b);
  d.y = matrix(p.y_type, p.m, p.n, false);
  d.bias = p.store.bias;
  d.relu = p.store.act == Activation::relu;
  return d;
}

std::string reject(GemmProblem const& p, DeviceFacts const&) {
  if (p.image.which != GemmImage::none) return "an operand that lies as images";
  if (onednn::found().empty()) return std::string("oneDNN 3 is not found: ") + onednn::library_files;
  if (p.a_type != p.b_type || (p.a_type != DType::f32 && p.a_type != DType::bf16) || (p.y_type != p.a_type && p.y_type != DType::f32)) return "needs f32 or bf16";
  OnStore slots;
  slots.bias = p.store.bias;
  if (p.store.act == Activation::relu) slots.act = Activation::relu;
  if (p.store != slots) return "slots other than bias and relu";
  return onednn::refusal(description(p));
}

double seconds(GemmProblem const& p, DeviceFacts const&) { return p.operations() / 150e9 + bytes_of(p.operands()) / 20e9 + 5e-6; }

void run(GemmProblem const& p, Config const&, GemmArgs const& args, View, Stream& stream) {
  int const threads = stream.threads().size();
  onednn::run(onednn::primitive(p.text(), threads, description(p)), threads, args.a.data, args.b.data, args.y.data, args.bias.data);
}

}  // namespace

Algorithm<GemmProblem> gemm_onednn() { return {.name = "onednn", .target = DeviceKind::cpu, .reject = reject, .seconds = seconds, .run = run, .rival = true}; }

}  // namespace falconet
