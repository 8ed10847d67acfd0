// Data sets, pipelines and the loader: right values, the same bytes whatever the threads, and one clear line for bad input.
#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <optional>
#include <set>

#include "falconet/base/error.h"
#include "falconet/base/file.h"
#include "falconet/data/cifar.h"
#include "falconet/data/loader.h"
#include "falconet/data/mnist.h"
#include "error_text.h"

using namespace falconet;

namespace {

template <class F>
std::string error_of(F&& f, ErrorKind kind = ErrorKind::data) {
  return text_of_error(f, kind);
}

std::string const mnist_folder = FALCONET_SOURCE_DIR "/data/mnist";

class Counting : public data::Dataset {   // pixel i of sample n is n + i
 public:
  explicit Counting(std::int64_t size, std::int64_t broken = -1) : size_(size), broken_(broken) {}
  std::int64_t size() const override { return size_; }
  data::DataSpec const& spec() const override { return spec_; }
  void sample(std::int64_t index, data::Sample& out) const override {
    if (index == broken_) fail(ErrorKind::data, "sample " + std::to_string(index) + " is broken");
    auto pixels = out.bytes(2 * 3 * 4);
    for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = std::uint8_t(index + std::int64_t(i));
    out.label = int(index % 5);
  }

 private:
  std::int64_t size_, broken_;
  data::DataSpec spec_{{2, 3, 4}, {0.5f, 0.25f}, {0.5f, 2.0f}, {"a", "b", "c", "d", "e"}};
};

struct Copied {
  std::vector<float> images;
  std::vector<std::int32_t> labels;
  std::int32_t valid;
  std::int64_t epoch, index, sample;
  bool operator==(Copied const&) const = default;
};
Copied copy(data::Batch const& b) {
  return {{b.images.as<float>(), b.images.as<float>() + b.images.type.shape.elements()},
          {b.labels.as<std::int32_t>(), b.labels.as<std::int32_t>() + b.labels.type.shape.elements()},
          b.valid_count, b.epoch, b.index, b.sample};
}
std::vector<Copied> batches(data::Pipeline const& p, data::LoaderOptions o, int count) {
  data::Loader loader(p, o);
  std::vector<Copied> out;
  for (int i = 0; i < count; ++i) out.push_back(copy(loader.next()));
  return out;
}

class DataFiles : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/falconet_data_XXXXXX";
    folder = mkdtemp(name);
  }
  void TearDown() override { std::filesystem::remove_all(folder); }
  std::string path(std::string const& name) const { return folder + "/" + name; }

  static std::string idx(std::uint32_t magic, std::vector<std::uint32_t> sizes, std::string const& bytes) {
    std::string out;
    sizes.insert(sizes.begin(), magic);
    for (auto v : sizes)
      for (int shift = 24; shift >= 0; shift -= 8) out += char(v >> shift);
    return out + bytes;
  }
  void write_small_mnist() const {
    write_atomically(path("train-images-idx3-ubyte"), idx(0x803, {3, 2, 2}, std::string("\0\x40\x80\xff\1\2\3\4\5\6\7\x8", 12)));
    write_atomically(path("train-labels-idx1-ubyte"), idx(0x801, {3}, std::string("\0\1\x9", 3)));
    write_atomically(path("t10k-images-idx3-ubyte"), idx(0x803, {1, 2, 2}, "abcd"));
    write_atomically(path("t10k-labels-idx1-ubyte"), idx(0x801, {1}, "\3"));
  }
  static void gzip(std::string const& to, std::string const& text) {
    gzFile file = gzopen(to.c_str(), "wb");
    gzwrite(file, text.data(), unsigned(text.size()));
    gzclose(file);
  }
  std::string folder;
};

}  // namespace

