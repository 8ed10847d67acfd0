// Moving elements: between element types, layouts and shapes (kind=copy), several tensors into one along the channels (concat),
// a range of channels out of one (slice, its gradient), and many tensors from one element type to another in one launch (each).
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "falconet/ops/algorithm.h"

namespace falconet {

// copy: element i of `to` is element i of `from`, both counted in the logical (row-major) order N,C,H,W.
// each: tensor i of `results` is tensor i of `parts`, element by element as they lie.
enum class CopyKind : std::uint8_t { copy, concat, slice, each };
std::string_view name(CopyKind);

struct CopyArgs {
  View from;                               // copy, slice
  std::vector<View> parts, results;        // concat, each: the inputs; each: the outputs
  View to;
};

struct CopyProblem {
  CopyKind kind = CopyKind::copy;
  TensorType from;                         // copy, slice; each: all elements as one row
  TensorType to;
  std::vector<std::int64_t> channels;      // concat: of each input, adding up to to.shape[1]; each: elements of each tensor
  std::int64_t begin = 0;                  // slice: `to` is channels [begin, begin + to.shape[1]) of `from`

  TensorType part(std::size_t i) const;    // concat: the type of input i

  // "kind=copy from=f32[64x8x10x10]nhwc to=f32[64x800]", "kind=concat to=f32[2x8x4x4]nhwc channels=3,5",
  // "kind=slice from=f32[2x8x4x4]nhwc to=f32[2x5x4x4]nhwc begin=3", "kind=each from=f32 to=bf16 sizes=432,2304"
  std::string text() const;
  static CopyProblem parse(std::string_view);   // throws a usage error; checks that the shapes fit
  bool operator==(CopyProblem const&) const = default;

  using Args = CopyArgs;
  std::vector<Operand> operands() const;        // inputs -> to
  static CopyArgs args(CopyProblem const&, std::span<View const> operands);
  double operations() const { return double(to.shape.elements()); }   // elements moved
};

}  // namespace falconet
