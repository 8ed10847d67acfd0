// Every file parser survives damage: cut at each offset, thousands of seeded bit flips, and bytes made up. What comes out is a
// valid result or a falconet::Error of one line; the sanitizer presets run this too.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include <cstring>
#include <functional>

#include "falconet/base/checksum.h"
#include "falconet/base/error.h"
#include "falconet/base/file.h"
#include "falconet/base/random.h"
#include "falconet/data/cifar.h"
#include "falconet/data/image.h"
#include "falconet/data/mnist.h"
#include "falconet/io/checkpoint.h"
#include "falconet/io/safetensors.h"
#include "falconet/nn/models.h"
#include "falconet/train/model_file.h"

using namespace falconet;

namespace {

// A file in memory, to be rewritten thousands of times.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(memfd_create("fuzz", MFD_CLOEXEC)) {}
  ~MemoryFile() { close(descriptor_); }
  void write(std::string_view text) {
    ASSERT_EQ(ftruncate(descriptor_, 0), 0);
    ASSERT_EQ(pwrite(descriptor_, text.data(), text.size(), 0), ssize_t(text.size()));
  }
  std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

using Parser = std::function<void(std::string const& path)>;

class Fuzzer {
 public:
  explicit Fuzzer(Parser parser) : parser_(std::move(parser)) {}

  bool accepts(std::string_view text) {
    file_.write(text);
    try {
      parser_(file_.path());
      return true;
    } catch (Error const& e) {
      std::string const what = e.what();
      EXPECT_FALSE(what.empty());
      EXPECT_EQ(what.find('\n'), std::string::npos) << what;
      EXPECT_NE(e.kind, ErrorKind::internal) << what;
      EXPECT_NE(e.kind, ErrorKind::usage) << what;
    } catch (std::exception const& e) {
      ADD_FAILURE() << "not a falconet::Error: " << e.what();
    }
    return false;
  }

  // damaged_may_pass: whether a flipped bit can leave a valid file (there is no checksum over all of it).
  void run(std::string const& good, bool damaged_may_pass) {
    ASSERT_TRUE(accepts(good));
    std::size_t const stride = std::max<std::size_t>(1, good.size() / 1500);
    for (std::size_t size = 0; size < good.size(); size += stride) EXPECT_FALSE(accepts(good.substr(0, size))) << "cut to " << size << " bytes";
    int passed = 0;
    for (std::uint64_t round = 0; round < 4000; ++round) {
      std::string text = good;
      auto const bits = draw(random_key(1, hash("fuzz.flip")), round, 0);
      int const flips = 1 + int(bits.word[3] % 4);
      for (int k = 0; k < flips; ++k) {
        auto const place = draw(random_key(1, hash("fuzz.place")), round, std::uint64_t(k));
        // Every second round stays in the first bytes, where the headers are.
        auto const range = std::uint32_t(round % 2 ? std::min<std::size_t>(good.size(), 64) : good.size());
        text[bounded(wide_bits(place.word[0], place.word[1]), range)] ^= char(1 << place.word[2] % 8);
      }
      if (text != good) passed += accepts(text);
    }
    if (!damaged_may_pass) {
      EXPECT_EQ(passed, 0);
    }
    for (std::uint64_t round = 0; round < 500; ++round) {   // a good start and a random rest; a rest that is moved, doubled or gone
      auto const place = draw(random_key(2, hash("fuzz.rest")), round, 0);
      std::size_t const cut = bounded(wide_bits(place.word[0], place.word[1]), std::uint32_t(good.size()));
      std::string text = good.substr(0, cut);
      for (std::uint32_t i = 0; i < place.word[2] % 200; ++i) text += char(draw(random_key(3, round), 0, i).word[0]);
      if (place.word[3] & 1) text += good.substr(cut);
      accepts(text);
    }
  }