TEST(Mnist, HoldsTheKnownImagesLabelsAndNormalisation) {
  auto const [train, test] = data::mnist(mnist_folder);
  EXPECT_EQ(train.size(), 60000);
  EXPECT_EQ(test.size(), 10000);
  EXPECT_EQ(train.spec(), test.spec());
  EXPECT_EQ(train.spec().image, (Shape{1, 28, 28}));
  EXPECT_NEAR(train.spec().mean[0], 0.13066048, 1e-7);
  EXPECT_NEAR(train.spec().std[0], 0.30810780, 1e-7);
  data::Sample s;
  int counts[10] = {};
  std::vector<int> first;
  for (int i = 0; i < 60000; ++i) {
    train.dataset().sample(i, s);
    ++counts[s.label];
    if (i < 10) first.push_back(s.label);
  }
  EXPECT_EQ(first, (std::vector<int>{5, 0, 4, 1, 9, 2, 1, 3, 1, 4}));
  EXPECT_TRUE(std::equal(counts, counts + 10, std::initializer_list<int>{5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949}.begin()));
  test.dataset().sample(0, s);
  EXPECT_EQ(s.label, 7);
  EXPECT_EQ(s.u8.size(), 784u);
  EXPECT_EQ(std::accumulate(s.u8.begin(), s.u8.end(), 0), 18454);
}

TEST_F(DataFiles, PlainAndGzippedAndJoinedGzipFilesGiveTheSame) {
  write_small_mnist();
  auto const images = read_file(path("train-images-idx3-ubyte"));
  std::string const text(images.text());
  gzip(path("z.gz"), text);
  gzip(path("one.gz"), text.substr(0, 9));
  gzip(path("two.gz"), text.substr(9));
  write_atomically(path("joined.gz"), std::string(read_file(path("one.gz")).text()) + std::string(read_file(path("two.gz")).text()));
  for (char const* name : {"train-images-idx3-ubyte", "z.gz", "joined.gz"}) {
    Tensor const t = data::read_idx_images(path(name));
    EXPECT_EQ(t.shape(), (Shape{3, 1, 2, 2}));
    EXPECT_EQ(std::string(t.as<char>(), 12), text.substr(16)) << name;
  }
}

TEST_F(DataFiles, BytesAfterAGzipStreamAreNamed) {
  write_small_mnist();
  gzip(path("z.gz"), std::string(read_file(path("train-images-idx3-ubyte")).text()));
  write_atomically(path("longer.gz"), std::string(read_file(path("z.gz")).text()) + "x");
  EXPECT_EQ(error_of([&] { data::read_idx_images(path("longer.gz")); }), path("longer.gz") + ": goes on after its end: what follows the gzip stream is no other one");
}

TEST_F(DataFiles, BadIdxFilesGetOneClearLine) {
  write_small_mnist();
  auto const image_file = path("train-images-idx3-ubyte"), label_file = path("train-labels-idx1-ubyte");
  auto with = [&](std::string const& file, std::string const& text, ErrorKind kind = ErrorKind::data) {
    auto const old = read_file(file);
    write_atomically(file, text);
    std::string const message = error_of([&] { data::mnist(folder); }, kind);
    write_atomically(file, old.text());
    return message;
  };
  EXPECT_EQ(error_of([&] { data::mnist(folder); }), "no error");
  EXPECT_EQ(with(image_file, ""), image_file + ": is empty");
  EXPECT_EQ(with(image_file, "abcdefgh"), image_file + ": is no IDX file of images: the magic number is 0x61626364, expected 0x00000803");
  EXPECT_EQ(with(image_file, std::string(read_file(label_file).text())),
            image_file + ": is no IDX file of images: the magic number is 0x00000801, expected 0x00000803");
  EXPECT_EQ(with(image_file, idx(0x803, {3}, "")), image_file + ": is cut off in its header of 16 bytes");
  EXPECT_EQ(with(image_file, idx(0x803, {3, 2, 2}, "12345678901")), image_file + ": is cut off: expected 3 images of 2x2");
  EXPECT_EQ(with(image_file, idx(0x803, {3, 2, 2}, "1234567890123")), image_file + ": goes on after its 3 images");
  EXPECT_EQ(with(image_file, idx(0x803, {~0u, ~0u, ~0u}, "1")), image_file + ": is cut off: its header promises more images than the file can hold");
  EXPECT_EQ(with(image_file, idx(0x803, {0, 2, 2}, "")), image_file + ": says that it holds no images");
  EXPECT_EQ(with(image_file, idx(0x803, {2, 2, 2}, "12345678")), label_file + ": 3 labels, but " + image_file + " holds 2 images");
  EXPECT_EQ(with(label_file, idx(0x801, {3}, std::string("\0\1\xA", 3))), label_file + ": label 2 is 10, expected 0 to 9");
  EXPECT_EQ(with(image_file, "\xFD" "7zXZ12345678"), image_file + ": is compressed with xz, expected a plain IDX file or .gz");
  EXPECT_EQ(with(image_file, "BZh12345678"), image_file + ": is compressed with bzip2, expected a plain IDX file or .gz");
  std::filesystem::remove(path("t10k-labels-idx1-ubyte"));
  EXPECT_EQ(error_of([&] { data::mnist(folder); }, ErrorKind::file),
            path("t10k-labels-idx1-ubyte") + ": there is no such file, and no t10k-labels-idx1-ubyte.gz either");
}

