// One pooling of images, or its gradient: windows of r x s pixels that move by the stride. The letters as in the literature:
// x(n,h,w,c), y(n,p,q,c). The mathematics is in README.md.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "falconet/ops/algorithm.h"
#include "falconet/ops/fusion.h"

namespace falconet {

enum class PoolKind : std::uint8_t { max, average };
std::string_view name(PoolKind);             // "max", "average"

// What becomes of the gradient d of a maximum pooling of a batch norm's result, with that batch norm's input x. plain: it is the result. sums: [2,c], (sum d x, sum d),
// as channel_dot of ops/reduce. two_operand: a[c] d + b[c] x + c[c], 0 in rows at or past valid_count, as of ops/elementwise. d is not rounded before.
enum class PoolResult : std::uint8_t { plain, sums, two_operand };

struct PoolArgs {
  View x, y;       // in the gradient they hold dx, dy
  View load_x;     // f32 [2,c] scale and shift of load_x
  View other, vectors, sums;   // of PoolResult: the batch norm's input like dx, f32 [3,c], f32 [2,c]
  StepState const* step = nullptr;   // of two_operand
  View winner;     // like y: index r*S+s of the maximum within its window; max only. An index outside the window (no_winner): none
};

struct PoolProblem {
  PoolKind kind = PoolKind::max;
  bool gradient = false;
  int n = 1, c = 1, h = 1, w = 1;            // the image
  int p = 1, q = 1;                          // rows and columns of y; with ceil_mode the last window may reach past the padding
  int r = 1, s = 1;                          // the window
  int stride_h = 1, stride_w = 1;
  int pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;
  bool count_include_pad = true;             // average: the divisor counts padding (but nothing past it)
  bool winner = true;                        // max, forward: the winner is written (a gradient will ask for it)
  DType type = DType::f32;
  Layout layout = Layout::nhwc;
  // max, forward: scale_shift, or with relu. What it makes of x, a multiply-add in f32 (f64 for f64), is rounded to `type` before it is compared, as if
  // it had been stored.
  OnLoad load_x;
  PoolResult result = PoolResult::plain;     // max, gradient

  // The one extent formula: windows along an axis. With ceil, a last partial window counts if it starts inside the image or
  // the padding before it (PyTorch's rule).
  static int extent(int size, int window, int stride, int pad_before, int pad_after, bool ceil);
  static DType winner_type(int r, int s) { return r * s <= 254 ? DType::u8 : DType::i32; }
  // By how much the sum of window (row, column) of y is divided to give the average.
  int divisor(int row, int column) const {
    auto clip = [&](int start, int size, int window, int after) {
      int const end = start + window;
      return count_include_pad ? (end < size + after ? end : size + after) - start : (end < size ? end : size) - (start > 0 ? start : 0);
    };
    return clip(row * stride_h - pad_top, h, r, pad_bottom) * clip(column * stride_w - pad_left, w, s, pad_right);
  }

  // "kind=max n=64 c=8 h=20 w=20 p=10 q=10 r=2 s=2 stride=2.2 type=f32 layout=nhwc"; further, where they differ from the
  // defaults: dir=bwd, pad=TOP.LEFT.BOTTOM.RIGHT, include_pad=0, winner=0, load_x=scale_shift or scale_shift+relu, norm=sums or two_operand.
  std::string text() const;
  static PoolProblem parse(std::string_view);   // throws a usage error; checks that every window meets the image
  bool operator==(PoolProblem const&) const = default;

  using Args = PoolArgs;
  std::vector<Operand> operands() const;        // x, load_x -> y, winner | dy, winner, [x, vectors, step] -> dx or sums
  static PoolArgs args(PoolProblem const&, std::span<View const> operands);
  double operations() const { return double(n) * c * p * q * r * s; }   // comparisons or additions
};

}  // namespace falconet
