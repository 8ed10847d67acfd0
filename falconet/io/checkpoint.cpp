#include "falconet/io/checkpoint.h"

#include <algorithm>
#include <cstring>

#include "falconet/base/checksum.h"
#include "falconet/base/error.h"
#include "falconet/base/file.h"
#include "falconet/base/format.h"

// The file, all numbers little-endian 64-bit, a string being its length and its bytes:
//   16 bytes "falconet.ckpt.1\n"; size of the whole file; number of integers, of texts, of tensors;
//   integers: name, value; texts: name, text; tensors: name, type ("f32[64x3x7x7]nhwc"), bytes; CRC-64 of all before it.
namespace falconet::io {
namespace {

constexpr std::string_view magic = "falconet.ckpt.1\n";
constexpr std::uint64_t smallest = magic.size() + 5 * 8;   // a checkpoint of nothing
constexpr std::size_t piece = 1 << 20;

// Hands the parts of the file before its checksum to `put(pointer, bytes)`, in order.
template <class Put>
void emit(CheckpointParts const& parts, std::uint64_t file_bytes, Put const& put) {
  auto number = [&](std::uint64_t v) { put(&v, sizeof v); };
  auto string = [&](std::string const& s) {
    number(s.size());
    put(s.data(), s.size());
  };
  put(magic.data(), magic.size());
  for (std::uint64_t v : {file_bytes, parts.integers.size(), parts.texts.size(), parts.tensors.size()}) number(v);
  for (auto const& [name, value] : parts.integers) {
    string(name);
    number(std::uint64_t(value));
  }
  for (auto const& [name, value] : parts.texts) {
    string(name);
    string(value);
  }
  for (auto const& t : parts.tensors) {
    string(t.name);
    string(t.view.type.text());
    put(t.view.data, t.view.type.bytes());
  }
}

[[noreturn]] void fail_data(std::string const& path, std::string const& what) { fail(ErrorKind::data, path + ": " + what); }

// Reads the whole file once, for nothing in it is believed before the checksum is right. Returns the bytes before the checksum.
std::uint64_t verify(std::string const& path) {
  FileReader file(path);
  auto const buffer = std::make_unique_for_overwrite<std::byte[]>(std::min<std::size_t>(piece, file.size() + smallest));
  std::uint64_t crc = 0;
  auto take = [&](std::size_t bytes) {
    if (file.read({buffer.get(), bytes}) < bytes) fail_data(path, "changed while it was read");
    crc = crc64({buffer.get(), bytes}, crc);
  };
  if (file.size() == 0) fail_data(path, "is empty");
  if (file.size() < smallest) fail_data(path, "is cut off or no checkpoint");
  take(magic.size());
  if (std::memcmp(buffer.get(), magic.data(), magic.size()) != 0) {
    bool const other = std::memcmp(buffer.get(), magic.data(), magic.find('1')) == 0;
    fail_data(path, other ? "is a checkpoint of another version of falconet" : "is no checkpoint");
  }
  std::uint64_t promised = 0, expected = 0;
  take(8);
  std::memcpy(&promised, buffer.get(), 8);
  if (promised != file.size()) fail_data(path, format("is cut off or damaged: it has {} bytes, expected {}", file.size(), promised));
  for (std::uint64_t left = promised - magic.size() - 16; left > 0;) {
    auto const bytes = std::size_t(std::min<std::uint64_t>(left, piece));
    take(bytes);
    left -= bytes;
  }
  std::uint64_t const found = crc;
  take(8);
  std::memcpy(&expected, buffer.get(), 8);
  if (found != expected) fail_data(path, "is damaged: its checksum does not match");
  return promised - 8;
}

class Reader {
 public:
  explicit Reader(std::string const& path) : left_(verify(path)), file_(path) {}

  Checkpoint read() {
    char start[magic.size() + 8];
    take(start, sizeof start);
    Checkpoint out;
    auto const integers = number(), texts = number(), tensors = number();
    for (std::uint64_t i = 0; i < integers; ++i) {
      auto name = string();
      out.integers[std::move(name)] = std::int64_t(number());
    }
    for (std::uint64_t i = 0; i < texts; ++i) {
      auto name = string();
      out.texts[std::move(name)] = string();
    }
    for (std::uint64_t i = 0; i < tensors; ++i) {
      auto name = string();
      auto const type = checked_type(string());
      Tensor tensor(type);
      take(tensor.as<void>(), type.bytes());
      if (!out.tensors.emplace(std::move(name), std::move(tensor)).second) bad("holds a tensor twice");
    }
    if (left_ != 0) bad("goes on after its last tensor");
    return out;
  }

 private:
  [[noreturn]] void bad(std::string const& what) const { fail_data(file_.path(), what); }

  void take(void* to, std::size_t bytes) {
    if (bytes > left_) bad("is damaged: a part of it is larger than the file");
    left_ -= bytes;
    if (bytes && file_.read({static_cast<std::byte*>(to), bytes}) < bytes) bad("changed while it was read");
  }
  std::uint64_t number() {
    std::uint64_t v = 0;
    take(&v, sizeof v);
    return v;
  }
  std::string string() {
    auto const bytes = number();
    if (bytes > left_) bad("is damaged: a text of it is larger than the file");
    std::string out(bytes, '\0');
    take(out.data(), bytes);
    return out;
  }

  // The type as written, if it is one and its tensor fits into the rest of the file.
  TensorType checked_type(std::string const& text) const {
    TensorType type;
    try {
      type = TensorType::parse(text);
    } catch (Error const&) {
      bad("is damaged: '" + text + "' is no type of a tensor");
    }
    std::uint64_t bytes = size_of(type.dtype);
    for (auto size : type.shape) {
      if (size < 0 || (size > 0 && bytes > left_ / std::uint64_t(size))) bad("is damaged: a tensor of type " + text + " is larger than the file");
      bytes *= std::uint64_t(size);
    }
    return type;
  }

  std::uint64_t left_;   // bytes not yet read, without the checksum
  FileReader file_;
};

template <class Map>
auto const& find(Map const& map, std::string const& name, char const* what) {
  auto const found = map.find(name);
  if (found == map.end()) fail(ErrorKind::data, format("the checkpoint has no {} '{}'", what, name));
  return found->second;
}

}  // namespace

Tensor const& Checkpoint::tensor(std::string const& name) const { return find(tensors, name, "tensor"); }
std::string const& Checkpoint::text(std::string const& name) const { return find(texts, name, "text"); }
std::int64_t Checkpoint::integer(std::string const& name) const { return find(integers, name, "integer"); }

void write_checkpoint(std::string const& path, CheckpointParts const& parts) {
  std::uint64_t size = 8;
  emit(parts, 0, [&](void const*, std::size_t bytes) { size += bytes; });
  AtomicFile file(path);
  std::uint64_t crc = 0;
  std::string small;   // the names and numbers between the tensors, so that each is not a call of the system
  auto flush = [&] {
    crc = crc64(std::as_bytes(std::span(small)), crc);
    file.write(small);
    small.clear();
  };
  emit(parts, size, [&](void const* data, std::size_t bytes) {
    if (bytes < 4096) {
      small.append(static_cast<char const*>(data), bytes);
      if (small.size() < piece) return;
    }
    flush();
    if (bytes < 4096) return;
    std::span const large(static_cast<std::byte const*>(data), bytes);
    crc = crc64(large, crc);
    file.write(large);
  });
  flush();
  file.write(std::as_bytes(std::span(&crc, 1)));
  file.commit();
}

Checkpoint read_checkpoint(std::string const& path) { return Reader(path).read(); }

}  // namespace falconet::io
