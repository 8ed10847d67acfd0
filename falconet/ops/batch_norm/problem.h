// The vector arithmetic of batch norm; the functions and their formulas are in README.md. The sums over x are ops/reduce's, the
// application to x is ops/elementwise's, or done here together with the vectors (normalise, normalise_gradient).
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "falconet/ops/algorithm.h"
#include "falconet/ops/fusion.h"

namespace falconet {

enum class BatchNormFunction : std::uint8_t {
  coefficients,        // sums, gamma, beta, running_mean, running_var, step -> scale_shift, running_mean', running_var'
  gradient,            // dscale_shift, sums, gamma, step -> dsums, dgamma, dbeta
  inference,           // gamma, beta, running_mean, running_var -> scale_shift
  inference_gradient,  // dscale_shift, running_mean, running_var -> dgamma, dbeta
  two_operand,         // scale_shift, dsums -> [3,c]: dx = scale * dy + 2 dsums[1] * x + dsums[0]
  gradient_two_operand,  // dscale_shift, sums, gamma, step -> [3,c] as of two_operand, dgamma, dbeta: both in one
  normalise,             // x, sums, gamma, beta, running_mean, running_var, step, [residual] -> y = act(scale x + shift + residual),
                         // running_mean', running_var'; with residual_norm the residual has a batch norm of its own: after it come its sums, gamma,
                         // beta, running_mean, running_var, and of the results its running_mean', running_var'; with vectors scale_shift is the last
                         // result, for who applies it again, with bits the mask of y > 0 as u8 [n,c/8,h,w]
  normalise_gradient,    // dy, x, dscale_shift, sums, gamma, step, [mask] -> dx as of elementwise two_operand, dgamma, dbeta; with pair those of two batch
                         // norms whose results were added: then x, dscale_shift, sums, gamma of the other, and of the results its dx, dgamma, dbeta
  fold                   // w, gamma, beta, running_mean, running_var, [bias] -> w' = scale[k] * w, b' = shift[k] (+ scale[k] * bias): a product
                         // with w and inference's normalisation as a product alone
};
std::string_view name(BatchNormFunction);

struct BatchNormArgs {
  View sums;                                    // [2,c] (sum x, sum x*x)
  View gamma, beta, running_mean, running_var;  // [c]; the running ones are updated in place by coefficients
  View scale_shift, dscale_shift;               // [2,c]
  View dsums, dgamma, dbeta;                    // [2,c], [c], [c]
  View two_operand;                             // [3,c]
  View residual_sums, residual_gamma, residual_beta, residual_running_mean, residual_running_var;   // as those above
  View pair_x, pair_dscale_shift, pair_y, pair_dgamma, pair_dbeta;   // of the other batch norm; its sums and gamma are residual_sums, residual_gamma
  View bits;                                    // [n,c/8,h,w], bit i of an element: channel 8 c + i
  View x, dy, residual, mask, y;                // images [n,c,h,w]; y is dx of normalise_gradient
  View w, bias, folded_w, folded_bias;          // of fold: filters as [c, per_sample], c being the channels that they make, and vectors [c]
  StepState const* step = nullptr;
};

struct BatchNormProblem {
  BatchNormFunction function = BatchNormFunction::coefficients;
  std::int64_t c = 1;
  std::int64_t per_sample = 1;  // elements per sample and channel: h*w; of fold: of a filter
  double eps = 1e-5, momentum = 0.1;
  DType type = DType::f32;  // of the vectors: f32 or f64
  // Of normalise and normalise_gradient: images, their type (f64 if the vectors are) and layout, and slots.
  std::int64_t n = 0;
  DType image = DType::f32;
  Layout layout = Layout::nchw;
  Activation act = Activation::none;  // normalise: none, relu or relu6
  bool residual = false, mask = false;
  bool pair = false;                  // normalise_gradient without mask: of two batch norms, with the same eps and momentum
  bool residual_norm = false;         // normalise: the residual is normalised, too; with the same eps and momentum
  bool vectors = false;               // normalise without residual: scale_shift is written, too
  bool bits = false;                  // normalise with relu of a bf16 nhwc image of a multiple of 8 channels: its mask as bits is written, too (Mask::bits)
  bool bias = false;                  // of fold, whose `image` is the type of w'

  // "function=coefficients c=16 per_sample=1024 eps=1e-05 momentum=0.1 type=f32"
  std::string text() const;
  static BatchNormProblem parse(std::string_view);  // throws a usage error
  bool operator==(BatchNormProblem const&) const = default;

  using Args = BatchNormArgs;
  std::vector<Operand> operands() const;
  static BatchNormArgs args(BatchNormProblem const&, std::span<View const> operands);
  bool applies() const { return function == BatchNormFunction::normalise || function == BatchNormFunction::normalise_gradient; }
  std::int64_t elements() const { return n * c * per_sample; }
  double operations() const { return 20.0 * double(c) + (function == BatchNormFunction::fold ? double(c * per_sample) : 4.0 * double(elements())); }
};

}  // namespace falconet
