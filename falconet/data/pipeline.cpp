#include "falconet/data/pipeline.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "falconet/base/error.h"
#include "falconet/base/format.h"

namespace falconet::data {

void check(DataSpec const& spec) {
  auto const& image = spec.image;
  if (image.rank() != 3 || image[0] < 1 || image[1] < 1 || image[2] < 1)
    fail(ErrorKind::data, format("a data set's images are {}, expected three sizes C, H, W", image.text()));
  auto const channels = std::size_t(image[0]);
  if (spec.mean.size() != channels || spec.std.size() != channels)
    fail(ErrorKind::data, format("a data set has {} means and {} standard deviations for {} channels", spec.mean.size(), spec.std.size(), channels));
  for (float s : spec.std)
    if (!(s > 0)) fail(ErrorKind::data, format("a data set's standard deviation is {}, expected more than 0", s));
}

std::span<std::uint8_t> Sample::bytes(std::size_t count) {
  own_u8_.resize(count);
  u8 = own_u8_;
  f32 = {};
  return own_u8_;
}

std::span<float> Sample::floats(std::size_t count) {
  own_f32_.resize(count);
  f32 = own_f32_;
  u8 = {};
  return own_f32_;
}

namespace {

// Moves the image by (down, right) in place; what comes in is zero.
template <class T>
void shift(std::span<T> pixels, int height, int width, int channels, int down, int right) {
  std::ptrdiff_t const row = std::ptrdiff_t(width) * channels;
  std::ptrdiff_t const kept = std::max<std::ptrdiff_t>(0, width - std::abs(right)) * channels;
  std::ptrdiff_t const from = std::max(0, -right) * channels, to = std::max(0, right) * channels;
  for (int step = 0; step < height; ++step) {
    int const y = down > 0 ? height - 1 - step : step;   // rows not yet read must not be overwritten
    int const source = y - down;
    T* out = pixels.data() + y * row;
    if (source < 0 || source >= height || kept == 0) {
      std::fill(out, out + row, T{});
      continue;
    }
    std::memmove(out + to, pixels.data() + source * row + from, std::size_t(kept) * sizeof(T));
    std::fill(out, out + to, T{});
    std::fill(out + to + kept, out + row, T{});
  }
}

template <class T>
void mirror(std::span<T> pixels, int height, int width, int channels) {
  for (int y = 0; y < height; ++y) {
    T* row = pixels.data() + std::ptrdiff_t(y) * width * channels;
    for (int left = 0, right = width - 1; left < right; ++left, --right)
      std::swap_ranges(row + left * channels, row + (left + 1) * channels, row + right * channels);
  }
}

// Keeps the samples that Transform::drawn says.
void draw_evenly(std::vector<std::uint32_t>& order, Transform const& t) {
  auto const all = std::uint64_t(order.size()), count = std::min(std::uint64_t(t.drawn), all);
  auto const key = random_key(t.seed, hash("data.sample"));
  std::size_t kept = 0;
  for (std::uint64_t part = 0; part < count; ++part) {
    auto const begin = part * all / count, end = (part + 1) * all / count;
    auto const bits = draw(key, 0, part);
    auto const chosen = begin + bounded(wide_bits(bits.word[0], bits.word[1]), std::uint32_t(end - begin));
    if (!t.others) order[kept++] = order[chosen];
    else
      for (auto i = begin; i < end; ++i)
        if (i != chosen) order[kept++] = order[i];
  }
  order.resize(kept);
}

}  // namespace

Transform shuffle() { return {.name = "shuffle", .shuffles = true}; }

Transform take(std::int64_t count) {
  if (count < 1) fail(ErrorKind::usage, format("take({}): expected at least 1 sample", count));
  return {.name = format("take({})", count), .end = count};
}

Transform subset(std::int64_t begin, std::int64_t end) {
  if (begin < 0 || end <= begin) fail(ErrorKind::usage, format("subset({}, {}): expected 0 <= begin < end", begin, end));
  return {.name = format("subset({},{})", begin, end), .begin = begin, .end = end};
}

Transform sample_evenly(std::int64_t count, std::uint64_t seed) {
  if (count < 1) fail(ErrorKind::usage, format("sample_evenly({}): expected at least 1 sample", count));
  return {.name = format("sample_evenly({})", count), .drawn = count, .seed = seed};
}

Transform without_sample(std::int64_t count, std::uint64_t seed) {
  if (count < 1) fail(ErrorKind::usage, format("without_sample({}): expected at least 1 sample", count));
  return {.name = format("without_sample({})", count), .drawn = count, .seed = seed, .others = true};
}

Transform random_crop(int padding) {
  if (padding < 0 || padding > 1 << 20) fail(ErrorKind::usage, format("random_crop({}): expected a padding of 0 or more pixels", padding));
  return {.name = format("random_crop({})", padding), .alter = [padding](Pixels p, RandomBits bits) {
            auto const positions = std::uint32_t(2 * padding + 1);
            int const down = int(bounded(wide_bits(bits.word[0], bits.word[1]), positions)) - padding;
            int const right = int(bounded(wide_bits(bits.word[2], bits.word[3]), positions)) - padding;
            if (!p.u8.empty()) shift(p.u8, p.height, p.width, p.channels, down, right);
            if (!p.f32.empty()) shift(p.f32, p.height, p.width, p.channels, down, right);
          },
          .kind = Transform::crop,
          .padding = padding};
}

Transform random_flip() {
  return {.name = "random_flip", .alter = [](Pixels p, RandomBits bits) {
            if (bits.word[0] >> 31) return;
            if (!p.u8.empty()) mirror(p.u8, p.height, p.width, p.channels);
            if (!p.f32.empty()) mirror(p.f32, p.height, p.width, p.channels);
          },
          .kind = Transform::flip};
}

RandomKey alter_key(std::uint64_t seed, std::size_t place) { return random_key(seed, hash("data.alter") + place); }

Pipeline::Pipeline(std::shared_ptr<Dataset const> dataset) : dataset_(std::move(dataset)), size_(dataset_->size()) {
  check(dataset_->spec());
  if (size_ < 1) fail(ErrorKind::data, "a data set has no samples");
  if (size_ > std::int64_t(UINT32_MAX)) fail(ErrorKind::data, format("a data set has {} samples, expected at most {}", size_, UINT32_MAX));
}

Pipeline operator|(Pipeline pipeline, Transform transform) {
  auto const drawn = std::min(transform.drawn, pipeline.size_);
  auto const end = drawn == 0 ? std::min(transform.end, pipeline.size_) : transform.others ? pipeline.size_ - drawn : drawn;
  if (transform.begin >= end) fail(ErrorKind::data, format("{} leaves nothing of {} samples", transform.name, pipeline.size_));
  pipeline.size_ = end - transform.begin;
  pipeline.transforms_.push_back(std::move(transform));
  return pipeline;
}

std::string Pipeline::text() const {
  std::string out;
  for (auto const& t : transforms_) out += (out.empty() ? "" : " ") + t.name;
  return out;
}

void Pipeline::order(std::vector<std::uint32_t>& order, std::uint64_t seed, std::int64_t epoch) const {
  order.resize(std::size_t(dataset_->size()));
  std::iota(order.begin(), order.end(), 0u);
  for (std::size_t place = 0; place < transforms_.size(); ++place) {
    auto const& t = transforms_[place];
    if (t.shuffles) falconet::shuffle(order, random_key(seed, hash("data.shuffle") + place), std::uint64_t(epoch));
    if (t.drawn > 0) draw_evenly(order, t);
    if (t.end < std::int64_t(order.size())) order.resize(std::size_t(t.end));
    if (t.begin > 0) order.erase(order.begin(), order.begin() + t.begin);
  }
}

void Pipeline::sample(std::int64_t index, std::uint64_t seed, std::int64_t epoch, Sample& out) const {
  out.u8 = {};
  out.f32 = {};
  dataset_->sample(index, out);
  auto const& [image, mean, std, labels] = dataset_->spec();
  auto const values = std::size_t(image.elements());
  if (out.u8.size() + out.f32.size() != values)
    fail(ErrorKind::data, format("sample {} has {} pixel values, expected {} ({})", index, out.u8.size() + out.f32.size(), values, image.text()));
  if (out.label < 0 || (!labels.empty() && out.label >= std::int64_t(labels.size())))
    fail(ErrorKind::data, format("sample {} has label {}, expected 0 to {}", index, out.label, std::int64_t(labels.size()) - 1));
  Pixels pixels{int(image[1]), int(image[2]), int(image[0]), {}, {}};
  for (std::size_t place = 0; place < transforms_.size(); ++place) {
    auto const& t = transforms_[place];
    if (!t.alter) continue;
    if (pixels.u8.empty() && pixels.f32.empty()) {   // the data set's own memory must not be altered
      if (auto const from = out.u8; !from.empty()) {
        pixels.u8 = out.bytes(values);
        if (from.data() != pixels.u8.data()) std::copy(from.begin(), from.end(), pixels.u8.begin());
      } else {
        auto const floats = out.f32;
        pixels.f32 = out.floats(values);
        if (floats.data() != pixels.f32.data()) std::copy(floats.begin(), floats.end(), pixels.f32.begin());
      }
    }
    t.alter(pixels, draw(alter_key(seed, place), std::uint64_t(epoch), std::uint64_t(index)));
  }
}

}  // namespace falconet::data
