// Weights and checkpoints come back bit for bit, open in the Python safetensors package, and damage anywhere is found and said.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "falconet/base/error.h"
#include "falconet/base/file.h"
#include "falconet/base/random.h"
#include "falconet/io/checkpoint.h"
#include "falconet/tensor/bf16.h"
#include "error_text.h"

using namespace falconet;

namespace {

template <class F>
std::string error_of(F&& f, ErrorKind kind = ErrorKind::data) {
  return text_of_error(f, kind);
}

class WeightFiles : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/falconet_weights_XXXXXX";
    folder = mkdtemp(name);
    file = folder + "/weights";
  }
  void TearDown() override { std::filesystem::remove_all(folder); }

  static Tensor random(TensorType type, std::uint64_t seed) {
    Tensor t(type);
    for (std::size_t i = 0; i < type.bytes(); ++i) t.as<std::uint8_t>()[i] = std::uint8_t(draw(random_key(seed, 0), 0, i).word[0] & 0x3F);
    return t;
  }
  static std::string bytes_of(Tensor const& t) { return {t.as<char>(), t.type().bytes()}; }

  // A safetensors file of this header and so many bytes of data.
  void write_raw(std::string const& header, std::size_t data) const {
    std::uint64_t const length = header.size();
    std::string text(reinterpret_cast<char const*>(&length), 8);
    write_atomically(file, text + header + std::string(data, '\1'));
  }
  std::string refusal(std::string const& header, std::size_t data) const {
    write_raw(header, data);
    std::string const message = error_of([&] { io::read_safetensors(file); });
    return message.starts_with(file + ": ") ? message.substr(file.size() + 2) : message;
  }
  void write(std::string const& text) const {   // anew, for some file systems wait for the disk when a file is cut to nothing
    std::filesystem::remove(file);
    std::ofstream(file, std::ios::binary) << text;
  }
  std::string folder, file;
};

}  // namespace

TEST_F(WeightFiles, SafetensorsComeBackBitForBit) {
  std::vector<Tensor> tensors;
  std::vector<io::NamedView> views;
  for (auto dtype : {DType::u8, DType::f64, DType::bf16, DType::f32, DType::i32})
    for (auto const& shape : {Shape{}, Shape{3}, Shape{2, 3, 5}, Shape{0, 4}, Shape{2, 3, 2, 2}}) {
      tensors.push_back(random({dtype, shape}, tensors.size()));
      views.push_back({"t." + std::to_string(tensors.size()) + " \"quoted\" é", tensors.back().view()});
    }
  io::write_safetensors(file, views, {{"format", "pt"}, {"labels", "cat\ndog"}});
  auto const back = io::read_safetensors(file);
  EXPECT_EQ(back.metadata, (std::map<std::string, std::string>{{"format", "pt"}, {"labels", "cat\ndog"}}));
  ASSERT_EQ(back.tensors.size(), tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    auto const& t = back.tensors.at(views[i].name);
    EXPECT_EQ(t.type(), tensors[i].type());
    EXPECT_EQ(bytes_of(t), bytes_of(tensors[i]));
  }
  std::uint64_t header = 0;
  std::memcpy(&header, read_file(file).memory.get(), 8);
  EXPECT_EQ(header % 8, 0u);
}

TEST_F(WeightFiles, NhwcWeightsAreWrittenInPytorchsOrder) {
  Tensor const w = random({DType::f32, {4, 3, 2, 5}, Layout::nhwc}, 1);
  Tensor logical({DType::f32, {4, 3, 2, 5}});
  convert(w.view(), logical.view());
  io::NamedView const views[] = {{"w", w.view()}};
  io::write_safetensors(file, views);
  EXPECT_EQ(bytes_of(io::read_safetensors(file).tensors.at("w")), bytes_of(logical));
}

TEST_F(WeightFiles, HalfPrecisionAndLongIntegersAreRead) {
  std::string const header = R"({"h":{"dtype":"F16","shape":[6],"data_offsets":[0,12]},"l":{"dtype":"I64","shape":[],"data_offsets":[12,20]}})";
  std::uint64_t const length = header.size();
  std::uint16_t const halves[] = {0x3C00, 0xC000, 0x0001, 0x7BFF, 0x7C00, 0x83FF};
  std::int64_t wide = -7;
  auto write = [&] {
    write_atomically(file, std::string(reinterpret_cast<char const*>(&length), 8) + header +
                               std::string(reinterpret_cast<char const*>(halves), 12) + std::string(reinterpret_cast<char const*>(&wide), 8));
  };
  write();
  auto const back = io::read_safetensors(file);
  auto const* h = back.tensors.at("h").as<float>();
  EXPECT_EQ(h[0], 1.0f);
  EXPECT_EQ(h[1], -2.0f);
  EXPECT_EQ(h[2], 0x1p-24f);
  EXPECT_EQ(h[3], 65504.0f);
  EXPECT_EQ(h[4], INFINITY);
  EXPECT_EQ(h[5], -0x3FFp-24f);
  EXPECT_EQ(back.tensors.at("l").as<std::int32_t>()[0], -7);
  wide = 1ll << 40;
  write();
  EXPECT_EQ(error_of([&] { io::read_safetensors(file); }), file + ": tensor 'l' holds 1099511627776, which does not fit a 32-bit integer");
}

