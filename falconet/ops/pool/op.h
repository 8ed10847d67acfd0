// Max, average and global average pooling, and their gradients.
#pragma once
#include <array>

#include "falconet/graph/graph.h"
#include "falconet/ops/pool/problem.h"

namespace falconet {

struct PoolOptions {
  std::array<int, 2> window{2, 2};           // rows, columns
  std::array<int, 2> stride{0, 0};           // rows, columns; 0: as large as the window
  std::array<int, 4> padding{0, 0, 0, 0};    // top, left, bottom, right: each smaller than the window
  bool ceil_mode = false;                    // a last partial window counts if it starts inside the image or the padding before it
  bool count_include_pad = true;             // average: padding counts in the divisor
  bool operator==(PoolOptions const&) const = default;
};

// x [N,C,H,W] (with load_x also its vectors) -> y [N,C,P,Q]; max: also the winner, u8 (i32 where a window has more than 254 pixels), read by the gradient.
class Pool final : public Op {
 public:
  Pool(PoolKind kind, PoolOptions options, bool winner = true, OnLoad load_x = {});
  PoolKind const kind;
  PoolOptions const options;                 // strides resolved
  bool const winner;                         // max only: whether the second output exists
  OnLoad const load_x;                       // max only: what x passes as it is read

  std::string_view name() const override { return "pool"; }
  std::string attributes() const override;
  std::vector<TensorType> infer(std::span<TensorType const> in) const override;
  std::vector<Var> gradient(Graph&, Node const&, std::span<Var const> dy) const override;
  std::string problem(std::span<TensorType const> in, std::span<TensorType const> out) const override;
};

// dy, and for max the winner [, of PoolResult x, vectors, step] -> dx [N,C,H,W], or sums [2,C].
class PoolGradient final : public Op {
 public:
  PoolGradient(PoolKind kind, PoolOptions options, int h, int w, PoolResult result = PoolResult::plain) : kind(kind), options(options), h(h), w(w), result(result) {}
  PoolKind const kind;
  PoolOptions const options;
  int const h, w;                            // the image's
  PoolResult const result;

  std::string_view name() const override { return "pool"; }
  std::string attributes() const override;
  std::vector<TensorType> infer(std::span<TensorType const> in) const override;
  std::string problem(std::span<TensorType const> in, std::span<TensorType const> out) const override;
};

// Each throws a shape error if x is not [N,C,H,W], a window, stride or padding is impossible, or the window is larger than the
// padded image. Of equal values in a window the first in scan order wins; a NaN wins over every number, as in PyTorch.
Var max_pool(Var x, PoolOptions const& options, std::string_view layer = {}, std::source_location at = std::source_location::current());
Var avg_pool(Var x, PoolOptions const& options, std::string_view layer = {}, std::source_location at = std::source_location::current());
// x [N,C,H,W] -> [N,C,1,1], the mean over each channel's image.
Var global_average(Var x, std::string_view layer = {}, std::source_location at = std::source_location::current());

}  // namespace falconet
