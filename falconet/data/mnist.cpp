#include "falconet/data/mnist.h"

#if FALCONET_HAS_DEFLATE
#include <libdeflate.h>
#endif
#include <unistd.h>
#include <zlib.h>

#include <cstring>
#include <future>
#include <optional>

#include "falconet/base/error.h"
#include "falconet/base/file.h"
#include "falconet/base/format.h"
#include "falconet/data/normalise.h"

namespace falconet::data {
namespace {

using Bytes = std::span<std::byte>;

// The contents of a file that may be gzipped, from front to back, through one small buffer.
class PlainOrGzip {
 public:
  explicit PlainOrGzip(std::string const& path) : file_(path), buffer_(std::make_unique_for_overwrite<std::byte[]>(capacity)) {
    refill();
    auto starts_with = [&](std::string_view magic) {
      return stream_.avail_in >= magic.size() && std::memcmp(stream_.next_in, magic.data(), magic.size()) == 0;
    };
    if (stream_.avail_in == 0) fail_data("is empty");
    for (auto [magic, name] : {std::pair("\xFD" "7zXZ", "xz"), {"BZh", "bzip2"}, {"\x28\xB5\x2F\xFD", "zstd"}, {"PK", "zip"}})
      if (starts_with(magic)) fail_data(format("is compressed with {}, expected a plain IDX file or .gz", name));
    if (!starts_with("\x1F\x8B")) return;
    if (inflateInit2(&stream_, 15 + 16) != Z_OK) fail(ErrorKind::device, file_.path() + ": no memory to decompress it");
    gzip_ = true;
  }
  PlainOrGzip(PlainOrGzip const&) = delete;
  PlainOrGzip& operator=(PlainOrGzip const&) = delete;
  ~PlainOrGzip() {
    if (gzip_) inflateEnd(&stream_);
  }

  bool gzip() const { return gzip_; }
  std::size_t read(Bytes out) { return gzip_ ? inflate_into(out) : copy_into(out); }

  // More than this cannot follow: deflate makes at most 1032 bytes of one.
  std::size_t most_bytes() const { return file_.size() * (gzip_ ? 1032 : 1); }

  [[noreturn]] void fail_data(std::string const& what) const { fail(ErrorKind::data, file_.path() + ": " + what); }

 private:
  static constexpr std::size_t capacity = 256 << 10;

  bool refill() {
    stream_.next_in = reinterpret_cast<Bytef*>(buffer_.get());
    stream_.avail_in = uInt(file_.read({buffer_.get(), capacity}));
    return stream_.avail_in > 0;
  }

  std::size_t copy_into(Bytes out) {
    std::size_t const ready = std::min<std::size_t>(stream_.avail_in, out.size());
    std::memcpy(out.data(), stream_.next_in, ready);
    stream_.next_in += ready;
    stream_.avail_in -= uInt(ready);
    return ready + file_.read(out.subspan(ready));
  }

  std::size_t inflate_into(Bytes out) {
    std::size_t done = 0;
    while (done < out.size() && !finished_) {
      if (stream_.avail_in == 0 && !refill()) fail_data("is cut off: the gzip stream does not end");
      uInt const room = uInt(std::min<std::size_t>(out.size() - done, 1u << 30));
      stream_.next_out = reinterpret_cast<Bytef*>(out.data() + done);
      stream_.avail_out = room;
      int const code = inflate(&stream_, Z_NO_FLUSH);
      done += room - stream_.avail_out;
      if (code == Z_STREAM_END) {
        finished_ = stream_.avail_in == 0 && !refill();
        if (!finished_ && *stream_.next_in != 0x1f) fail_data("goes on after its end: what follows the gzip stream is no other one");
        if (!finished_ && inflateReset(&stream_) != Z_OK) fail_data("cannot be decompressed");   // gzip files may be joined
      } else if (code != Z_OK && code != Z_BUF_ERROR) {
        fail_data(format("is damaged: the gzip stream says \"{}\"", stream_.msg ? stream_.msg : "data error"));
      }
    }
    return done;
  }