TEST_F(WeightFiles, SafetensorsThatDoNotFitGetOneClearLine) {
  auto one = [](std::string const& dtype, std::string const& shape, std::string const& offsets) {
    return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
  };
  EXPECT_EQ(refusal(one("F32", "[2]", "[0,8]"), 8), "no error");
  EXPECT_EQ(refusal("{}", 0), "no error");
  EXPECT_EQ(refusal(one("F32", "[2]", "[0,8]"), 9), "holds 9 bytes of data, but its tensors need 8");
  EXPECT_EQ(refusal(one("F32", "[2]", "[0,8]"), 7), "tensor 'a' does not lie within the 7 bytes of data");
  EXPECT_EQ(refusal(one("F32", "[2]", "[1,9]"), 9), "tensor 'a' begins at byte 1 of the data, expected 0");
  EXPECT_EQ(refusal(one("F32", "[2]", "[8,0]"), 8), "tensor 'a' does not lie within the 8 bytes of data");
  EXPECT_EQ(refusal(one("F32", "[2]", "[0]"), 8), "tensor 'a' does not lie within the 8 bytes of data");
  EXPECT_EQ(refusal(one("F32", "[3]", "[0,8]"), 8), "tensor 'a' has 8 bytes of data, which does not fit its shape and element type F32");
  EXPECT_EQ(refusal(one("F32", "[4611686018427387904,4]", "[0,0]"), 0),
            "tensor 'a' has 0 bytes of data, which does not fit its shape and element type F32");
  EXPECT_EQ(refusal(one("F32", "[-2]", "[0,8]"), 8), "tensor 'a': expected a list of whole numbers under \"shape\"");
  EXPECT_EQ(refusal(one("F32", "[1,1,1,1,1,1,2]", "[0,8]"), 8), "tensor 'a' has 7 axes, expected at most 6");
  EXPECT_EQ(refusal(one("F8_E4M3", "[2]", "[0,2]"), 2), "tensor 'a' has element type F8_E4M3, expected one of F64 F32 BF16 F16 I32 I64 U8");
  EXPECT_EQ(refusal(R"({"a":5})", 0), "tensor 'a': expected an object with \"dtype\", \"shape\" and \"data_offsets\"");
  EXPECT_EQ(refusal(R"({"__metadata__":{"a":1}})", 0), "__metadata__ 'a' is no string");
  EXPECT_EQ(refusal("[]", 0), "is no safetensors file: its header is no JSON object");
  EXPECT_EQ(refusal("{\"a\":", 0), "is no safetensors file: its header is no valid JSON");
  EXPECT_EQ(refusal(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", 2),
            "the header names 'a' twice");
  EXPECT_EQ(refusal(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})", 3),
            "tensor 'b' begins at byte 1 of the data, expected 2");
  write_atomically(file, "abc");
  EXPECT_EQ(error_of([&] { io::read_safetensors(file); }), file + ": is cut off: expected a header");
  write_atomically(file, std::string(8, '\xFF') + "{}");
  EXPECT_EQ(error_of([&] { io::read_safetensors(file); }),
            file + ": is no safetensors file: its header would have 18446744073709551615 bytes");
  write_atomically(file, std::string("\x9\0\0\0\0\0\0\0{}", 10));
  EXPECT_EQ(error_of([&] { io::read_safetensors(file); }), file + ": is cut off or no safetensors file: its header should have 9 bytes");
  EXPECT_EQ(error_of([&] { io::read_safetensors(folder + "/none"); }, ErrorKind::file), folder + "/none: cannot be opened: No such file or directory");
  Tensor const t({DType::u8, {1}});
  io::NamedView const twice[] = {{"a", t.view()}, {"a", t.view()}};
  EXPECT_EQ(error_of([&] { io::write_safetensors(file, twice); }, ErrorKind::usage), file + ": two tensors would be named 'a'");
  io::NamedView const bad[] = {{"\xFF", t.view()}};
  EXPECT_EQ(error_of([&] { io::write_safetensors(file, bad); }, ErrorKind::usage), file + ": a name or a text for it is not UTF-8");
}