 private:
  Parser parser_;
  MemoryFile file_;
};

std::string number(std::uint32_t v) { return {char(v >> 24), char(v >> 16), char(v >> 8), char(v)}; }

std::string noise(std::size_t size, std::uint64_t seed) {
  std::string out(size, '\0');
  for (std::size_t i = 0; i < size; ++i) out[i] = char(draw(random_key(seed, 0), 0, i).word[0]);
  return out;
}

std::string gzipped(std::string const& text) {
  std::string out(text.size() + 200, '\0');
  z_stream stream{};
  deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = uInt(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = uInt(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string written(std::function<void(std::string const&)> const& write) {
  char name[] = "/tmp/falconet_fuzz_XXXXXX";
  int const descriptor = mkstemp(name);
  close(descriptor);
  write(name);
  std::string text(read_file(name).text());
  unlink(name);
  return text;
}

void fuzz_image(std::string const& name) {
  Fuzzer([](std::string const& path) {
    auto const image = data::read_image(path);
    ASSERT_EQ(image.pixels.size(), std::size_t(image.height) * std::size_t(image.width) * std::size_t(image.channels));
    ASSERT_TRUE(image.height > 0 && image.width > 0 && image.channels >= 1 && image.channels <= 4);
  }).run(std::string(read_file(FALCONET_SOURCE_DIR "/tests/data/images/" + name).text()), true);
}

}  // namespace

TEST(Fuzz, IdxImages) {
  Fuzzer(data::read_idx_images).run(number(0x803) + number(5) + number(7) + number(3) + noise(105, 1), true);
}

TEST(Fuzz, IdxLabels) {
  Fuzzer(data::read_idx_labels).run(number(0x801) + number(300) + noise(300, 1), true);
}

TEST(Fuzz, GzippedIdxImages) {
  std::string pixels = noise(5 * 8 * 8, 2);
  for (char& c : pixels) c = char(c & 3);
  Fuzzer(data::read_idx_images).run(gzipped(number(0x803) + number(5) + number(8) + number(8) + pixels), true);   // name and time are not checked
}

TEST(Fuzz, CifarRecords) {
  std::string good;
  for (int i = 0; i < 2; ++i) good += char(i) + noise(3072, std::uint64_t(i));
  Fuzzer fuzzer([](std::string const& path) {
    auto const batch = data::read_cifar_batch(path);
    ASSERT_EQ(batch.pixels.size(), batch.labels.size() * 3072);
    for (int label : batch.labels) ASSERT_LT(label, 10);
  });
  EXPECT_TRUE(fuzzer.accepts(good.substr(0, 3073)));   // a whole record is a file: cuts are tried on one alone
  fuzzer.run(good.substr(0, 3073), true);
}

TEST(Fuzz, Safetensors) {
  Tensor f({DType::f32, {3, 2}}), u({DType::u8, {5}}), e({DType::f64, {0, 4}});
  std::memset(f.as<void>(), 1, f.type().bytes());
  std::memset(u.as<void>(), 2, u.type().bytes());
  io::NamedView const views[] = {{"layer1.0.weight", f.view()}, {"u", u.view()}, {"empty", e.view()}};
  auto const good = written([&](std::string const& path) { io::write_safetensors(path, views, {{"format", "pt"}, {"labels", "a\nb"}}); });
  Fuzzer fuzzer([](std::string const& path) {
    for (auto const& [name, tensor] : io::read_safetensors(path).tensors) ASSERT_GE(tensor.type().bytes(), 0u) << name;
  });
  fuzzer.run(good, true);
  // Whole tokens of the header exchanged: numbers that are too large, negative, of another kind; nesting without end.
  std::uint64_t length = 0;
  std::memcpy(&length, good.data(), 8);
  std::string const header = good.substr(8, length), rest = good.substr(8 + length);
  auto with_header = [&](std::string const& text) {
    std::uint64_t const size = text.size();
    return std::string(reinterpret_cast<char const*>(&size), 8) + text + rest;
  };
  EXPECT_TRUE(fuzzer.accepts(with_header(header)));
  for (std::string const from : {"0", "24", "[3,2]", "\"F32\"", "{", ":"})
    for (std::string const to : {"18446744073709551615", "9223372036854775807", "-1", "1e30", "null", "[]", "{}", "\"\"", "[[[[[[[["}) {
      std::string text = header;
      auto const at = text.find(from);
      ASSERT_NE(at, std::string::npos) << from;
      EXPECT_FALSE(fuzzer.accepts(with_header(text.replace(at, from.size(), to)))) << from << " to " << to;
    }
  std::uint64_t const deep = 100000;
  EXPECT_FALSE(fuzzer.accepts(std::string(reinterpret_cast<char const*>(&deep), 8) + std::string(deep, '[')));
  EXPECT_FALSE(fuzzer.accepts(std::string(reinterpret_cast<char const*>(&deep), 8) + std::string(deep / 2, '[') + std::string(deep / 2, ']')));
}

TEST(Fuzz, MetadataOfModelFiles) {   // crafted sizes must not overflow, and must not be believed before the weights agree
  auto const& lenet = models::find("lenet5");
  Model const model({lenet.image, {0.5f}, {0.25f}, std::vector<std::string>(10, "class")}, lenet.make(10), {.device = "cpu", .threads = 1});
  std::vector<io::NamedView> tensors;
  for (auto const& e : model.parameters()->entries()) tensors.push_back({e.name, e.tensor.view()});
  std::map<std::string, std::string> const good = {{"falconet.model", "lenet5"}, {"falconet.image", "1x28x28"}, {"falconet.mean", "0.5"},
                                                   {"falconet.std", "0.25"}, {"falconet.labels", "0\n1\n2\n3\n4\n5\n6\n7\n8\n9"}};
  Fuzzer fuzzer([](std::string const& path) {
    try {
      load_model(path, {.device = "cpu", .threads = 1});
    } catch (Error const& e) {
      EXPECT_TRUE(e.message.starts_with(path)) << e.message;   // the file is named
      throw;
    }
  });
  auto accepts = [&](std::string const& key, std::string const& value) {
    auto metadata = good;
    metadata["falconet." + key] = value;
    return fuzzer.accepts(written([&](std::string const& path) { io::write_safetensors(path, tensors, metadata); }));
  };
  EXPECT_TRUE(accepts("model", "lenet5"));
  for (std::string const image :
       {"", "x", "scalar", "28x28", "1x28", "0x28x28", "1x0x28", "-1x28x28", "-1x-28x28", "1x28x28x1", "1x40x28", "3x28x28", "1x1x1", "1x3000000000x3000000000",
        "1x4294967324x28", "1x9223372036854775807x9223372036854775807", "4611686018427387904x2x2", "1x65536x65536", "1x65537x28", "9223372036854775808x1x1",
        "1x28x28x", "1x28x", "1e9x28x28", "1x1x1x1x1x1x1x1"})
    EXPECT_FALSE(accepts("image", image)) << image;
  for (std::string const model_name : {"", "lenet", "resnet20", "mnist_cnn"}) EXPECT_FALSE(accepts("model", model_name)) << model_name;
  for (std::string const text : {"", "0.5 0.5", "0.5 0.5 0.5", "abc", "0,5", "0.5x"}) {
    EXPECT_FALSE(accepts("mean", text));
    EXPECT_FALSE(accepts("std", text));
  }
  EXPECT_FALSE(accepts("labels", ""));
  EXPECT_FALSE(accepts("labels", std::string(200000, '\n')));
}

TEST(Fuzz, ShapesThatOverflow) {
  for (char const* text : {"3000000000x3000000000x3000000000", "9223372036854775807x2", "72057594037927936", "2x-1", "-4x-4"}) {
    Shape const shape = Shape::parse(text);
    try {
      (void)shape.elements();
      ADD_FAILURE() << text;
    } catch (Error const& e) {
      EXPECT_EQ(int(e.kind), int(ErrorKind::usage));
      EXPECT_NE(e.message.find(text), std::string::npos) << e.message;
    }
  }
  EXPECT_EQ((Shape{0, 1 << 20, 1 << 20}).elements(), 0);
  EXPECT_EQ((Shape{1 << 20, 1 << 20}).elements(), std::int64_t(1) << 40);
}

TEST(Fuzz, Checkpoints) {
  Tensor f({DType::f32, {3, 2, 1, 2}, Layout::nhwc}), u({DType::u8, {5}});
  std::memset(f.as<void>(), 1, f.type().bytes());
  std::memset(u.as<void>(), 2, u.type().bytes());
  auto const good = written([&](std::string const& path) {
    io::write_checkpoint(path, {{{"w", f.view()}, {"u", u.view()}}, {{"plan", "some text"}, {"", ""}}, {{"step", 7}}});
  });
  Fuzzer([](std::string const& path) { io::read_checkpoint(path); }).run(good, false);
}

TEST(Fuzz, CheckpointsWhoseChecksumIsRight) {   // damage that the checksum does not find must not crash either
  Tensor f({DType::f32, {3, 2, 1, 2}, Layout::nhwc});
  std::memset(f.as<void>(), 1, f.type().bytes());
  auto good = written([&](std::string const& path) { io::write_checkpoint(path, {{{"w", f.view()}}, {{"plan", "some text"}}, {{"step", 7}}}); });
  Fuzzer fuzzer([](std::string const& path) { io::read_checkpoint(path); });
  for (std::size_t bit = 24 * 8; bit < (good.size() - 8) * 8; ++bit) {
    auto text = good;
    text[bit / 8] ^= char(1 << bit % 8);
    std::uint64_t const crc = crc64(std::as_bytes(std::span(text)).first(text.size() - 8));
    text.replace(text.size() - 8, 8, reinterpret_cast<char const*>(&crc), 8);
    fuzzer.accepts(text);
  }
}

TEST(Fuzz, Png) {
  if (!data::can_decode_png()) GTEST_SKIP() << "built without libpng";
  for (char const* name : {"rgb8.png", "palette_alpha.png", "gray16.png", "interlaced.png", "gray1.png"}) {
    SCOPED_TRACE(name);
    fuzz_image(name);
  }
}

TEST(Fuzz, PngWhoseChecksumsAreRight) {
  if (!data::can_decode_png()) GTEST_SKIP() << "built without libpng";
  for (char const* name : {"rgb8.png", "palette_alpha.png", "interlaced.png"}) {
    std::string const good(read_file(std::string(FALCONET_SOURCE_DIR "/tests/data/images/") + name).text());
    Fuzzer fuzzer([](std::string const& path) { data::read_image(path); });
    for (std::uint64_t round = 0; round < 4000; ++round) {
      std::string text = good;
      auto const place = draw(random_key(4, hash(name)), round, 0);
      auto const range = std::uint32_t(round % 2 ? 80 : good.size() - 8);
      text[8 + bounded(wide_bits(place.word[0], place.word[1]), range)] ^= char(1 << place.word[2] % 8);
      for (std::size_t at = 8; at + 12 <= text.size();) {   // chunks: length, name, data, CRC of name and data
        std::size_t length = 0;
        for (int i = 0; i < 4; ++i) length = length << 8 | static_cast<unsigned char>(text[at + std::size_t(i)]);
        if (length > text.size() - at - 12) break;
        auto const crc = number(std::uint32_t(crc32(0, reinterpret_cast<Bytef const*>(text.data() + at + 4), uInt(length + 4))));
        text.replace(at + 8 + length, 4, crc);
        at += 12 + length;
      }
      fuzzer.accepts(text);
    }
  }
}

TEST(Fuzz, Jpeg) {
  if (!data::can_decode_jpeg()) GTEST_SKIP() << "built without libjpeg";
  for (char const* name : {"rgb420.jpg", "progressive.jpg", "gray.jpg", "cmyk.jpg"}) {
    SCOPED_TRACE(name);
    fuzz_image(name);
  }
}
