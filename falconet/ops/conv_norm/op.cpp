#include "falconet/ops/conv_norm/op.h"

#include "falconet/base/error.h"

namespace falconet {

std::string ConvNormOp::attributes() const {
  std::string out = conv.attributes() + " batch norm";
  if (form.skip) out += " skip";
  if (form.act == Activation::relu) out += " relu";
  if (form.act == Activation::relu6) out += " relu6";
  if (form.kept) out += " kept";
  return out;
}

ConvNormProblem ConvNormOp::problem_for(std::span<TensorType const> in) const {
  ConvNormProblem p = form;
  p.conv = conv.problem_for(in);
  return p;
}

std::vector<TensorType> ConvNormOp::infer(std::span<TensorType const> in) const {
  std::vector<TensorType> out;
  std::size_t read = 0;
  for (auto const& o : problem_for(in).operands()) {
    if (o.written) {
      out.push_back(o.type);
      continue;
    }
    if (read >= in.size()) fail_shape("a convolution with batch norm also reads " + o.name);
    if (!(in[read].shape == o.type.shape)) fail_shape("the " + o.name + " of a convolution with batch norm should be " + o.type.shape.text() + ", not " + in[read].shape.text());
    ++read;
  }
  if (read != in.size()) fail_shape("a convolution with batch norm reads " + std::to_string(read) + " operands, not " + std::to_string(in.size()));
  return out;
}

int ConvNormOp::alias(int output) const {
  if (conv.direction() != Direction::fwd || (output != 1 && output != 2)) return -1;
  return 5 + conv.store().bias + (conv.load_x().affine != Affine::none) + output - 1;   // behind x, w, [load_x, bias], step, gamma, beta
}

std::shared_ptr<Op const> ConvNormOp::without_updates() const {
  if (conv.direction() != Direction::fwd) return nullptr;
  ConvNormProblem same = form;
  same.momentum = 0;                                   // the running statistics stay
  return std::make_shared<ConvNormOp>(conv, same);
}

std::string ConvNormOp::problem(std::span<TensorType const> in, std::span<TensorType const> out) const {
  (void)out;
  return problem_for(in).text();
}

}  // namespace falconet
