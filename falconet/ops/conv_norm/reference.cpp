// The two references, one after the other: the convolution's result is rounded to its type before batch norm reads it.
#include "falconet/ops/batch_norm/algorithms.h"
#include "falconet/ops/conv/algorithms.h"
#include "falconet/ops/conv_norm/algorithms.h"

namespace falconet {
namespace {

std::size_t rounded(std::size_t bytes) { return (bytes + 63) / 64 * 64; }
TensorType result_type(ConvNormProblem const& p) {
  for (auto const& o : p.conv.operands())
    if (o.written) return o.type;
  return {};
}
std::size_t sums_bytes(ConvNormProblem const& p) { return rounded(std::size_t(p.norm().c) * 2 * size_of(p.norm().type)); }
std::string reject(ConvNormProblem const& p, DeviceFacts const& facts) { return conv_reference.reject(p.conv, facts); }
std::size_t scratch(ConvNormProblem const& p, Config const& config) {   // d, its sums, what the convolution needs
  return rounded(result_type(p).bytes()) + sums_bytes(p) + conv_reference.scratch(p.conv, config);
}
double seconds(ConvNormProblem const& p, DeviceFacts const& facts) { return conv_reference.seconds(p.conv, facts); }

void run(ConvNormProblem const& p, Config const& config, ConvNormArgs const& args, View memory, Stream& stream) {
  ConvNormArgs a = args;
  char* at = memory.as<char>();
  if (p.conv.direction == Direction::bwd_data) {
    if (!p.kept) a.norm.dy = a.conv.x = {at, result_type(p)};
    a.norm.dscale_shift = a.conv.stats = {at + rounded(result_type(p).bytes()), {p.norm().type, Shape{2, p.norm().c}, Layout::nchw}};
  }
  at += rounded(result_type(p).bytes()) + sums_bytes(p);
  conv_reference.run(p.conv, config, a.conv, {at, {}}, stream);
  batch_norm_reference.run(p.norm(), config, a.norm, {}, stream);
}

}  // namespace

extern Algorithm<ConvNormProblem> const conv_norm_reference = {
    .name = "reference", .target = DeviceKind::cpu, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run, .baseline = true};

}  // namespace falconet
