// oneDNN 3 (libdnnl.so.3) as a rival: loaded with dlopen when first asked for, never needed. Of its C interface only what is used here is
// declared, in onednn.cpp. Its threads are those of its OpenMP library.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "falconet/tensor/tensor_type.h"

namespace falconet::onednn {

// Where the library was found and its version ("/usr/lib/libdnnl.so.3, version 3.2.0"); empty where it is not.
std::string found();
constexpr char const* library_files = "libdnnl.so.3";   // what is sought

enum class Kind : std::uint8_t { conv_fwd, conv_bwd_data, conv_bwd_filter, matmul };

struct Tensor {
  DType type = DType::f32;
  std::vector<std::int64_t> sizes, strides;      // in oneDNN's logical order: n,c,h,w; (g,)o,i,h,w; rows, columns
};
// One primitive. Convolution: a = x, b = w, y; the written one is the direction's. Product: y = a b.
struct Description {
  Kind kind = Kind::matmul;
  Tensor a, b, y;
  bool free_b = false;                            // b may be brought into a form of the library's own, which is part of each run
  bool bias = false;                              // f32, of the last dimension of y (product) or its channels; conv_bwd_filter writes it
  bool relu = false;
  std::vector<std::int64_t> strides, dilations, pads_before, pads_after;   // rows, columns; dilation 1 is none
};

// Why it cannot run that; empty when it can.
std::string refusal(Description const&);

// A primitive with its memory, made once for a key and a number of threads and kept; device error if oneDNN fails.
class Primitive;
Primitive& primitive(std::string const& key, int threads, Description const&);
void run(Primitive&, int threads, void* a, void* b, void* y, void* bias);

}  // namespace falconet::onednn
