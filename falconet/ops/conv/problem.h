// One convolution in one direction: the mathematics in README.md, the letters as in the literature:
// x(n,h,w,c), filter w(k,r,s,c/groups), y(n,p,q,k).
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "falconet/ops/algorithm.h"
#include "falconet/ops/fusion.h"
#include "falconet/tensor/precision.h"

namespace falconet {

// bwd: both gradients from one reading of x, w and dy. Its slots: load_x and load_dy, and those that store dx. Images at or past valid_count of the
// StepState, which it reads with sums or two_operand, have no dy.
enum class Direction : std::uint8_t { fwd, bwd_data, bwd_filter, bwd };
std::string_view name(Direction);            // "fwd", "bwd_data", "bwd_filter", "bwd"

struct ConvArgs {
  View x, w, y;                    // all logical NCHW / KCRS; in the gradient directions they hold dx, dw, dy
  View dx, dw;                     // of bwd, written
  View bias;                       // [k]: read by fwd (store.bias); written by bwd_filter (store.bias: db = sum of dy)
  View load_x;                     // [2,c] scale, shift of load_x.affine; of bwd_data, for the mask alone
  View load_dy, load_dy_other;     // [3,k] and the second tensor of load_dy.affine = two_operand
  View winner;                     // u8 like the pooled y (PoolSlot): written by store.pool, read by load_dy.unpool
  View store_affine;               // [2, channels of the result]
  View residual;                   // like the result, added before the activation
  View mask;                       // like the result; of Mask::bits a bit for each channel
  View other;                      // like the result: of store.stats = dot_other; of bwd_data with dot_x, x
  View stats;                      // f32 [2, channels of the result], written
  StepState const* step = nullptr; // given with stats
  View prepared;                   // the filter in the algorithm's own form, in place of w (Algorithm::prepare)
};

struct ConvProblem {
  Direction direction = Direction::fwd;
  int n = 1, c = 1, h = 1, w = 1, k = 1, r = 1, s = 1;
  int pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;
  int stride_h = 1, stride_w = 1, dilation_h = 1, dilation_w = 1, groups = 1;
  // w_type f32 beside bf16 is the master copy: forward and data gradient count it as rounded to bf16, the filter gradient stores f32.
  DType x_type = DType::f32, w_type = DType::f32, y_type = DType::f32;
  Layout layout = Layout::nhwc;
  Math math = Math::exact;               // tf32 allows rounding both factors of f32 products; exact algorithms run such problems, too
  OnLoad load_x, load_dy;
  OnStore store;

  static constexpr int most = 1 << 24;   // of every number above: sums and differences of a few of them fit an int

  // Input rows and columns that a filter spans. In 64 bits: it need not fit the image, nor an int, before that is checked.
  std::int64_t span_h() const { return std::int64_t(dilation_h) * (r - 1) + 1; }
  std::int64_t span_w() const { return std::int64_t(dilation_w) * (s - 1) + 1; }
  // The one extent formula: output rows p and columns q before any pooling.
  int p() const { return (h + pad_top + pad_bottom - dilation_h * (r - 1) - 1) / stride_h + 1; }
  int q() const { return (w + pad_left + pad_right - dilation_w * (s - 1) - 1) / stride_w + 1; }
  bool pooled_y() const { return store.pool.kind != PoolSlot::none || load_dy.unpool.kind != PoolSlot::none; }
  bool average_pooled() const { return store.pool.kind == PoolSlot::average || load_dy.unpool.kind == PoolSlot::average; }
  int pool_size() const { return store.pool.kind != PoolSlot::none ? store.pool.size : load_dy.unpool.kind != PoolSlot::none ? load_dy.unpool.size : 1; }
  int stored_p() const { return p() / pool_size(); }   // rows of y as it lies in memory
  int stored_q() const { return q() / pool_size(); }
  bool plain() const { return load_x == OnLoad{} && load_dy == OnLoad{} && store == OnStore{}; }
  bool one_type(DType t) const { return x_type == t && w_type == t && y_type == t; }

  // "fwd n256 c64 hw56 k64 rs3 p1 bf16 nhwc", in full
  // "bwd_filter n2 c6 h9 w7 k4 r3 s5 p0.1.2.3 st2.1 d1.2 g2 bf16,f32,bf16 nchw load_x=scale_shift+relu store=bias+relu+max_pool2"
  // (pads top.left.bottom.right; types x,w,y). Left out: p0, st1, d1, g1 and empty slots. Without a direction: fwd. "math=tf32" stands before the slots.
  std::string text() const;
  // Throws a usage error; checks that every extent is positive and every slot has its place in the direction.
  static ConvProblem parse(std::string_view);
  std::string attributes() const;               // " p1 st2 d2 g4": padding, stride, dilation, groups where they are not the default
  std::string slots() const;                    // " math=tf32 load_x=... store=..."
  bool operator==(ConvProblem const&) const = default;

  using Args = ConvArgs;
  // In the order: x|dy.., w|.., see problem.cpp; inputs before outputs.
  std::vector<Operand> operands() const;
  static ConvArgs args(ConvProblem const&, std::span<View const> operands);
  double operations() const;                    // 2 n k p q (c/groups) r s, of bwd twice that
};

}  // namespace falconet
