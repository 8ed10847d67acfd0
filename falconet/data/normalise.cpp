#include "falconet/data/normalise.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace falconet::data {
namespace {
constexpr std::size_t lanes = 16;   // inner loops of this fixed length become vector code at -O2
}

Normaliser::Normaliser(DataSpec const& spec) {
  check(spec);
  auto const channels = std::size_t(spec.image[0]);
  block_ = lanes * channels;
  for (std::size_t i = 0; i < block_; ++i) {
    float const mean = spec.mean[i % channels], std = spec.std[i % channels];
    mean_.push_back(mean);
    std_.push_back(std);
    scale_.push_back(float(1 / (255.0 * std)));
    shift_.push_back(float(-double(mean) / std));
  }
}

void Normaliser::operator()(std::span<std::uint8_t const> pixels, float* out) const {
  auto const* in = pixels.data();
  std::size_t i = 0;
  for (; i + block_ <= pixels.size(); i += block_)
    for (std::size_t j = 0; j < block_; j += lanes)
      for (std::size_t k = 0; k < lanes; ++k) out[i + j + k] = float(in[i + j + k]) * scale_[j + k] + shift_[j + k];
  for (std::size_t j = 0; i < pixels.size(); ++i, ++j) out[i] = float(in[i]) * scale_[j] + shift_[j];
}

void Normaliser::operator()(std::span<float const> pixels, float* out) const {
  for (std::size_t i = 0; i < pixels.size(); i += block_)
    for (std::size_t j = 0; j < block_ && i + j < pixels.size(); ++j) out[i + j] = (pixels[i + j] - mean_[j]) / std_[j];
}

ChannelStatistics::ChannelStatistics(int channels) : channels_(std::size_t(channels)) {}

void ChannelStatistics::add(std::span<std::uint8_t const> pixels) {
  std::size_t const channels = channels_.size(), block = lanes * channels;
  std::vector<std::uint32_t> sum(block), squares(block);
  auto flush = [&] {
    for (std::size_t j = 0; j < block; ++j) {
      channels_[j % channels].sum += std::exchange(sum[j], 0);
      channels_[j % channels].squares += std::exchange(squares[j], 0);
    }
  };
  std::size_t i = 0;
  for (std::size_t added = 1; i + block <= pixels.size(); i += block, ++added) {
    std::uint8_t const* in = pixels.data() + i;
    for (std::size_t j = 0; j < block; j += lanes) {
      std::uint32_t* s = sum.data() + j;
      std::uint32_t* q = squares.data() + j;
      for (std::size_t k = 0; k < lanes; ++k) {
        std::uint32_t const v = in[j + k];
        s[k] += v;
        q[k] += v * v;
      }
    }
    if (added % 60000 == 0) flush();   // 60000 * 255 * 255 fits 32 bits
  }
  flush();
  for (; i < pixels.size(); ++i) {
    channels_[i % channels].sum += pixels[i];
    channels_[i % channels].squares += std::uint64_t(pixels[i]) * pixels[i];
  }
  for (auto& c : channels_) c.count += pixels.size() / channels;
}

void ChannelStatistics::add(std::span<float const> pixels) {
  std::size_t const channels = channels_.size();
  for (std::size_t i = 0; i < pixels.size(); ++i) {
    auto& c = channels_[i % channels];
    c.real_sum += pixels[i];
    c.real_squares += double(pixels[i]) * pixels[i];
  }
  for (auto& c : channels_) c.count += pixels.size() / channels;
}

std::vector<float> ChannelStatistics::mean() const {
  std::vector<float> out;
  for (auto const& c : channels_) out.push_back(c.count == 0 ? 0 : float((double(c.sum) / 255 + c.real_sum) / double(c.count)));
  return out;
}

std::vector<float> ChannelStatistics::std() const {
  std::vector<float> out;
  for (auto const& c : channels_) {
    double const n = double(std::max<std::uint64_t>(c.count, 1));
    double const mean = (double(c.sum) / 255 + c.real_sum) / n;
    double const variance = (double(c.squares) / (255.0 * 255.0) + c.real_squares) / n - mean * mean;
    out.push_back(variance > 1e-12 ? float(std::sqrt(variance)) : 1.0f);
  }
  return out;
}

}  // namespace falconet::data
