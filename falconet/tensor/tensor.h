// View: non-owning memory with a type, the only thing algorithms see. Tensor: owning, move-only.
#pragma once
#include "falconet/tensor/tensor_type.h"

namespace falconet {

struct View {
  void* data = nullptr;
  TensorType type;
  template <class T>
  T* as() const { return static_cast<T*>(data); }
  explicit operator bool() const { return data != nullptr; }
};

// Host memory, 64-byte aligned; blocks of 2 MiB and more are aligned to 2 MiB and ask the kernel for huge pages.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t bytes);               // throws device error when memory is exhausted; contents undefined
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();
  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(TensorType type) : type_(type), memory_(type.bytes()) {}
  Tensor(TensorType type, Buffer memory);   // takes memory of at least type.bytes(); less is a usage error
  TensorType const& type() const { return type_; }
  Shape const& shape() const { return type_.shape; }
  View view() const { return {memory_.data(), type_}; }
  template <class T>
  T* as() const { return static_cast<T*>(memory_.data()); }
  Tensor copy() const;

 private:
  TensorType type_;
  Buffer memory_;
};

// Copies elements between any two dtypes and layouts of equal shape (host memory, plain loops).
void convert(View from, View to);

}  // namespace falconet