TEST_F(DataFiles, DamagedGzipFilesGetOneClearLine) {
  gzip(path("a"), idx(0x803, {10, 8, 8}, std::string(640, 'x')));
  std::string const good(read_file(path("a")).text());
  write_atomically(path("a"), good.substr(0, good.size() - 5));
  EXPECT_EQ(error_of([&] { data::read_idx_images(path("a")); }), path("a") + ": is cut off: the gzip stream does not end");
  auto damaged = good;
  damaged[damaged.size() - 6] ^= 1;   // in the CRC
  write_atomically(path("a"), damaged);
  EXPECT_EQ(error_of([&] { data::read_idx_images(path("a")); }), path("a") + ": is damaged: the gzip stream says \"incorrect data check\"");
}

TEST_F(DataFiles, CifarRecordsAreReadWithChannelsInnermost) {
  std::string records;
  for (int r = 0; r < 3; ++r) {
    records += char(r + 4);
    for (int plane = 0; plane < 3; ++plane)
      for (int i = 0; i < 1024; ++i) records += char(i * 3 + plane + r);
  }
  write_atomically(path("a.bin"), records);
  auto const batch = data::read_cifar_batch(path("a.bin"));
  EXPECT_EQ(batch.labels, (std::vector<std::uint8_t>{4, 5, 6}));
  ASSERT_EQ(batch.pixels.size(), 3u * 3072);
  for (std::size_t r = 0; r < 3; ++r)
    for (std::size_t i = 0; i < 3072; ++i) ASSERT_EQ(batch.pixels[r * 3072 + i], std::uint8_t(i + r));
  auto refusal = [&](std::string const& text) {
    write_atomically(path("a.bin"), text);
    return error_of([&] { data::read_cifar_batch(path("a.bin")); }).substr(path("a.bin").size() + 2);
  };
  EXPECT_EQ(refusal(""), "is empty");
  EXPECT_EQ(refusal(records.substr(0, 6000)), "is cut off or no CIFAR-10 file: 2927 bytes after 1 records of 3073");
  records[3073] = 10;
  EXPECT_EQ(refusal(records), "label 1 is 10, expected 0 to 9");
  EXPECT_NE(refusal(std::string("\xFD" "7zXZ\0abcdefgh", 14)), "no error");
  EXPECT_EQ(error_of([&] { data::cifar10(folder); }, ErrorKind::file),
            path("data_batch_1.bin") + ": there is no such file, and no data_batch_1.bin.xz either");
}

