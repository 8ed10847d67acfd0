#include "falconet/tensor/tensor_type.h"

#include <charconv>

#include "falconet/base/error.h"

namespace falconet {
namespace {
constexpr std::string_view dtype_names[] = {"f64", "f32", "bf16", "u8", "i32"};
constexpr std::size_t dtype_sizes[] = {8, 4, 2, 1, 4};
constexpr std::string_view layout_names[] = {"nchw", "nhwc"};
// Far above any memory, and low enough that bytes, and bytes rounded up to an alignment, do not overflow.
constexpr std::int64_t most_elements = (std::int64_t(1) << 56) - 1;
}  // namespace

std::string_view name(DType t) { return dtype_names[int(t)]; }
std::size_t size_of(DType t) { return dtype_sizes[int(t)]; }
DType parse_dtype(std::string_view text) {
  for (int i = 0; i < 5; ++i)
    if (dtype_names[i] == text) return DType(i);
  fail(ErrorKind::usage, "unknown element type '" + std::string(text) + "'; known: f64 f32 bf16 u8 i32");
}
std::string_view name(Layout l) { return layout_names[int(l)]; }
Layout parse_layout(std::string_view text) {
  for (int i = 0; i < 2; ++i)
    if (layout_names[i] == text) return Layout(i);
  fail(ErrorKind::usage, "unknown layout '" + std::string(text) + "'; known: nchw nhwc");
}

Shape::Shape(std::initializer_list<std::int64_t> sizes) : Shape(std::span(sizes.begin(), sizes.size())) {}
Shape::Shape(std::span<std::int64_t const> sizes) {
  if (sizes.size() > std::size_t(max_rank)) fail(ErrorKind::shape, "a shape has at most 6 axes, not " + std::to_string(sizes.size()));
  for (auto s : sizes) sizes_[rank_++] = s;
}
std::int64_t Shape::elements() const {
  std::int64_t n = 1;
  bool fits = true, empty = false;
  for (auto s : *this) {
    empty |= s == 0;
    fits &= s >= 0 && (s == 0 || n <= most_elements / s);
    n = fits && s > 0 ? n * s : n;
  }
  if (!fits) fail(ErrorKind::usage, "a tensor of shape " + text() + " cannot be: sizes are at least 0 and their product below 2^56");
  return empty ? 0 : n;
}
std::string Shape::text() const {
  if (rank_ == 0) return "scalar";
  std::string out;
  for (auto s : *this) out += (out.empty() ? "" : "x") + std::to_string(s);
  return out;
}
Shape Shape::parse(std::string_view text) {
  Shape shape;
  if (text == "scalar") return shape;
  char const* at = text.data();
  char const* end = at + text.size();
  while (true) {
    std::int64_t size = 0;
    auto [next, error] = std::from_chars(at, end, size);
    if (error != std::errc() || shape.rank_ == max_rank) fail(ErrorKind::usage, "'" + std::string(text) + "' is not a shape like 64x8x24x24");
    shape.sizes_[shape.rank_++] = size;
    if (next == end) return shape;
    if (*next != 'x') fail(ErrorKind::usage, "'" + std::string(text) + "' is not a shape like 64x8x24x24");
    at = next + 1;
  }
}

std::string TensorType::text() const {
  std::string out = std::string(name(dtype)) + "[" + shape.text() + "]";
  if (layout == Layout::nhwc) out += "nhwc";
  return out;
}
TensorType TensorType::parse(std::string_view text) {
  auto open = text.find('['), close = text.find(']');
  if (open == std::string_view::npos || close == std::string_view::npos || close < open)
    fail(ErrorKind::usage, "'" + std::string(text) + "' is not a tensor type like f32[64x8x24x24]nhwc");
  auto tail = text.substr(close + 1);
  return {parse_dtype(text.substr(0, open)), Shape::parse(text.substr(open + 1, close - open - 1)),
          tail.empty() ? Layout::nchw : parse_layout(tail)};
}

}  // namespace falconet
