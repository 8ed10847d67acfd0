#include "falconet/data/image.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "falconet/base/error.h"
#include "falconet/base/file.h"
#include "falconet/base/format.h"
#include "falconet/data/normalise.h"

namespace falconet::data {
namespace {

// One axis of a resize: output i is the sum over k < count[i] of weight[i * most + k] * input first[i] + k.
struct Taps {
  int most = 0;
  std::vector<int> first, count;
  std::vector<float> weight;
};

Taps taps(int from, int to, Filter filter) {
  double const scale = double(from) / to;
  double const width = filter == Filter::antialiased ? std::max(scale, 1.0) : 1.0;   // half the foot of the triangle, in input pixels
  Taps out;
  out.most = int(std::ceil(width)) * 2 + 1;
  out.weight.resize(std::size_t(to) * std::size_t(out.most));
  for (int i = 0; i < to; ++i) {
    double centre = (i + 0.5) * scale;
    if (filter == Filter::bilinear) centre = std::clamp(centre, 0.5, from - 0.5);   // the border is repeated
    int const begin = std::max(0, int(centre - width + 0.5)), end = std::min({from, int(centre + width + 0.5), begin + out.most});
    float* weight = out.weight.data() + std::size_t(i) * std::size_t(out.most);
    double sum = 0;
    for (int k = begin; k < end; ++k) sum += std::max(0.0, 1 - std::abs(k + 0.5 - centre) / width);
    for (int k = begin; k < end; ++k) weight[k - begin] = float(std::max(0.0, 1 - std::abs(k + 0.5 - centre) / width) / sum);
    out.first.push_back(begin);
    out.count.push_back(end - begin);
  }
  return out;
}

std::uint8_t rounded(float v) { return std::uint8_t(std::clamp(v + 0.5f, 0.0f, 255.0f)); }

// Resizes the part of the image from (top, left) of the given size: first along the rows, then down the columns.
Image resize_part(Image const& image, int top, int left, int part_height, int part_width, int height, int width, Filter filter) {
  if (height < 1 || width < 1 || image.height < 1 || image.width < 1)
    fail(ErrorKind::usage, format("an image of {}x{} cannot be resized to {}x{}", image.height, image.width, height, width));
  auto const channels = std::size_t(image.channels), row = std::size_t(width) * channels;
  Taps const across = taps(part_width, width, filter), down = taps(part_height, height, filter);
  std::vector<float> rows(std::size_t(part_height) * row);
  for (int y = 0; y < part_height; ++y) {
    auto const* in = image.pixels.data() + (std::size_t(top + y) * std::size_t(image.width) + std::size_t(left)) * channels;
    float* out = rows.data() + std::size_t(y) * row;
    for (int x = 0; x < width; ++x) {
      float const* weight = across.weight.data() + std::size_t(x) * std::size_t(across.most);
      auto const* from = in + std::size_t(across.first[std::size_t(x)]) * channels;
      for (int k = 0; k < across.count[std::size_t(x)]; ++k)
        for (std::size_t c = 0; c < channels; ++c) out[std::size_t(x) * channels + c] += weight[k] * float(from[std::size_t(k) * channels + c]);
    }
  }
  Image out{height, width, image.channels, std::vector<std::uint8_t>(std::size_t(height) * row)};
  std::vector<float> sums(row);
  for (int y = 0; y < height; ++y) {
    std::fill(sums.begin(), sums.end(), 0.0f);
    float const* weight = down.weight.data() + std::size_t(y) * std::size_t(down.most);
    for (int k = 0; k < down.count[std::size_t(y)]; ++k) {
      float const* from = rows.data() + std::size_t(down.first[std::size_t(y)] + k) * row;
      for (std::size_t i = 0; i < row; ++i) sums[i] += weight[k] * from[i];
    }
    std::transform(sums.begin(), sums.end(), out.pixels.begin() + std::ptrdiff_t(std::size_t(y) * row), rounded);
  }
  return out;
}

}  // namespace

Image read_image(std::string const& path) { return decode_image(read_file(path).bytes(), path); }

Image decode_image(std::span<std::byte const> bytes, std::string const& name) {
  auto starts_with = [&](std::string_view magic) { return bytes.size() >= magic.size() && std::memcmp(bytes.data(), magic.data(), magic.size()) == 0; };
  if (starts_with("\xFF\xD8")) return decode_jpeg(bytes, name);
  if (starts_with("\x89PNG")) return decode_png(bytes, name);
  fail(ErrorKind::data, name + (bytes.empty() ? ": is empty, expected a PNG or JPEG image" : ": is neither a PNG nor a JPEG image"));
}

Image resize(Image const& image, int height, int width, Filter filter) {
  if (image.height == height && image.width == width) return image;
  return resize_part(image, 0, 0, image.height, image.width, height, width, filter);
}

Image resize_and_crop(Image const& image, int height, int width, Filter filter) {
  if (image.height == height && image.width == width) return image;
  std::int64_t const wide = std::int64_t(image.width) * height, high = std::int64_t(image.height) * width;
  int const part_width = wide > high ? std::max(1, int((high + height / 2) / std::max(height, 1))) : image.width;
  int const part_height = high > wide ? std::max(1, int((wide + width / 2) / std::max(width, 1))) : image.height;
  int const top = (image.height - part_height) / 2, left = (image.width - part_width) / 2;
  return resize_part(image, top, left, part_height, part_width, height, width, filter);
}

Image with_channels(Image const& image, int channels) {
  if (channels != 1 && channels != 3) fail(ErrorKind::usage, format("an image can have 1 or 3 channels, not {}", channels));
  if (image.channels == channels) return image;
  std::size_t const area = std::size_t(image.height) * std::size_t(image.width);
  Image out{image.height, image.width, channels, std::vector<std::uint8_t>(area * std::size_t(channels))};
  auto const* in = image.pixels.data();
  auto* to = out.pixels.data();
  for (std::size_t i = 0; i < area; ++i, in += image.channels, to += channels) {
    if (image.channels >= 3 && channels == 3) std::copy(in, in + 3, to);
    else if (image.channels >= 3) *to = std::uint8_t((in[0] * 19595u + in[1] * 38470u + in[2] * 7471u + 0x8000u) >> 16);
    else std::fill(to, to + channels, in[0]);
  }
  return out;
}

void prepare(Image const& image, DataSpec const& spec, std::span<float> out) {
  check(spec);
  if (std::int64_t(out.size()) != spec.image.elements())
    fail(ErrorKind::internal, format("an image of {} values is to be prepared in {}", spec.image.elements(), out.size()));
  Image const fitted = resize_and_crop(with_channels(image, int(spec.image[0])), int(spec.image[1]), int(spec.image[2]));
  Normaliser{spec}(std::span<std::uint8_t const>(fitted.pixels), out.data());
}

}  // namespace falconet::data