TEST(Cifar10, HoldsTheKnownImagesLabelsAndNormalisation) {
  char const* named = std::getenv("FALCONET_DATA");
  std::string const folder = (named ? std::string(named) : FALCONET_SOURCE_DIR "/../shared/data") + "/cifar-10";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is not there";
  std::optional<data::Split> split;
  try {
    split = data::cifar10(folder);
  } catch (Error const& e) {
    if (e.message.find("without liblzma") != std::string::npos) GTEST_SKIP() << e.what();
    throw;
  }
  EXPECT_EQ(split->train.size(), 50000);
  EXPECT_EQ(split->test.size(), 10000);
  auto const& spec = split->train.spec();
  EXPECT_EQ(spec, split->test.spec());
  float const mean[] = {.49139968f, .48215841f, .44653091f}, std[] = {.24703223f, .24348513f, .26158784f};
  for (std::size_t c = 0; c < 3; ++c) {
    EXPECT_NEAR(spec.mean[c], mean[c], 1e-7);
    EXPECT_NEAR(spec.std[c], std[c], 1e-7);
  }
  EXPECT_EQ(spec.labels[6], "frog");
  int counts[10] = {};
  data::Sample s;
  for (int i = 0; i < 50000; ++i) {
    split->train.dataset().sample(i, s);
    ++counts[s.label];
    if (i == 0) {
      EXPECT_EQ(spec.labels[std::size_t(s.label)], "frog");
      EXPECT_EQ(std::vector(s.u8.begin(), s.u8.begin() + 6), (std::vector<std::uint8_t>{59, 62, 63, 43, 46, 45}));
    }
  }
  for (int count : counts) EXPECT_EQ(count, 5000);
}

TEST(InMemory, ComputesNormalisationAndTakesEitherLayout) {
  Tensor images({DType::u8, {2, 2, 1, 3}}), labels({DType::i32, {2}});
  for (int i = 0; i < 12; ++i) images.as<std::uint8_t>()[i] = std::uint8_t(i * 20);
  labels.as<std::int32_t>()[0] = 2;
  labels.as<std::int32_t>()[1] = 0;
  auto const p = data::in_memory(std::move(images), std::move(labels));
  EXPECT_EQ(p.spec().labels, (std::vector<std::string>{"0", "1", "2"}));
  EXPECT_FLOAT_EQ(p.spec().mean[0], (0 + 20 + 40 + 120 + 140 + 160) / 6 / 255.0f);
  EXPECT_FLOAT_EQ(p.spec().mean[1], (60 + 80 + 100 + 180 + 200 + 220) / 6 / 255.0f);
  EXPECT_NEAR(p.spec().std[0], std::sqrt((80. * 80 + 60 * 60 + 40 * 40) * 2 / 6) / 255, 1e-6);
  data::Sample s;
  p.dataset().sample(1, s);
  EXPECT_EQ(std::vector(s.u8.begin(), s.u8.end()), (std::vector<std::uint8_t>{120, 180, 140, 200, 160, 220}));
  EXPECT_EQ(s.label, 0);

  Tensor floats({DType::f32, {1, 2, 1, 2}, Layout::nhwc}), one({DType::i32, {1}});
  for (int i = 0; i < 4; ++i) floats.as<float>()[i] = float(i);
  one.as<std::int32_t>()[0] = 0;
  auto const q = data::in_memory(std::move(floats), std::move(one), {{2, 1, 2}, {0, 1}, {1, 2}, {"only"}});
  auto const b = batches(q, {.batch = 1}, 1);
  EXPECT_EQ(b[0].images, (std::vector<float>{0, 0, 2, 1}));
}

