// Weights and batches as a function of names and counters, so that PyTorch and falconet can start from the same ones without a
// file. tools/record_pytorch.py holds the same generator; tests/golden/pytorch_losses.json holds values of it that both must give.
//
//   key(name)            FNV-1a, 64 bits: h = 0xcbf29ce484222325; for each byte: h = (h ^ byte) * 0x100000001b3
//   bits(key, index)     splitmix64 (Steele, Lea & Flood 2014): z = key + (index + 1) * 0x9e3779b97f4a7c15;
//                        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9; z = (z ^ z >> 27) * 0x94d049bb133111eb; z ^ z >> 31
//   value(name, i, b)    (2 * (bits >> 11) * 2^-53 - 1) * b in f64, then rounded to f32: f64, f32 and bf16 runs start alike
//   weight, bias         element i (row-major in PyTorch's order) of a tensor: value(its key in the model, i, 1 / sqrt(fan_in));
//                        batch norm starts at 1 and 0
//   a trained network   what is no matrix is spread about its usual value, so that nothing is left out of the result by being 0 or 1:
//                        weights of convolutions and linear layers value(key, i, sqrt(6 / fan_in)), biases and running means
//                        value(key, i, 1/2), batch norm's weights and running variances 1 + value(key, i, 1/2)
//   batch of step s      image element i: value("images", s * elements of the batch + i, sqrt(3)), so of variance 1;
//                        label of row n: bits(key("labels"), s * batch + n) % classes
#pragma once
#include <cmath>
#include <cstdint>
#include <string_view>

#include "falconet/graph/parameters.h"
#include "falconet/tensor/element.h"

namespace falconet::hashed {

inline std::uint64_t key(std::string_view name) {
  std::uint64_t h = 0xcbf29ce484222325u;
  for (unsigned char c : name) h = (h ^ c) * 0x100000001b3u;
  return h;
}
inline std::uint64_t bits(std::uint64_t key, std::uint64_t index) {
  std::uint64_t z = key + (index + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}
inline double value(std::uint64_t key, std::uint64_t index, double bound) {
  double const unit = double(bits(key, index) >> 11) * 0x1p-53;
  return double(float((2 * unit - 1) * bound));
}
inline double value(std::string_view name, std::uint64_t index, double bound) { return value(key(name), index, bound); }

// Element i of the tensor, in the logical order whatever the layout: value(name, first + i, bound).
inline void fill(View const& v, std::string_view name, double bound, std::uint64_t first = 0) {
  std::uint64_t const of_name = key(name);
  for (std::int64_t i = 0; i < v.type.shape.elements(); ++i) store_element(v, position(v.type, i), value(of_name, first + std::uint64_t(i), bound));
}

// Every weight and bias of a model by its key; what starts at a constant (batch norm, running statistics, moments) does so.
// gain: of weights with more than one dimension, whose bound is gain / sqrt(fan_in).
inline void fill(Parameters& parameters, double gain = 1) {
  for (auto& e : parameters.entries()) {
    View const v = e.tensor.view();
    if (e.init.kind != Init::constant) fill(v, e.name, (v.type.shape.rank() > 1 ? gain : 1) / std::sqrt(double(e.init.fan_in)));
    else
      for (std::int64_t i = 0; i < v.type.shape.elements(); ++i) store_element(v, i, e.init.value);
  }
}

// As of a trained network.
inline void fill_trained(Parameters& parameters) {
  for (auto& e : parameters.entries()) {
    View const v = e.tensor.view();
    auto const elements = v.type.shape.elements();
    bool const matrix = v.type.shape.rank() > 1, about_one = !matrix && (e.name.ends_with(".weight") || e.name.ends_with(".running_var"));
    double const bound = matrix ? std::sqrt(6.0 / double(elements / v.type.shape[0])) : 0.5;
    for (std::int64_t i = 0; i < elements; ++i) store_element(v, position(v.type, i), about_one + value(e.name, std::uint64_t(i), bound));
  }
}

// The batch of a step: images [N,C,H,W] in any layout, labels i32 [N].
inline void fill_batch(View const& images, View const& labels, std::uint64_t step, int classes) {
  fill(images, "images", std::sqrt(3.0), step * std::uint64_t(images.type.shape.elements()));
  auto const rows = std::uint64_t(labels.type.shape[0]), labels_key = key("labels");
  for (std::uint64_t n = 0; n < rows; ++n) labels.as<std::int32_t>()[n] = std::int32_t(bits(labels_key, step * rows + n) % std::uint64_t(classes));
}

}  // namespace falconet::hashed
