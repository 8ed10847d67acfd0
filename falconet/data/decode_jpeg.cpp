#include "falconet/base/error.h"
#include "falconet/base/format.h"
#include "falconet/data/image.h"

#if FALCONET_HAS_JPEG
#include <csetjmp>
#include <cstdio>

#include <jpeglib.h>

#include <jerror.h>

namespace falconet::data {
namespace {

// libjpeg reports errors by longjmp, which must not pass C++ objects: between setjmp and the end of each function below
// there are none.
class JpegDecoder {
 public:
  explicit JpegDecoder(std::span<std::byte const> bytes) : bytes_(bytes) {
    state_.err = jpeg_std_error(&handlers_);
    state_.client_data = this;
    handlers_.error_exit = [](j_common_ptr s) {
      auto* self = static_cast<JpegDecoder*>(s->client_data);
      s->err->format_message(s, self->message_);
      std::longjmp(self->jump_, 1);
    };
    handlers_.emit_message = [](j_common_ptr s, int level) {
      int const code = s->err->msg_code;   // other warnings leave an image that everybody shows
      if (level < 0 && (code == JWRN_JPEG_EOF || code == JWRN_HIT_MARKER)) static_cast<JpegDecoder*>(s->client_data)->cut_off_ = true;
    };
    handlers_.output_message = [](j_common_ptr) {};
  }
  ~JpegDecoder() { jpeg_destroy_decompress(&state_); }

  bool start() {
    if (setjmp(jump_)) return false;
    jpeg_create_decompress(&state_);
    jpeg_mem_src(&state_, reinterpret_cast<unsigned char const*>(bytes_.data()), bytes_.size());
    jpeg_read_header(&state_, TRUE);
    // libjpeg makes RGB of YCbCr and CMYK of YCCK; RGB of CMYK is left to us.
    inverted_ = state_.saw_Adobe_marker;
    if (state_.jpeg_color_space == JCS_CMYK || state_.jpeg_color_space == JCS_YCCK) state_.out_color_space = JCS_CMYK;
    else state_.out_color_space = state_.num_components == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_calc_output_dimensions(&state_);
    return true;
  }

  bool read(std::uint8_t* pixels) {
    if (setjmp(jump_)) return false;
    jpeg_start_decompress(&state_);
    std::size_t const row = std::size_t(state_.output_width) * std::size_t(state_.output_components);
    while (state_.output_scanline < state_.output_height && !cut_off_) {
      JSAMPROW out = pixels + state_.output_scanline * row;
      jpeg_read_scanlines(&state_, &out, 1);
    }
    if (!cut_off_) jpeg_finish_decompress(&state_);
    return true;
  }

  std::uint64_t width() const { return state_.output_width; }
  std::uint64_t height() const { return state_.output_height; }
  int channels() const { return state_.output_components; }
  bool inverted() const { return inverted_; }
  bool cut_off() const { return cut_off_; }
  char const* message() const { return message_; }

 private:
  std::span<std::byte const> bytes_;
  jpeg_decompress_struct state_{};
  jpeg_error_mgr handlers_{};
  std::jmp_buf jump_{};
  char message_[JMSG_LENGTH_MAX] = {};
  bool cut_off_ = false, inverted_ = false;
};

}  // namespace

bool can_decode_jpeg() { return true; }

Image decode_jpeg(std::span<std::byte const> bytes, std::string const& name) {
  auto bad = [&](std::string const& what) { fail(ErrorKind::data, name + ": " + what); };
  JpegDecoder decoder(bytes);
  if (!decoder.start()) bad(decoder.cut_off() ? "is cut off" : format("is no JPEG image that can be read: {}", decoder.message()));
  // Every block of 64 pixels takes at least some bits: a header that promises far more is damaged, and need not be allocated.
  if (decoder.width() * decoder.height() / 4096 > bytes.size())
    bad(format("is cut off: {} bytes cannot hold {}x{} pixels", bytes.size(), decoder.width(), decoder.height()));
  Image image{int(decoder.height()), int(decoder.width()), decoder.channels(), {}};
  image.pixels.resize(std::size_t(decoder.width() * decoder.height()) * std::size_t(decoder.channels()));
  if (!decoder.read(image.pixels.data())) bad(format("is damaged: {}", decoder.message()));
  if (decoder.cut_off()) bad("is cut off");
  if (image.channels != 4) return image;
  std::size_t const area = image.pixels.size() / 4;
  for (std::size_t i = 0; i < area; ++i) {
    std::uint8_t const* cmyk = image.pixels.data() + 4 * i;
    auto ink = [&](int k) { return decoder.inverted() ? cmyk[k] : 255 - cmyk[k]; };   // as light: 255 is none
    int const red = ink(0) * ink(3), green = ink(1) * ink(3), blue = ink(2) * ink(3);
    std::uint8_t* rgb = image.pixels.data() + 3 * i;
    rgb[0] = std::uint8_t((red + 127) / 255);
    rgb[1] = std::uint8_t((green + 127) / 255);
    rgb[2] = std::uint8_t((blue + 127) / 255);
  }
  image.pixels.resize(3 * area);
  image.channels = 3;
  return image;
}

}  // namespace falconet::data

#else

namespace falconet::data {
bool can_decode_jpeg() { return false; }
Image decode_jpeg(std::span<std::byte const>, std::string const& name) {
  fail(ErrorKind::data, name + ": is a JPEG image, but falconet was built without libjpeg");
}
}  // namespace falconet::data

#endif