TEST(InMemory, TensorsThatDoNotFitGetOneClearLine) {
  auto with = [](TensorType images, TensorType labels, int label) {
    Tensor i(images), l(labels);
    std::fill_n(i.as<char>(), images.bytes(), 0);
    for (std::int64_t k = 0; k < labels.shape.elements() && labels.dtype == DType::i32; ++k) l.as<std::int32_t>()[k] = label;
    return error_of([&] { data::in_memory(std::move(i), std::move(l), {{1, 2, 2}, {0}, {1}, {"x", "y"}}); });
  };
  EXPECT_EQ(with({DType::u8, {2, 1, 2, 2}}, {DType::i32, {2}}, 1), "no error");
  EXPECT_EQ(with({DType::u8, {2, 1, 2, 2}}, {DType::i32, {3}}, 1), "there are 2 images, but 3 labels");
  EXPECT_EQ(with({DType::u8, {2, 1, 2, 2}}, {DType::i32, {2}}, 2), "label 0 is 2, expected 0 to 1");
  EXPECT_EQ(with({DType::u8, {2, 1, 2, 2}}, {DType::i32, {2}}, -1), "label 0 is -1, expected 0 to 1");
  EXPECT_EQ(with({DType::u8, {2, 1, 2, 3}}, {DType::i32, {2}}, 0), "images are 1x2x3, but the data set's are 1x2x2");
  EXPECT_EQ(with({DType::i32, {2, 1, 2, 2}}, {DType::i32, {2}}, 0), "images are i32[2x1x2x2], expected u8 or f32 [N,C,H,W]");
  EXPECT_EQ(with({DType::u8, {2, 1, 2, 2}}, {DType::u8, {2}}, 0), "labels are u8[2], expected i32 [N]");
}

TEST(Pipelines, ShuffleTakeAndSubsetSelectSamplesInOrder) {
  std::vector<std::uint32_t> order, other;
  data::Pipeline const all = Counting(100);
  (all | data::subset(10, 20) | data::take(3)).order(order, 1, 0);
  EXPECT_EQ(order, (std::vector<std::uint32_t>{10, 11, 12}));
  auto const shuffled = all | data::take(50) | data::shuffle();
  shuffled.order(order, 1, 0);
  shuffled.order(other, 1, 1);
  EXPECT_EQ(order.size(), 50u);
  EXPECT_NE(order, other);
  shuffled.order(other, 2, 0);
  EXPECT_NE(order, other);
  shuffled.order(other, 1, 0);
  EXPECT_EQ(order, other);
  std::sort(order.begin(), order.end());
  for (std::uint32_t i = 0; i < 50; ++i) EXPECT_EQ(order[i], i);
  EXPECT_EQ((all | data::take(1000)).size(), 100);
  EXPECT_EQ((all | data::subset(90, 1000)).size(), 10);
  EXPECT_EQ((all | data::shuffle() | data::random_crop(4) | data::random_flip()).text(), "shuffle random_crop(4) random_flip");
  EXPECT_EQ(error_of([&] { all | data::subset(100, 200); }), "subset(100,200) leaves nothing of 100 samples");
  EXPECT_EQ(error_of([&] { all | data::take(0); }, ErrorKind::usage), "take(0): expected at least 1 sample");
}

TEST(Pipelines, ASampleIsDrawnEvenlyBySeedAndLeavesTheOthers) {
  std::vector<std::uint32_t> order, other;
  data::Pipeline const all = Counting(1003);
  for (std::int64_t count : {1, 7, 100, 502, 1002, 1003, 5000}) {
    auto const some = all | data::sample_evenly(count, 3);
    some.order(order, 1, 0);
    some.order(other, 2, 5);
    EXPECT_EQ(order, other) << "only its own seed decides";
    auto const kept = std::min<std::int64_t>(count, 1003);
    ASSERT_EQ(some.size(), kept);
    ASSERT_EQ(std::int64_t(order.size()), kept);
    for (std::int64_t part = 0; part < kept; ++part) {
      EXPECT_GE(order[std::size_t(part)], part * 1003 / kept);
      EXPECT_LT(order[std::size_t(part)], (part + 1) * 1003 / kept);
    }
    if (kept == 1003) continue;
    auto const rest = all | data::without_sample(count, 3);
    rest.order(other, 1, 0);
    EXPECT_EQ(std::int64_t(other.size()), rest.size());
    EXPECT_TRUE(std::is_sorted(other.begin(), other.end()));
    order.insert(order.end(), other.begin(), other.end());
    std::sort(order.begin(), order.end());
    for (std::uint32_t i = 0; i < 1003; ++i) ASSERT_EQ(order[i], i);
  }
  (all | data::sample_evenly(100, 3)).order(order, 1, 0);
  (all | data::sample_evenly(100, 4)).order(other, 1, 0);
  EXPECT_NE(order, other);
  EXPECT_EQ(error_of([&] { all | data::without_sample(2000, 1); }), "without_sample(2000) leaves nothing of 1003 samples");
  EXPECT_EQ(error_of([&] { all | data::sample_evenly(0, 1); }, ErrorKind::usage), "sample_evenly(0): expected at least 1 sample");
}