TEST_F(WeightFiles, ThePythonPackageReadsAndWritesTheSame) {
  char const* named = std::getenv("FALCONET_PYTHON");
  std::string const python = named ? named : "python3";
  if (std::system((python + " -c 'import safetensors.numpy, numpy' >/dev/null 2>&1").c_str()) != 0)
    GTEST_SKIP() << "no Python with safetensors and numpy; FALCONET_PYTHON may name one";
  Tensor const f = random({DType::f32, {2, 3, 4, 5}, Layout::nhwc}, 1), u = random({DType::u8, {7}}, 2), d = random({DType::f64, {}}, 3);
  io::NamedView const views[] = {{"u", u.view()}, {"layer1.0.weight", f.view()}, {"d", d.view()}};
  io::write_safetensors(file, views, {{"format", "pt"}});
  std::string const script = "import safetensors.numpy as s, safetensors, sys\n"
                             "t = s.load_file(sys.argv[1])\n"
                             "assert safetensors.safe_open(sys.argv[1], 'np').metadata() == {'format': 'pt'}\n"
                             "assert t['layer1.0.weight'].shape == (2, 3, 4, 5) and t['d'].shape == () and t['u'].dtype == 'uint8'\n"
                             "s.save_file(t, sys.argv[1] + '.back', {'a': 'b'})\n";
  write_atomically(folder + "/script.py", script);
  ASSERT_EQ(std::system((python + " " + folder + "/script.py " + file).c_str()), 0);
  auto const back = io::read_safetensors(file + ".back"), mine = io::read_safetensors(file);
  EXPECT_EQ(back.metadata, (std::map<std::string, std::string>{{"a", "b"}}));
  ASSERT_EQ(back.tensors.size(), 3u);
  for (auto const& [name, tensor] : back.tensors) EXPECT_EQ(bytes_of(tensor), bytes_of(mine.tensors.at(name))) << name;
}

TEST_F(WeightFiles, CheckpointsComeBackBitForBit) {
  Tensor const w = random({DType::f32, {4, 3, 2, 5}, Layout::nhwc}, 1), large = random({DType::u8, {3 << 20}}, 2), none({DType::f64, {0}});
  io::write_checkpoint(file, {{{"w", w.view()}, {"large", large.view()}, {"none", none.view()}},
                              {{"plan", std::string("a\0b\n", 4)}, {"", ""}},
                              {{"step", -5}, {"seed", INT64_MAX}}});
  auto const c = io::read_checkpoint(file);
  EXPECT_EQ(c.tensor("w").type(), w.type());
  EXPECT_EQ(bytes_of(c.tensor("w")), bytes_of(w));
  EXPECT_EQ(bytes_of(c.tensor("large")), bytes_of(large));
  EXPECT_EQ(c.tensor("none").shape(), Shape{0});
  EXPECT_EQ(c.text("plan"), std::string("a\0b\n", 4));
  EXPECT_EQ(c.text(""), "");
  EXPECT_EQ(c.integer("step"), -5);
  EXPECT_EQ(c.integer("seed"), INT64_MAX);
  EXPECT_EQ(error_of([&] { c.tensor("x"); }), "the checkpoint has no tensor 'x'");
  io::write_checkpoint(file, {});
  EXPECT_TRUE(io::read_checkpoint(file).tensors.empty());
}

TEST_F(WeightFiles, EveryFlippedBitAndEveryCutOfACheckpointIsFound) {
  Tensor const w = random({DType::f32, {2, 3}}, 1);
  io::write_checkpoint(file, {{{"w", w.view()}}, {{"plan", "text"}}, {{"step", 3}}});
  std::string const good(read_file(file).text());
  for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
    auto damaged = good;
    damaged[bit / 8] = char(damaged[bit / 8] ^ 1 << bit % 8);
    write(damaged);
    ASSERT_NE(error_of([&] { io::read_checkpoint(file); }), "no error") << bit;
  }
  for (std::size_t size = 0; size < good.size(); ++size) {
    write(good.substr(0, size));
    ASSERT_NE(error_of([&] { io::read_checkpoint(file); }), "no error") << size;
  }
  write(good + "x");
  EXPECT_EQ(error_of([&] { io::read_checkpoint(file); }),
            file + ": is cut off or damaged: it has " + std::to_string(good.size() + 1) + " bytes, expected " + std::to_string(good.size()));
  auto damaged = good;
  damaged[good.size() - 12] ^= 1;
  write(damaged);
  EXPECT_EQ(error_of([&] { io::read_checkpoint(file); }), file + ": is damaged: its checksum does not match");
  write("");
  EXPECT_EQ(error_of([&] { io::read_checkpoint(file); }), file + ": is empty");
  write(std::string(100, 'x'));
  EXPECT_EQ(error_of([&] { io::read_checkpoint(file); }), file + ": is no checkpoint");
  damaged = good;
  damaged[14] = '2';
  write(damaged);
  EXPECT_EQ(error_of([&] { io::read_checkpoint(file); }), file + ": is a checkpoint of another version of falconet");
}

TEST_F(WeightFiles, AFullDiskKeepsTheOldCheckpoint) {
  Tensor const small = random({DType::f32, {2, 3}}, 1), large = random({DType::f32, {100000}}, 2);
  io::write_checkpoint(file, {{{"w", small.view()}}, {}, {}});
  pid_t const child = fork();
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    rlimit const limit{100000, 100000};
    setrlimit(RLIMIT_FSIZE, &limit);
    auto const message = error_of([&] { io::write_checkpoint(file, {{{"w", large.view()}}, {}, {}}); }, ErrorKind::file);
    io::NamedView const views[] = {{"w", large.view()}};
    auto const weights = error_of([&] { io::write_safetensors(file, views); }, ErrorKind::file);
    _exit(message == file + ": cannot be written: File too large" && weights == message ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(bytes_of(io::read_checkpoint(file).tensor("w")), bytes_of(small));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator()), 1);
}
