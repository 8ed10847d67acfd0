// Single images: read from PNG and JPEG files, resized, and made into what a model reads.
#pragma once
#include "falconet/data/dataset.h"

namespace falconet::data {

struct Image {
  int height = 0, width = 0, channels = 0;   // channels: 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha
  std::vector<std::uint8_t> pixels;          // H, W, C
};

// Reads a PNG or JPEG file, told apart by their first bytes. Error{data} names the file and what is wrong with it; a file that
// ends early is refused. 16-bit PNGs are reduced to 8 bits, palettes are resolved, CMYK JPEGs become RGB. EXIF orientation is not applied.
Image read_image(std::string const& path);
// The same for bytes in memory; `name` stands for them in errors.
Image decode_image(std::span<std::byte const> bytes, std::string const& name);
Image decode_jpeg(std::span<std::byte const> bytes, std::string const& name);
Image decode_png(std::span<std::byte const> bytes, std::string const& name);
bool can_decode_jpeg();                      // whether falconet was built with libjpeg; if not, decode_jpeg refuses
bool can_decode_png();

// antialiased: the triangle filter widens when the image shrinks, as in Pillow's BILINEAR and torchvision's antialias=True.
// bilinear: the four nearest pixels whatever the scale, as in OpenCV's INTER_LINEAR and torch's align_corners=False.
enum class Filter : std::uint8_t { antialiased, bilinear };
Image resize(Image const& image, int height, int width, Filter filter = Filter::antialiased);
// The largest centred part of the wanted shape, resized: nothing is distorted, the longer side loses its ends.
Image resize_and_crop(Image const& image, int height, int width, Filter filter = Filter::antialiased);

// Gray to RGB by repetition, RGB to gray by ITU-R 601 luma, alpha dropped: Pillow's convert(). channels: 1 or 3.
Image with_channels(Image const& image, int channels);

// What a model of this spec reads, prepared as image_folder does by default: converted, resized and cropped, normalised into
// `out`, H*W*C floats in H, W, C order.
void prepare(Image const& image, DataSpec const& spec, std::span<float> out);

}  // namespace falconet::data
