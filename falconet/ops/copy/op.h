// Operations that only move elements: reshape and flatten, concatenation along the channels and its gradient, conversion
// between element types and layouts.
#pragma once
#include "falconet/graph/graph.h"

namespace falconet {

// x -> the same elements, in the logical order N,C,H,W, under another shape. `layout` is the result's if it has four axes: the
// layout pass may replace the operation by one with another layout (a result of other ranks is always row-major).
class Reshape final : public Op {
 public:
  explicit Reshape(Shape shape, Layout layout = Layout::nchw) : shape(shape), layout(shape.rank() == 4 ? layout : Layout::nchw) {}
  Shape const shape;
  Layout const layout;

  std::string_view name() const override { return "copy"; }
  std::string attributes() const override { return "reshape " + shape.text(); }
  std::vector<TensorType> infer(std::span<TensorType const> in) const override;
  std::vector<Var> gradient(Graph&, Node const&, std::span<Var const> dy) const override;
  std::string problem(std::span<TensorType const> in, std::span<TensorType const> out) const override;
};

// x -> x in another element type and layout (the layout counts for four axes only).
class Convert final : public Op {
 public:
  Convert(DType dtype, Layout layout) : dtype(dtype), layout(layout) {}
  DType const dtype;
  Layout const layout;

  std::string_view name() const override { return "copy"; }
  std::string attributes() const override;
  std::vector<TensorType> infer(std::span<TensorType const> in) const override;
  std::vector<Var> gradient(Graph&, Node const&, std::span<Var const> dy) const override;
  std::string problem(std::span<TensorType const> in, std::span<TensorType const> out) const override;
};

// Tensors x0, x1, ... of one element type -> the same in another, all in one launch. It has no gradient: pass *fuse* makes it.
class ConvertEach final : public Op {
 public:
  explicit ConvertEach(DType dtype) : dtype(dtype) {}
  DType const dtype;

  std::string_view name() const override { return "copy"; }
  std::string attributes() const override;
  std::vector<TensorType> infer(std::span<TensorType const> in) const override;
  std::string problem(std::span<TensorType const> in, std::span<TensorType const> out) const override;
};

// x0 [N,C0,...], x1 [N,C1,...], ... -> y [N,C0+C1+...,...], in the first one's element type and layout, which all must have.
class Concat final : public Op {
 public:
  std::string_view name() const override { return "copy"; }
  std::string attributes() const override { return "concat"; }
  std::vector<TensorType> infer(std::span<TensorType const> in) const override;
  std::vector<Var> gradient(Graph&, Node const&, std::span<Var const> dy) const override;
  std::string problem(std::span<TensorType const> in, std::span<TensorType const> out) const override;
};

// x [N,C,...] -> channels [begin, begin + count): the gradient of concat. It has no gradient itself.
class Slice final : public Op {
 public:
  Slice(std::int64_t begin, std::int64_t count) : begin(begin), count(count) {}
  std::int64_t const begin, count;

  std::string_view name() const override { return "copy"; }
  std::string attributes() const override { return "channels " + std::to_string(begin) + " to " + std::to_string(begin + count - 1); }
  std::vector<TensorType> infer(std::span<TensorType const> in) const override;
  std::string problem(std::span<TensorType const> in, std::span<TensorType const> out) const override;
};

// Shape error if the number of elements differs.
Var reshape(Var x, Shape shape, std::string_view layer = {}, std::source_location at = std::source_location::current());
// x [N, ...] -> [N, everything else], in the order C,H,W whatever the layout (as PyTorch's flatten(1)).
Var flatten_rows(Var x, std::string_view layer = {}, std::source_location at = std::source_location::current());
// Shape error unless all agree in everything but their channels (axis 1).
Var concat(std::span<Var const> inputs, std::string_view layer = {}, std::source_location at = std::source_location::current());
// x in another element type and layout (four axes; others keep theirs).
Var convert(Var x, DType dtype, Layout layout, std::string_view layer = {}, std::source_location at = std::source_location::current());

}  // namespace falconet
