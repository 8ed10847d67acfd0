// PNG and JPEG files decode to what Pillow decodes, images resize as Pillow and PyTorch resize them, and bad files get one clear line.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "falconet/base/error.h"
#include "falconet/base/file.h"
#include "falconet/data/image_folder.h"
#include "falconet/data/loader.h"
#include "falconet/io/safetensors.h"
#include "error_text.h"

using namespace falconet;

namespace {

std::string const folder = FALCONET_SOURCE_DIR "/tests/data/images/";   // made by make.py there

template <class F>
std::string error_of(F&& f, ErrorKind kind = ErrorKind::data) {
  return text_of_error(f, kind);
}

io::SafeTensors const& expected() {
  static auto const tensors = io::read_safetensors(folder + "expected.safetensors");
  return tensors;
}

data::Image image_of(Tensor const& t) {   // H,W,C
  auto const& s = t.shape();
  return {int(s[0]), int(s[1]), int(s[2]), {t.as<std::uint8_t>(), t.as<std::uint8_t>() + s.elements()}};
}

void expect_close(data::Image const& image, data::Image const& wanted, int most) {
  ASSERT_EQ(image.height, wanted.height);
  ASSERT_EQ(image.width, wanted.width);
  ASSERT_EQ(image.channels, wanted.channels);
  int worst = 0;
  for (std::size_t i = 0; i < image.pixels.size(); ++i) worst = std::max(worst, std::abs(image.pixels[i] - wanted.pixels[i]));
  EXPECT_LE(worst, most);
}

}  // namespace

TEST(Images, EveryKindOfPngDecodesAsPillowDecodesIt) {
  if (!data::can_decode_png()) GTEST_SKIP() << "built without libpng";
  int count = 0;
  for (auto const& [name, tensor] : expected().tensors)
    if (name.ends_with(".png")) {
      SCOPED_TRACE(name);
      expect_close(data::read_image(folder + name), image_of(tensor), 0);
      ++count;
    }
  EXPECT_EQ(count, 10);
}

TEST(Images, EveryKindOfJpegDecodesAsPillowDecodesIt) {
  if (!data::can_decode_jpeg()) GTEST_SKIP() << "built without libjpeg";
  int count = 0;
  for (auto const& [name, tensor] : expected().tensors)
    if (name.ends_with(".jpg")) {
      SCOPED_TRACE(name);
      expect_close(data::read_image(folder + name), image_of(tensor), 3);   // libjpeg and Pillow's own may round differently
      ++count;
    }
  EXPECT_EQ(count, 5);
}

TEST(Images, ResizeAsPillowAndPytorchDo) {
  auto const picture = image_of(expected().tensors.at("picture"));
  int count = 0;
  for (auto const& [name, tensor] : expected().tensors) {
    SCOPED_TRACE(name);
    auto const wanted = image_of(tensor);
    bool const antialiased = name.starts_with("antialiased "), bilinear = name.starts_with("bilinear ");
    if (!antialiased && !bilinear) continue;
    expect_close(data::resize(picture, wanted.height, wanted.width, bilinear ? data::Filter::bilinear : data::Filter::antialiased), wanted, 1);
    ++count;
  }
  EXPECT_EQ(count, 11);
}

TEST(Images, ResizeAndCropKeepsTheCentreUndistorted) {
  data::Image wide{2, 6, 1, {9, 9, 10, 20, 9, 9, 9, 9, 30, 40, 9, 9}};
  EXPECT_EQ(data::resize_and_crop(wide, 2, 2).pixels, (std::vector<std::uint8_t>{10, 20, 30, 40}));
  data::Image high{4, 1, 1, {9, 1, 2, 9}};
  EXPECT_EQ(data::resize_and_crop(high, 2, 1).pixels, (std::vector<std::uint8_t>{1, 2}));
  for (int h : {1, 3, 50})
    for (int w : {1, 4, 70}) EXPECT_EQ(data::resize_and_crop(wide, h, w).pixels.size(), std::size_t(h * w));
}

