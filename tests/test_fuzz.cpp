// Every parser of files and of lines of text survives damage: cut at each offset, thousands of seeded bit flips, and bytes made up. What comes out is a
// valid result or a falconet::Error of one line; the sanitizer presets run this too.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include <cstring>
#include <filesystem>
#include <functional>

#include "falconet/base/checksum.h"
#include "falconet/base/error.h"
#include "falconet/base/file.h"
#include "falconet/base/random.h"
#include "falconet/base/settings.h"
#include "falconet/data/cifar.h"
#include "falconet/data/image.h"
#include "falconet/data/mnist.h"
#include "falconet/io/checkpoint.h"
#include "falconet/io/safetensors.h"
#include "falconet/nn/models.h"
#include "falconet/ops/algorithms.h"
#include "falconet/ops/problem_list.h"
#include "falconet/plan/plan.h"
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
  // usage: whether mistakes in the text are the user's, as in a settings file.
  explicit Fuzzer(Parser parser, bool usage = false) : parser_(std::move(parser)), usage_(usage) {}

  bool accepts(std::string_view text) {
    file_.write(text);
    try {
      parser_(file_.path());
      return true;
    } catch (Error const& e) {
      std::string const what = e.what();
      EXPECT_FALSE(what.empty()) << "of: " << text;
      EXPECT_EQ(what.find('\n'), std::string::npos) << what;
      EXPECT_NE(e.kind, ErrorKind::internal) << what;
      if (!usage_) {
        EXPECT_NE(e.kind, ErrorKind::usage) << what;
      }
    } catch (std::exception const& e) {
      ADD_FAILURE() << "not a falconet::Error: " << e.what();
    }
    return false;
  }

  // damaged_may_pass: whether a flipped bit can leave a valid file (there is no checksum over all of it); cut_may_pass: whether its
  // beginning can be one (text of lines).
  void run(std::string const& good, bool damaged_may_pass, bool cut_may_pass = false) {
    ASSERT_TRUE(accepts(good));
    for (std::size_t size = 0; size < good.size(); ++size)
      if (accepts(good.substr(0, size)) && !cut_may_pass) ADD_FAILURE() << "accepted, cut to " << size << " bytes";
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
  bool usage_;
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

TEST(Fuzz, CifarRecordsPackedWithXz) {   // a record of label 7, whose byte i is i / 256
  std::string_view const digits =
      "fd377a585a000004e6d6b4460200210116000000742fe5a3e00c0000235d0003803b2da8aef32e6b8d506f5b7771c9dc3a9a868ccb2bbef1e56c221fda7e9d3e"
      "2b0000001f4534e6869a17d200013f8118000000f787522fb1c467fb020000000004595a";
  std::string good;
  for (std::size_t i = 0; i < digits.size(); i += 2) good += char(std::stoi(std::string(digits.substr(i, 2)), nullptr, 16));
  Fuzzer fuzzer([](std::string const& path) {
    auto const batch = data::read_cifar_batch(path);
    ASSERT_EQ(batch.labels, std::vector<std::uint8_t>{7});
    ASSERT_EQ(batch.pixels.size(), 3072u);
    for (std::size_t i = 0; i < 3072; ++i) ASSERT_EQ(batch.pixels[i], (1 + i % 3 * 1024 + i / 3) / 256);
  });
  if (!fuzzer.accepts(good)) GTEST_SKIP() << "built without liblzma";
  fuzzer.run(good, true);   // a few bits change nothing that is read; what does, breaks a checksum
}

TEST(Fuzz, SettingsFiles) {
  Fuzzer([](std::string const& path) { Settings("train").read_toml(read_file(path).text(), "fuzz.toml", SettingSource::config, "config fuzz.toml"); }, true)
      .run("# a comment\nmodel = \"mnist_cnn\"\nbatch = 64\nlr = 3e-3\nschedule = 'step'\n[pin]\nconv1 = \"direct:tile=4\"\n\"fc.1:bwd_data\" = \"reference\"\n",
           true, true);
}

TEST(Fuzz, Plans) {
  Fuzzer([](std::string const& path) {
    Plan const plan = Plan::parse(read_file(path).text());
    ASSERT_EQ(Plan::parse(plan.text()), plan);
  }).run("falconet plan 1\tcuda:1\tmemory 4096\ninput\timages\t@0:f32[2x1x8x8]nhwc\noutput\tloss\t@64:f32[scalar]\n"
         "step\tconv1\tfwd\tconv\tfwd n2 c1 hw8 k4 rs3 f32 nhwc\tdirect:tile=4\t@0:f32[2x1x8x8]nhwc $conv1.weight:f32[4x1x3x3]nhwc @512:bf16[2x4x6x6]nhwc\t1024+256\t1\t\n"
         "prepare\tbn1\tfwd\tbatch_norm\tfunction=fold c=4 per_sample=9\treference\t$conv1.weight:f32[4x1x3x3]nhwc @64:f32[4]\t0+0\t0\t\n"
         "pack\tconv1\tfwd\tconv\tfwd n2 c1 hw8 k4 rs3 f32 nhwc\tdirect\t@0:f32[2x1x8x8]nhwc\t0+0 1024+256\t0\t\n"
         "step\tfc\tbwd_data\tgemm\tm=2 n=3 k=4\treference\t@0:f32[2x4]\t0+0\t0\t0,12\n",
         true, true);
}

TEST(Fuzz, ProblemsOfEveryOperation) {   // as a list, a plan or the command line gives them
  for (auto operation : operations_with_algorithms()) {
    SCOPED_TRACE(operation);
    std::vector<std::string> lists;
    for (auto const& entry : std::filesystem::directory_iterator(std::string(FALCONET_SOURCE_DIR "/problems/") + std::string(operation)))
      if (entry.path().extension() == ".txt") lists.push_back(entry.path().string());
    ASSERT_FALSE(lists.empty());
    std::string longest;
    for (auto const& list : lists)
      for (auto const& problem : read_problem_list(list))
        if (problem.size() > longest.size()) longest = problem;
    if (operation == "conv") longest = "bwd_filter n2 c6 h9 w7 k4 r3 s5 p0.1.2.3 st2.1 d1.2 g2 bf16,f32,bf16 nchw load_x=scale_shift+relu load_dy=two_operand+max_unpool2 store=bias";
    auto const& table = algorithms_of(operation);
    Fuzzer([&](std::string const& path) {
      for (auto const& problem : problem_lines(read_file(path).text())) {
        (void)table.operands(problem);
        (void)table.operations(problem);
      }
    }, true).run("# one\n" + longest + "\n" + longest + "  # the same\n", true, true);
  }
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
