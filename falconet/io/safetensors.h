// The safetensors format (Hugging Face): 8 bytes of header length, a JSON header, the tensors. Tensors are logical: row-major in
// PyTorch's order. Reading is strict: every byte must belong to exactly one tensor; what does not fit is Error{data}.
#pragma once
#include <map>
#include <span>
#include <string>

#include "falconet/tensor/tensor.h"

namespace falconet::io {

struct SafeTensors {
  std::map<std::string, Tensor> tensors;           // nchw
  std::map<std::string, std::string> metadata;     // "__metadata__"
};

struct NamedView {
  std::string name;
  View view;   // host memory
};

// F64, F32, BF16, I32 and U8 as they are; F16 becomes f32 and I64 becomes i32 (refused where a value does not fit).
SafeTensors read_safetensors(std::string const& path);

// Written atomically. An nhwc view is written in nchw order. The data lie by falling element size and then by name, so that
// every tensor is aligned; the header is padded with spaces to a multiple of 8 bytes.
void write_safetensors(std::string const& path, std::span<NamedView const> tensors, std::map<std::string, std::string> const& metadata = {});

}  // namespace falconet::io
