// Pixels to what a network reads: (pixel - mean) / std per channel; and the mean and std of a training set.
#pragma once
#include "falconet/data/dataset.h"

namespace falconet::data {

class Normaliser {
 public:
  explicit Normaliser(DataSpec const& spec);
  // pixels and out: any number of whole pixels, channels innermost (H, W, C).
  void operator()(std::span<std::uint8_t const> pixels, float* out) const;   // 0..255
  void operator()(std::span<float const> pixels, float* out) const;          // 0..1
  // The same for others to compute, each operation rounded by itself: bytes are pixel * scale + shift, the others (pixel - mean) / std.
  struct Channel {
    float scale, shift, mean, std;
  };
  Channel channel(std::size_t c) const { return {scale_[c], shift_[c], mean_[c], std_[c]}; }

 private:
  std::size_t block_;                 // 16 pixels, so that the loops over it have a fixed length
  std::vector<float> mean_, std_;     // of length block_, pixels of 0..1
  std::vector<float> scale_, shift_;  // of length block_, pixels of 0..255
};

// Sums over pixels with channels innermost. Whole numbers are summed exactly, so the order of the calls does not matter for them.
class ChannelStatistics {
 public:
  explicit ChannelStatistics(int channels);
  void add(std::span<std::uint8_t const> pixels);   // 0..255
  void add(std::span<float const> pixels);          // 0..1
  std::vector<float> mean() const;                  // of pixels scaled to 0..1
  std::vector<float> std() const;                   // of the population; 1 for a channel that does not vary

 private:
  struct Sums {
    std::uint64_t count = 0, sum = 0, squares = 0;
    double real_sum = 0, real_squares = 0;
  };
  std::vector<Sums> channels_;
};

}  // namespace falconet::data