TEST(Pipelines, RandomCropShiftsByUpToThePaddingAndFillsWithBlack) {
  data::Pipeline const p = Counting(400) | data::random_crop(2);
  data::Sample s;
  std::set<std::pair<int, int>> seen;
  for (int n = 100; n < 400; ++n) {   // find the shift that explains each image
    p.sample(n, 1, 0, s);
    int matches = 0;
    for (int down = -2; down <= 2; ++down)
      for (int right = -2; right <= 2; ++right) {
        bool same = true;
        for (int y = 0; y < 3; ++y)
          for (int x = 0; x < 4; ++x)
            for (int c = 0; c < 2; ++c) {
              int const sy = y - down, sx = x - right;
              bool const inside = sy >= 0 && sy < 3 && sx >= 0 && sx < 4;
              same &= s.u8[std::size_t((y * 4 + x) * 2 + c)] == (inside ? std::uint8_t(n + (sy * 4 + sx) * 2 + c) : 0);
            }
        if (same) ++matches, seen.insert({down, right});
      }
    EXPECT_GE(matches, 1) << n;
  }
  EXPECT_EQ(seen.size(), 25u);
}

TEST(Pipelines, RandomFlipMirrorsAboutHalfOfTheImages) {
  data::Pipeline const p = Counting(100) | data::random_flip();
  data::Sample s;
  int flipped = 0;
  for (int n = 0; n < 100; ++n) {
    p.sample(n, 1, 5, s);
    bool const flip = s.u8[0] != n;
    flipped += flip;
    for (int y = 0; y < 3; ++y)
      for (int x = 0; x < 4; ++x)
        for (int c = 0; c < 2; ++c) ASSERT_EQ(s.u8[std::size_t((y * 4 + x) * 2 + c)], n + (y * 4 + (flip ? 3 - x : x)) * 2 + c);
  }
  EXPECT_GT(flipped, 30);
  EXPECT_LT(flipped, 70);
}

TEST(Pipelines, ATransformOfOnesOwnIsALambda) {
  data::Pipeline const p =
      Counting(3) | data::Transform{.name = "invert", .alter = [](data::Pixels x, RandomBits) { for (auto& v : x.u8) v = 255 - v; }};
  data::Sample s;
  p.sample(2, 1, 0, s);
  EXPECT_EQ(s.u8[0], 253);
  EXPECT_EQ(p.text(), "invert");
}

TEST(Loader, BatchesAreNormalisedAndTheLastIsPadded) {
  auto const b = batches(Counting(5), {.batch = 3}, 3);
  EXPECT_EQ(b[0].valid, 3);
  EXPECT_EQ(b[1].valid, 2);
  EXPECT_EQ(b[2].epoch, 1);
  EXPECT_EQ(b[1].sample, 3);
  EXPECT_EQ(b[2].sample, 5);
  EXPECT_EQ(b[1].labels, (std::vector<std::int32_t>{3, 4, 0}));
  for (int row = 0; row < 3; ++row)
    for (int i = 0; i < 24; ++i) {
      float const mean = i % 2 ? 0.25f : 0.5f, std = i % 2 ? 2.0f : 0.5f;
      float const expected = row == 2 ? 0.0f : (float(3 + row + i) / 255 - mean) / std;
      EXPECT_NEAR(b[1].images[std::size_t(row * 24 + i)], expected, 1e-6);
    }
  EXPECT_EQ(b[0].images, b[2].images);
  auto const dropped = batches(Counting(5), {.batch = 3, .drop_last = true}, 2);
  EXPECT_EQ(dropped[1].epoch, 1);
  EXPECT_EQ(dropped[1].valid, 3);
}

