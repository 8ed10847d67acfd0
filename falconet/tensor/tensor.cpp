#include "falconet/tensor/tensor.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <utility>

#include "falconet/base/error.h"
#include "falconet/base/format.h"
#include "falconet/tensor/element.h"

namespace falconet {

Buffer::Buffer(std::size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  constexpr std::size_t huge = std::size_t(2) << 20;
  std::size_t alignment = bytes >= huge ? huge : 64;
  std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  data_ = std::aligned_alloc(alignment, rounded);
  if (!data_) fail(ErrorKind::device, "out of memory: " + std::to_string(bytes) + " bytes are not to be had on the host");
  if (alignment == huge) madvise(data_, rounded, MADV_HUGEPAGE);
}
Buffer::Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}
Buffer::~Buffer() { std::free(data_); }

Tensor::Tensor(TensorType type, Buffer memory) : type_(type), memory_(std::move(memory)) {
  if (memory_.bytes() < type_.bytes())
    fail(ErrorKind::usage, format("a tensor of {} bytes cannot live in a buffer of {}", type_.bytes(), memory_.bytes()));
}

Tensor Tensor::copy() const {
  Tensor out(type_);
  if (type_.bytes()) std::memcpy(out.as<void>(), as<void>(), type_.bytes());
  return out;
}

void convert(View from, View to) {
  if (!(from.type.shape == to.type.shape)) fail(ErrorKind::internal, "convert: " + from.type.text() + " to " + to.type.text());
  if (from.type == to.type) {
    if (from.type.bytes()) std::memcpy(to.data, from.data, from.type.bytes());
    return;
  }
  auto const elements = from.type.shape.elements();
  if (from.type.layout == to.type.layout) {
    for (std::int64_t i = 0; i < elements; ++i) store_element(to, i, load_element(from, i));
    return;
  }
  auto const& s = from.type.shape;  // rank 4, layouts differ: walk the logical order
  std::int64_t const C = s[1], H = s[2], W = s[3];
  auto at = [&](Layout l, std::int64_t n, std::int64_t c, std::int64_t hw) {
    return l == Layout::nchw ? (n * C + c) * H * W + hw : (n * H * W + hw) * C + c;
  };
  for (std::int64_t n = 0; n < s[0]; ++n)
    for (std::int64_t c = 0; c < C; ++c)
      for (std::int64_t hw = 0; hw < H * W; ++hw)
        store_element(to, at(to.type.layout, n, c, hw), load_element(from, at(from.type.layout, n, c, hw)));
}

}  // namespace falconet
