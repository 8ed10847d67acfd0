// Element types, shapes, layouts and their combination, the TensorType. Shapes are logical, in PyTorch's order (N,C,H,W; weights
// O,I,H,W); the Layout says how the elements lie in memory. Everything here is a value that compares, prints and parses.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

namespace falconet {

enum class DType : std::uint8_t { f64, f32, bf16, u8, i32 };
std::string_view name(DType);                       // "f64", "f32", "bf16", "u8", "i32"
DType parse_dtype(std::string_view);                // throws usage error naming the known types
std::size_t size_of(DType);                         // bytes of one element

class Shape {
 public:
  static constexpr int max_rank = 6;
  Shape() = default;                                // rank 0: a scalar, one element
  Shape(std::initializer_list<std::int64_t> sizes);
  explicit Shape(std::span<std::int64_t const> sizes);
  int rank() const { return rank_; }
  std::int64_t operator[](int axis) const { return sizes_[axis]; }
  std::int64_t& operator[](int axis) { return sizes_[axis]; }
  std::int64_t elements() const;                    // throws a usage error if a size is negative or the product 2^56 or more
  std::int64_t const* begin() const { return sizes_.data(); }
  std::int64_t const* end() const { return sizes_.data() + rank_; }
  std::string text() const;                         // "64x8x24x24"; "scalar" for rank 0
  static Shape parse(std::string_view);
  bool operator==(Shape const&) const = default;    // unused sizes are zero

 private:
  std::array<std::int64_t, max_rank> sizes_{};
  int rank_ = 0;
};

// nchw: row-major in the logical order. nhwc: channels (axis 1) innermost: N,H,W,C; for weights O,H,W,I ("KRSC").
// Only rank-4 tensors can be nhwc; all others are always nchw (row-major).
enum class Layout : std::uint8_t { nchw, nhwc };
std::string_view name(Layout);
Layout parse_layout(std::string_view);

struct TensorType {
  DType dtype = DType::f32;
  Shape shape;
  Layout layout = Layout::nchw;
  std::size_t bytes() const { return std::size_t(shape.elements()) * size_of(dtype); }
  std::string text() const;                         // "f32[64x8x24x24]nhwc", "f32[10]"
  static TensorType parse(std::string_view);
  bool operator==(TensorType const&) const = default;
};

}  // namespace falconet
