#include "falconet/data/cifar.h"

#include <unistd.h>
#if FALCONET_HAS_LZMA
#include <lzma.h>
#endif

#include <algorithm>
#include <cstring>
#include <future>

#include "falconet/base/error.h"
#include "falconet/base/file.h"
#include "falconet/base/format.h"
#include "falconet/data/normalise.h"

namespace falconet::data {
namespace {

constexpr std::size_t area = 32 * 32, image_bytes = 3 * area, record_bytes = 1 + image_bytes;
constexpr int classes = 10;

[[noreturn]] void fail_data(std::string const& path, std::string const& what) { fail(ErrorKind::data, path + ": " + what); }

// Takes the file's bytes in pieces of any size and puts whole records into the batch.
class Records {
 public:
  Records(std::string const& path, std::size_t expected) : path_(path) { batch_.pixels.reserve(expected * image_bytes); }

  void add(std::span<std::byte const> bytes) {
    while (!bytes.empty()) {
      std::size_t const n = std::min(bytes.size(), record_bytes - have_);
      std::memcpy(record_ + have_, bytes.data(), n);
      bytes = bytes.subspan(n);
      if ((have_ += n) == record_bytes) finish_record();
    }
  }

  CifarBatch finish() {
    if (have_ > 0)
      fail_data(path_, format("is cut off or no CIFAR-10 file: {} bytes after {} records of {}", have_, batch_.labels.size(), record_bytes));
    if (batch_.labels.empty()) fail_data(path_, "is empty");
    return std::move(batch_);
  }

 private:
  void finish_record() {
    have_ = 0;
    if (record_[0] >= classes)
      fail_data(path_, format("label {} is {}, expected 0 to {}", batch_.labels.size(), record_[0], classes - 1));
    batch_.labels.push_back(record_[0]);
    std::size_t const at = batch_.pixels.size();
    batch_.pixels.resize(at + image_bytes);
    std::uint8_t* out = batch_.pixels.data() + at;
    std::uint8_t const* plane = record_ + 1;
    for (std::size_t i = 0; i < area; ++i, out += 3) {
      out[0] = plane[i];
      out[1] = plane[area + i];
      out[2] = plane[2 * area + i];
    }
  }