  FileReader file_;
  std::unique_ptr<std::byte[]> buffer_;
  z_stream stream_{};   // of a plain file only next_in and avail_in are used
  bool gzip_ = false, finished_ = false;
};

constexpr std::size_t image_header_bytes = 16;
constexpr std::size_t piece_bytes = 192 << 10;   // what is read, or moved, and counted while it is in the cache

// The header: a magic number and `axes` sizes, all big-endian 32-bit numbers.
std::array<std::int64_t, 3> read_header(PlainOrGzip& source, std::uint32_t magic, int axes, char const* what) {
  std::array<std::byte, 16> header{};
  Bytes const bytes(header.data(), std::size_t(4 + 4 * axes));
  auto number = [&](int i) {
    std::uint32_t v = 0;
    for (int k = 0; k < 4; ++k) v = v << 8 | std::to_integer<std::uint32_t>(header[std::size_t(4 * i + k)]);
    return v;
  };
  std::size_t const got = source.read(bytes);
  if (got >= 4 && number(0) != magic)
    source.fail_data(format("is no IDX file of {}: the magic number is {:#010x}, expected {:#010x}", what, number(0), magic));
  if (got < bytes.size()) source.fail_data(format("is cut off in its header of {} bytes", bytes.size()));
  std::array<std::int64_t, 3> sizes{1, 1, 1};
  std::size_t elements = 1;
  for (int i = 0; i < axes; ++i) {
    sizes[std::size_t(i)] = number(i + 1);
    if (number(i + 1) == 0) source.fail_data(format("says that it holds no {}", what));
    if (number(i + 1) > source.most_bytes() / elements)
      source.fail_data(format("is cut off: its header promises more {} than the file can hold", what));
    elements *= number(i + 1);
  }
  return sizes;
}

void expect_end(PlainOrGzip& source, char const* what, std::int64_t count) {
  std::byte more;
  if (source.read({&more, 1}) != 0) source.fail_data(format("goes on after its {} {}", count, what));
}

// An image file's pixels decompressed at one go by libdeflate, which takes a third of zlib's time. Nothing where it is not built in or
// does not like the file (damaged, cut off, joined from several): zlib then says why, or reads it.
std::optional<Tensor> decompress_whole([[maybe_unused]] std::string const& path, [[maybe_unused]] TensorType type,
                                       [[maybe_unused]] ChannelStatistics* statistics) {
#if FALCONET_HAS_DEFLATE
  FileReader file(path);
  std::size_t const total = type.bytes();
  Buffer packed(file.size()), unpacked(image_header_bytes + total);
  if (file.read({static_cast<std::byte*>(packed.data()), packed.bytes()}) < packed.bytes()) return {};
  auto const free = [](libdeflate_decompressor* d) { libdeflate_free_decompressor(d); };
  std::unique_ptr<libdeflate_decompressor, decltype(free)> const decompressor(libdeflate_alloc_decompressor());
  std::size_t taken = 0;
  if (!decompressor || libdeflate_gzip_decompress_ex(decompressor.get(), packed.data(), packed.bytes(), unpacked.data(), unpacked.bytes(),
                                                     &taken, nullptr) != LIBDEFLATE_SUCCESS || taken < packed.bytes())
    return {};
  auto* pixels = static_cast<std::uint8_t*>(unpacked.data());
  for (std::size_t at = 0; at < total; at += piece_bytes) {   // over the header, so that they begin where memory is aligned
    std::size_t const piece = std::min(total - at, piece_bytes);
    std::memmove(pixels + at, pixels + at + image_header_bytes, piece);
    if (statistics) statistics->add(std::span<std::uint8_t const>(pixels + at, piece));
  }
  return Tensor(type, std::move(unpacked));
#else
  return {};
#endif
}

// Reads u8 [N,1,H,W] and, where `statistics` is given, adds up the pixels while they are in the cache.
Tensor read_images(std::string const& path, ChannelStatistics* statistics) {
  PlainOrGzip source(path);
  auto const [count, height, width] = read_header(source, 0x803, 3, "images");
  TensorType const type{DType::u8, {count, 1, height, width}, Layout::nhwc};
  std::size_t const total = type.bytes();
  if (source.gzip())
    if (auto images = decompress_whole(path, type, statistics)) return std::move(*images);
  Tensor images(type);
  for (std::size_t at = 0; at < total;) {
    std::size_t const piece = std::min(total - at, piece_bytes);
    if (source.read({images.as<std::byte>() + at, piece}) < piece)
      source.fail_data(format("is cut off: expected {} images of {}x{}", count, height, width));
    if (statistics) statistics->add(std::span<std::uint8_t const>(images.as<std::uint8_t>() + at, piece));
    at += piece;
  }
  expect_end(source, "images", count);
  return images;
}

std::string find(std::string const& folder, std::string const& name) {
  for (auto const& candidate : {name, name + ".gz"})
    if (auto path = folder + "/" + candidate; ::access(path.c_str(), F_OK) == 0) return path;
  fail(ErrorKind::file, format("{}/{}: there is no such file, and no {}.gz either", folder, name, name));
}

struct Part {
  Tensor images, labels;
};

Part read_part(std::string const& folder, std::string const& prefix, std::size_t classes, ChannelStatistics* statistics) {
  auto const images_path = find(folder, prefix + "-images-idx3-ubyte"), labels_path = find(folder, prefix + "-labels-idx1-ubyte");
  Tensor labels = read_idx_labels(labels_path);
  for (std::int64_t i = 0; i < labels.shape()[0]; ++i)
    if (int const label = labels.as<std::int32_t>()[i]; label >= std::int64_t(classes))
      fail(ErrorKind::data, format("{}: label {} is {}, expected 0 to {}", labels_path, i, label, classes - 1));
  Tensor images = read_images(images_path, statistics);
  if (images.shape()[0] != labels.shape()[0])
    fail(ErrorKind::data, format("{}: {} labels, but {} holds {} images", labels_path, labels.shape()[0], images_path, images.shape()[0]));
  return {std::move(images), std::move(labels)};
}

Split read_split(std::string const& folder, std::vector<std::string> names) {
  auto later = std::async(std::launch::async, [&] { return read_part(folder, "t10k", names.size(), nullptr); });
  ChannelStatistics statistics(1);
  Part train = read_part(folder, "train", names.size(), &statistics);
  Part test = later.get();
  auto const& s = train.images.shape();
  DataSpec const spec{{1, s[2], s[3]}, statistics.mean(), statistics.std(), std::move(names)};
  return {in_memory(std::move(train.images), std::move(train.labels), spec), in_memory(std::move(test.images), std::move(test.labels), spec)};
}

}  // namespace

Tensor read_idx_images(std::string const& path) { return read_images(path, nullptr); }

Tensor read_idx_labels(std::string const& path) {
  PlainOrGzip source(path);
  std::int64_t const count = read_header(source, 0x801, 1, "labels")[0];
  std::vector<std::byte> bytes(static_cast<std::size_t>(count));
  if (source.read(bytes) < bytes.size()) source.fail_data(format("is cut off: expected {} labels", count));
  expect_end(source, "labels", count);
  Tensor labels({DType::i32, {count}});
  for (std::int64_t i = 0; i < count; ++i) labels.as<std::int32_t>()[i] = std::to_integer<std::int32_t>(bytes[std::size_t(i)]);
  return labels;
}

Split mnist(std::string const& folder) { return read_split(folder, {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}); }

Split fashion_mnist(std::string const& folder) {
  return read_split(folder, {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"});
}

}  // namespace falconet::data
