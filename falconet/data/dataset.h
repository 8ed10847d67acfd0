// What a data set is. A data set of one's own derives from Dataset and says size, spec and sample; everything else (shuffling,
// augmentation, batches, normalisation) comes with `|` and the Loader:
//
//   class Stripes : public data::Dataset {
//    public:
//     std::int64_t size() const override { return 1000; }
//     data::DataSpec const& spec() const override { return spec_; }
//     void sample(std::int64_t index, data::Sample& out) const override {
//       auto pixels = out.bytes(16 * 16);
//       for (int i = 0; i < 256; ++i) pixels[i] = (index % 2 ? i % 16 : i / 16) % 2 * 255;
//       out.label = int(index % 2);
//     }
//    private:
//     data::DataSpec spec_{{1, 16, 16}, {0.5f}, {0.5f}, {"horizontal", "vertical"}};
//   };
//   data::Pipeline train = Stripes() | data::shuffle();
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "falconet/tensor/image_spec.h"
#include "falconet/tensor/tensor.h"

namespace falconet::data {

using DataSpec = ImageSpec;
// Throws Error{data} unless the shape has three positive sizes and mean and std have one (positive, for std) value per channel.
void check(DataSpec const&);

// One image and its class. Exactly one of u8 and f32 is set; both lie in H, W, C order.
struct Sample {
  std::span<std::uint8_t const> u8;   // 0..255
  std::span<float const> f32;         // 0..1
  int label = 0;

  // Memory of the sample itself, kept from one sample to the next: fill it, and u8 (or f32) refers to it. A data set that has
  // its pixels in memory anyway sets u8 or f32 to them instead, which saves a copy.
  std::span<std::uint8_t> bytes(std::size_t count);
  std::span<float> floats(std::size_t count);

 private:
  std::vector<std::uint8_t> own_u8_;
  std::vector<float> own_f32_;
};

class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual std::int64_t size() const = 0;
  virtual DataSpec const& spec() const = 0;
  // Called from several threads at a time. Throw Error{data} where a sample cannot be read; the Loader passes it on.
  virtual void sample(std::int64_t index, Sample& out) const = 0;
};

}  // namespace falconet::data