TEST(Images, GrayAndRgbTurnIntoEachOther) {
  auto const picture = image_of(expected().tensors.at("picture"));
  expect_close(data::with_channels(picture, 1), image_of(expected().tensors.at("gray of picture")), 0);
  data::Image const gray{1, 2, 1, {5, 7}}, gray_alpha{1, 2, 2, {5, 0, 7, 255}}, rgba{1, 1, 4, {1, 2, 3, 0}};
  EXPECT_EQ(data::with_channels(gray, 3).pixels, (std::vector<std::uint8_t>{5, 5, 5, 7, 7, 7}));
  EXPECT_EQ(data::with_channels(gray_alpha, 3).pixels, (std::vector<std::uint8_t>{5, 5, 5, 7, 7, 7}));
  EXPECT_EQ(data::with_channels(gray_alpha, 1).pixels, (std::vector<std::uint8_t>{5, 7}));
  EXPECT_EQ(data::with_channels(rgba, 3).pixels, (std::vector<std::uint8_t>{1, 2, 3}));
}

TEST(Images, AreMadeIntoWhatAModelReads) {
  data::Image const rgb{1, 2, 3, {0, 0, 0, 255, 255, 255}};
  float out[2];
  data::prepare(rgb, {{1, 1, 2}, {0.5f}, {0.25f}, {"x"}}, out);
  EXPECT_FLOAT_EQ(out[0], -2);
  EXPECT_FLOAT_EQ(out[1], 2);
  data::Image const wide{1, 4, 1, {7, 0, 255, 7}};   // the centre, undistorted
  data::prepare(wide, {{1, 1, 2}, {0.5f}, {0.25f}, {"x"}}, out);
  EXPECT_FLOAT_EQ(out[0], -2);
  EXPECT_FLOAT_EQ(out[1], 2);
}

TEST(Images, BadFilesGetOneClearLine) {
  auto refusal = [](std::string const& text) {
    auto const message = error_of([&] { data::decode_image(std::as_bytes(std::span(text)), "x.img"); });
    return message.starts_with("x.img: ") ? message.substr(7) : message;
  };
  EXPECT_EQ(refusal(""), "is empty, expected a PNG or JPEG image");
  EXPECT_EQ(refusal("GIF89a"), "is neither a PNG nor a JPEG image");
  if (data::can_decode_png()) {
    std::string png(read_file(folder + "rgb8.png").text());
    EXPECT_EQ(refusal(png.substr(0, 5)), "is cut off");
    EXPECT_EQ(refusal(png.substr(0, png.size() / 2)), "is cut off");
    png[20] ^= 1;   // in the header
    EXPECT_EQ(refusal(png), "is no PNG image that can be read: IHDR: CRC error");
  }
  if (data::can_decode_jpeg()) {
    std::string jpeg(read_file(folder + "rgb420.jpg").text());
    EXPECT_EQ(refusal(jpeg.substr(0, 10)), "is cut off");
    EXPECT_EQ(refusal(jpeg.substr(0, jpeg.size() - 20)), "is cut off");
    EXPECT_EQ(refusal("\xFF\xD8 no jpeg at all"), "is cut off");
    auto const frame = jpeg.find("\xFF\xC0");
    jpeg.replace(frame + 5, 4, "\x7F\xFF\x7F\xFF");   // 32767x32767 pixels
    EXPECT_EQ(refusal(jpeg), "is cut off: " + std::to_string(jpeg.size()) + " bytes cannot hold 32767x32767 pixels");
  }
  EXPECT_EQ(error_of([&] { data::read_image("/none.png"); }, ErrorKind::file), "/none.png: cannot be opened: No such file or directory");
}

class ImageFolders : public testing::Test {
 protected:
  void SetUp() override {
    if (!data::can_decode_png()) GTEST_SKIP() << "built without libpng";
    char name[] = "/tmp/falconet_images_XXXXXX";
    root = mkdtemp(name);
  }
  void TearDown() override {
    if (!root.empty()) std::filesystem::remove_all(root);
  }
  void put(std::string const& image, std::string const& place) const {
    make_folders(std::filesystem::path(root + place).parent_path());
    std::filesystem::copy(folder + image, root + place);
  }
  std::string root;
};