  std::string path_;
  CifarBatch batch_;
  std::uint8_t record_[record_bytes];
  std::size_t have_ = 0;
};

bool is_xz(std::span<std::byte const> start) { return start.size() >= 6 && std::memcmp(start.data(), "\xFD" "7zXZ\0", 6) == 0; }

constexpr std::size_t piece = 256 << 10;

#if FALCONET_HAS_LZMA
void unpack_xz(FileReader& file, std::span<std::byte> buffer, std::size_t got, Records& records) {
  lzma_stream stream = LZMA_STREAM_INIT;
  struct End {
    lzma_stream& stream;
    ~End() { lzma_end(&stream); }
  } const end{stream};
  if (lzma_stream_decoder(&stream, std::uint64_t(1) << 30, LZMA_CONCATENATED) != LZMA_OK)
    fail(ErrorKind::device, file.path() + ": no memory to decompress it");
  auto const out = std::make_unique_for_overwrite<std::byte[]>(piece);
  stream.next_in = reinterpret_cast<std::uint8_t const*>(buffer.data());
  stream.avail_in = got;
  while (true) {
    if (stream.avail_in == 0 && got > 0) {
      got = file.read(buffer);
      stream.next_in = reinterpret_cast<std::uint8_t const*>(buffer.data());
      stream.avail_in = got;
    }
    stream.next_out = reinterpret_cast<std::uint8_t*>(out.get());
    stream.avail_out = piece;
    lzma_ret const code = lzma_code(&stream, got == 0 ? LZMA_FINISH : LZMA_RUN);
    records.add({out.get(), piece - stream.avail_out});
    if (code == LZMA_STREAM_END) return;
    if (code == LZMA_BUF_ERROR) fail_data(file.path(), "is cut off: the xz stream does not end");
    if (code == LZMA_MEM_ERROR || code == LZMA_MEMLIMIT_ERROR) fail(ErrorKind::device, file.path() + ": no memory to decompress it");
    if (code != LZMA_OK) fail_data(file.path(), "is damaged: the xz stream cannot be decompressed");
  }
}
#else
void unpack_xz(FileReader& file, std::span<std::byte>, std::size_t, Records&) {
  fail_data(file.path(), "is compressed with xz, but falconet was built without liblzma; xz -dk makes the plain file");
}
#endif

std::string find(std::string const& folder, std::string const& name) {
  for (auto const& candidate : {name, name + ".xz"})
    if (auto path = folder + "/" + candidate; ::access(path.c_str(), F_OK) == 0) return path;
  fail(ErrorKind::file, format("{}/{}: there is no such file, and no {}.xz either", folder, name, name));
}

std::vector<std::string> label_names(std::string const& folder) {
  auto const path = folder + "/batches.meta.txt";
  if (::access(path.c_str(), F_OK) != 0)
    return {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"};
  auto const file = read_file(path);
  std::vector<std::string> names;
  for (std::string_view rest = file.text(); !rest.empty();) {
    auto const line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    if (auto const name = line.substr(0, line.find('\r')); !name.empty()) names.emplace_back(name);
  }
  if (names.size() != classes) fail_data(path, format("names {} labels, expected {}", names.size(), classes));
  return names;
}

// Joins the batches, each of which is freed as soon as it is copied.
std::pair<Tensor, Tensor> join(std::vector<CifarBatch> batches) {
  std::int64_t count = 0;
  for (auto const& b : batches) count += std::int64_t(b.labels.size());
  Tensor images({DType::u8, {count, 3, 32, 32}, Layout::nhwc}), labels({DType::i32, {count}});
  auto* pixels = images.as<std::uint8_t>();
  auto* label = labels.as<std::int32_t>();
  for (auto& b : batches) {
    pixels = std::copy(b.pixels.begin(), b.pixels.end(), pixels);
    label = std::copy(b.labels.begin(), b.labels.end(), label);
    b = {};
  }
  return {std::move(images), std::move(labels)};
}

}  // namespace

CifarBatch read_cifar_batch(std::string const& path) {
  FileReader file(path);
  auto const memory = std::make_unique_for_overwrite<std::byte[]>(piece);
  std::span<std::byte> const buffer(memory.get(), piece);
  std::size_t got = file.read(buffer);
  bool const packed = is_xz(buffer.first(got));
  Records records(path, packed ? 10000 : file.size() / record_bytes);   // a canonical file has 10000
  if (packed) unpack_xz(file, buffer, got, records);
  else
    for (; got > 0; got = file.read(buffer)) records.add(buffer.first(got));
  return records.finish();
}

Split cifar10(std::string const& folder) {
  std::vector<std::string> paths;
  for (int i = 1; i <= 5; ++i) paths.push_back(find(folder, format("data_batch_{}.bin", i)));
  paths.push_back(find(folder, "test_batch.bin"));
  auto names = label_names(folder);
  std::vector<std::future<CifarBatch>> reading;
  for (auto const& path : paths) reading.push_back(std::async(std::launch::async, [&path] { return read_cifar_batch(path); }));
  std::vector<CifarBatch> batches;
  for (auto& r : reading) batches.push_back(r.get());
  std::vector<CifarBatch> last(1);
  std::swap(last[0], batches.back());
  batches.pop_back();
  auto [images, labels] = join(std::move(batches));
  auto [test_images, test_labels] = join(std::move(last));
  ChannelStatistics statistics(3);
  statistics.add(std::span<std::uint8_t const>(images.as<std::uint8_t>(), images.type().bytes()));
  DataSpec const spec{{3, 32, 32}, statistics.mean(), statistics.std(), std::move(names)};
  return {in_memory(std::move(images), std::move(labels), spec), in_memory(std::move(test_images), std::move(test_labels), spec)};
}

}  // namespace falconet::data
