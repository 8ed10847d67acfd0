// Convolution by oneDNN 3, in all directions, as a rival: images as they lie (NHWC or NCHW), the filter brought into oneDNN's own form in
// each run, as a training step must. Its primitives and their memory are the library's and kept for the life of the process.
#include "falconet/device/cpu/onednn.h"

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/conv/algorithms.h"

namespace falconet {
namespace {

onednn::Tensor image(DType type, Layout layout, std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) {
  if (layout == Layout::nhwc) return {type, {n, c, h, w}, {h * w * c, 1, w * c, c}};
  return {type, {n, c, h, w}, {c * h * w, h * w, w, 1}};
}

onednn::Description description(ConvProblem const& p) {
  onednn::Description d;
  d.kind = p.direction == Direction::fwd ? onednn::Kind::conv_fwd : p.direction == Direction::bwd_data ? onednn::Kind::conv_bwd_data : onednn::Kind::conv_bwd_filter;
  d.a = image(p.x_type, p.layout, p.n, p.c, p.h, p.w);
  d.b = image(p.w_type, p.layout, p.k, p.c / p.groups, p.r, p.s);
  d.y = image(p.y_type, p.layout, p.n, p.k, p.p(), p.q());
  if (p.groups > 1) {
    d.b.sizes[0] /= p.groups;
    d.b.strides.insert(d.b.strides.begin(), d.b.strides[0] * d.b.sizes[0]);
    d.b.sizes.insert(d.b.sizes.begin(), p.groups);
  }
  d.free_b = true;
  d.bias = p.store.bias;
  d.relu = p.store.act == Activation::relu;
  d.strides = {p.stride_h, p.stride_w};
  d.dilations = {p.dilation_h, p.dilation_w};
  d.pads_before = {p.pad_top, p.pad_left};
  d.pads_after = {p.pad_bottom, p.pad_right};
  return d;
}

std::string reject(ConvProblem const& p, DeviceFacts const&) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (onednn::found().empty()) return std::string("oneDNN 3 is not found: ") + onednn::library_files;
  bool const mixed = p.x_type == DType::bf16 && p.y_type == DType::bf16 && p.w_type == DType::f32;
  if (!p.one_type(DType::f32) && !p.one_type(DType::bf16) && !mixed) return "needs f32 or bf16";
  OnStore slots;
  slots.bias = p.store.bias && p.direction != Direction::bwd_data;
  if (p.direction == Direction::fwd && p.store.act == Activation::relu) slots.act = Activation::relu;
  if (p.load_x != OnLoad{} || p.load_dy != OnLoad{} || p.store != slots) return "slots other than bias and relu";
  return onednn::refusal(description(p));
}

double seconds(ConvProblem const& p, DeviceFacts const& facts) {
  double const lanes = facts.isa == Isa::avx512 ? 16 : facts.isa == Isa::avx2 ? 8 : 4;
  return p.operations() / (0.7 * 3.5e9 * 4 * lanes) + bytes_of(p.operands()) / 10e9 + 10e-6;
}

void run(ConvProblem const& p, Config const&, ConvArgs const& args, View, Stream& stream) {
  int const threads = stream.threads().size();
  onednn::run(onednn::primitive(p.text(), threads, description(p)), threads, args.x.data, args.w.data, args.y.data, args.bias.data);
}

}  // namespace

Algorithm<ConvProblem> const conv_onednn{.name = "onednn", .target = DeviceKind::cpu, .reject = reject, .seconds = seconds, .run = run, .rival = true};

}  // namespace falconet