TEST(Loader, GivesTheSameBytesWhateverTheThreadsAndWhereverItStarts) {
  data::Pipeline const p = Counting(103) | data::shuffle() | data::random_crop(1) | data::random_flip();
  auto const expected = batches(p, {.batch = 10, .seed = 5, .threads = 0}, 40);
  for (int threads : {0, 1, 2, 5})
    for (int ahead : {1, 2, 7}) {
      EXPECT_EQ(batches(p, {.batch = 10, .seed = 5, .threads = threads, .ahead = ahead}, 40), expected) << threads << " " << ahead;
      auto const later = batches(p, {.batch = 10, .seed = 5, .threads = threads, .ahead = ahead, .epoch = 1, .index = 7}, 22);
      EXPECT_TRUE(std::equal(later.begin(), later.end(), expected.begin() + 18));
    }
  EXPECT_NE(batches(p, {.batch = 10, .seed = 6}, 1), batches(p, {.batch = 10, .seed = 5}, 1));
  EXPECT_NE(expected[0].images, expected[11].images);
}

TEST(Loader, SeekGoesOnFromAnywhereAndAnEndIsAnEnd) {
  data::Pipeline const p = Counting(50) | data::shuffle();
  auto const expected = batches(p, {.batch = 8}, 14);
  for (int threads : {0, 1, 3}) {
    data::Loader loader(p, {.batch = 8, .threads = threads, .epochs = 2});
    for (int round = 0; round < 20; ++round) {
      int const start = round * 5 % 14;
      loader.seek(start / 7, start % 7);
      for (int i = start; i < std::min(14, start + round); ++i) ASSERT_EQ(copy(loader.next()), expected[std::size_t(i)]);
    }
    loader.seek(2, 0);
    EXPECT_EQ(error_of([&] { loader.next(); }, ErrorKind::internal), "the loader was asked for more than 2 epochs");
  }
}

TEST(Loader, AnErrorInTheThreadSurfacesInNextAtItsBatch) {
  for (int threads : {0, 1, 3}) {
    data::Loader loader(Counting(30, 17), {.batch = 5, .threads = threads});
    for (int i = 0; i < 3; ++i) loader.next();
    EXPECT_EQ(error_of([&] { loader.next(); }), "sample 17 is broken");
    EXPECT_EQ(copy(loader.next()).index, 4);
  }
}

TEST(Loader, BadSamplesAndOptionsGetOneClearLine) {
  class Odd : public Counting {
   public:
    explicit Odd(int what) : Counting(3), what_(what) {}
    void sample(std::int64_t index, data::Sample& out) const override {
      Counting::sample(index, out);
      if (what_ == 0) out.bytes(7);
      if (what_ == 1) out.label = 5;
    }
    int what_;
  };
  EXPECT_EQ(error_of([&] { batches(Odd(0), {.batch = 2}, 1); }), "sample 0 has 7 pixel values, expected 24 (2x3x4)");
  EXPECT_EQ(error_of([&] { batches(Odd(1), {.batch = 2}, 1); }), "sample 0 has label 5, expected 0 to 4");
  EXPECT_EQ(error_of([&] { data::Loader(Counting(3), {.batch = 0}); }, ErrorKind::usage), "batch is 0, expected at least 1");
  EXPECT_EQ(error_of([&] { data::Loader(Counting(3), {.batch = 4, .drop_last = true}); }, ErrorKind::usage),
            "batch is 4, but there are only 3 samples");
  EXPECT_EQ(error_of([&] { data::Loader(Counting(3), {.batch = 2, .index = 3}); }, ErrorKind::usage),
            "the loader cannot start at epoch 0, batch 3: an epoch has 2 batches");
}

TEST(Loader, CanBeDestroyedAtAnyMoment) {
  for (int i = 0; i < 50; ++i) {
    data::Loader loader(Counting(30) | data::shuffle(), {.batch = 5, .threads = 1 + i % 3});
    for (int k = 0; k < i % 4; ++k) loader.next();
  }
}
