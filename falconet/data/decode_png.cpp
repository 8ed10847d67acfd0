#include "falconet/base/error.h"
#include "falconet/base/format.h"
#include "falconet/data/image.h"

#if FALCONET_HAS_PNG
#include <png.h>

#include <csetjmp>
#include <cstring>

namespace falconet::data {
namespace {

// libpng reports errors by longjmp, which must not pass C++ objects: between setjmp and the end of each function below
// there are none.
class PngDecoder {
 public:
  explicit PngDecoder(std::span<std::byte const> bytes) : bytes_(bytes) {
    auto on_error = [](png_structp png, png_const_charp text) {
      auto* self = static_cast<PngDecoder*>(png_get_error_ptr(png));
      std::strncpy(self->message_, text, sizeof self->message_ - 1);
      std::longjmp(self->jump_, 1);
    };
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, on_error, [](png_structp, png_const_charp) {});
    if (png_) info_ = png_create_info_struct(png_);
    if (!info_) fail(ErrorKind::device, "out of memory while a PNG image is read");
  }
  ~PngDecoder() { png_destroy_read_struct(&png_, &info_, nullptr); }

  bool start() {
    if (setjmp(jump_)) return false;
    png_set_read_fn(png_, this, [](png_structp png, png_bytep out, std::size_t count) {
      auto* self = static_cast<PngDecoder*>(png_get_io_ptr(png));
      if (count > self->bytes_.size()) {
        self->cut_off_ = true;
        png_error(png, "cut off");
      }
      std::memcpy(out, self->bytes_.data(), count);
      self->bytes_ = self->bytes_.subspan(count);
    });
    png_set_user_limits(png_, 1 << 20, 1 << 20);
    png_set_chunk_malloc_max(png_, 64 << 20);
    png_read_info(png_, info_);
    png_set_expand(png_);     // palettes to RGB, 1 to 4 bits to 8, transparent colours to alpha
    png_set_scale_16(png_);
    passes_ = png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    return true;
  }

  bool read(std::uint8_t* pixels) {
    if (setjmp(jump_)) return false;
    std::size_t const row = png_get_rowbytes(png_, info_);
    for (int pass = 0; pass < passes_; ++pass)
      for (std::size_t y = 0; y < height(); ++y) png_read_row(png_, pixels + y * row, nullptr);
    png_read_end(png_, nullptr);
    return true;
  }

  std::size_t width() const { return png_get_image_width(png_, info_); }
  std::size_t height() const { return png_get_image_height(png_, info_); }
  int channels() const { return png_get_channels(png_, info_); }
  bool cut_off() const { return cut_off_; }
  char const* message() const { return message_; }

 private:
  std::span<std::byte const> bytes_;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  std::jmp_buf jump_{};
  char message_[128] = {};
  int passes_ = 1;
  bool cut_off_ = false;
};

}  // namespace

bool can_decode_png() { return true; }

Image decode_png(std::span<std::byte const> bytes, std::string const& name) {
  auto bad = [&](std::string const& what) { fail(ErrorKind::data, name + ": " + what); };
  PngDecoder decoder(bytes);
  if (!decoder.start()) bad(decoder.cut_off() ? "is cut off" : format("is no PNG image that can be read: {}", decoder.message()));
  std::size_t const values = decoder.width() * decoder.height() * std::size_t(decoder.channels());
  // Deflate makes at most 1032 bytes of one, and a byte holds at most 8 gray pixels.
  if (values / (1032 * 8 * 4) > bytes.size())
    bad(format("is cut off: {} bytes cannot hold {}x{} pixels", bytes.size(), decoder.width(), decoder.height()));
  Image image{int(decoder.height()), int(decoder.width()), decoder.channels(), {}};
  image.pixels.resize(values);
  if (!decoder.read(image.pixels.data())) bad(decoder.cut_off() ? "is cut off" : format("is damaged: {}", decoder.message()));
  return image;
}

}  // namespace falconet::data

#else

namespace falconet::data {
bool can_decode_png() { return false; }
Image decode_png(std::span<std::byte const>, std::string const& name) {
  fail(ErrorKind::data, name + ": is a PNG image, but falconet was built without libpng");
}
}  // namespace falconet::data

#endif