TEST_F(ImageFolders, GiveClassesInOrderAndMixedImagesInOneShape) {
  put("rgb8.png", "/train/b/2.png");
  put("gray8.png", "/train/b/1.PNG");
  put("rgba8.png", "/train/a/x.png");
  put("palette.png", "/val/b/x.png");
  write_atomically(root + "/train/a/notes.txt", "no image");
  auto const [train, test] = data::image_folder(root, {.height = 13, .width = 17});
  EXPECT_EQ(train.size(), 3);
  EXPECT_EQ(test.size(), 1);
  EXPECT_EQ(train.spec().labels, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(train.spec(), test.spec());
  data::Sample s;
  train.dataset().sample(2, s);
  EXPECT_EQ(s.label, 1);
  EXPECT_EQ(std::vector(s.u8.begin(), s.u8.end()), image_of(expected().tensors.at("rgb8.png")).pixels);
  train.dataset().sample(1, s);
  EXPECT_EQ(s.u8[0], s.u8[2]);
  data::Loader loader(train, {.batch = 3});
  auto const& b = loader.next();
  double sum = 0;
  for (int i = 0; i < 3 * 13 * 17 * 3; ++i) sum += b.images.as<float>()[i];
  EXPECT_NEAR(sum / (3 * 13 * 17 * 3), 0, 1e-5);   // normalised by its own mean
  auto const given = data::image_folder(root, {.height = 8, .width = 8, .channels = 1, .crop = false, .mean = {0.5f}, .std = {0.5f}});
  EXPECT_EQ(given.train.spec().mean, std::vector<float>{0.5f});
  EXPECT_EQ(given.test.spec().image, (Shape{1, 8, 8}));
}

TEST_F(ImageFolders, BadFoldersGetOneClearLine) {
  auto refusal = [&](ErrorKind kind = ErrorKind::data) { return error_of([&] { data::image_folder(root, {.height = 8, .width = 8}); }, kind); };
  EXPECT_EQ(refusal(ErrorKind::file), root + "/train: the folder cannot be read: No such file or directory");
  make_folders(root + "/train");
  EXPECT_EQ(refusal(), root + "/train: expected a folder for each class, found none");
  make_folders(root + "/train/a");
  EXPECT_EQ(refusal(), root + "/train/a: expected .jpg, .jpeg or .png images, found none");
  put("rgb8.png", "/train/a/x.png");
  EXPECT_EQ(refusal(ErrorKind::file), root + ": expected a folder 'val' or 'test' beside 'train'");
  put("rgb8.png", "/val/c/x.png");
  EXPECT_EQ(refusal(), root + "/val/c: the training set has no class 'c'");
  write_atomically(root + "/train/a/y.png", "\x89PNG");
  EXPECT_EQ(refusal(), root + "/train/a/y.png: is cut off");
}

TEST(Imagenette, IsReadWithItsGrayImages) {
  char const* named = std::getenv("FALCONET_DATA");
  std::string const root = (named ? std::string(named) : FALCONET_SOURCE_DIR "/../shared/data") + "/imagenette-small";
  if (!std::filesystem::exists(root)) GTEST_SKIP() << root << " is not there";
  if (!data::can_decode_jpeg()) GTEST_SKIP() << "built without libjpeg";
  auto const [train, test] = data::image_folder(root, {.height = 64, .width = 64, .measured = 100});
  EXPECT_EQ(train.size(), 2000);
  EXPECT_EQ(test.size(), 500);
  EXPECT_EQ(train.spec().labels.size(), 10u);
  for (float mean : train.spec().mean) EXPECT_NEAR(mean, 0.45, 0.05);
  for (float std : train.spec().std) EXPECT_NEAR(std, 0.29, 0.04);
  data::Loader loader(test, {.batch = 50, .threads = 2});
  for (int i = 0; i < 10; ++i) EXPECT_EQ(loader.next().labels.as<std::int32_t>()[0], i);
}
