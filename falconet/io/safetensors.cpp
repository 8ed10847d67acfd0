#include "falconet/io/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "falconet/base/error.h"
#include "falconet/base/file.h"
#include "falconet/base/format.h"

namespace falconet::io {
namespace {

using nlohmann::json;
static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

constexpr std::uint64_t most_header_bytes = 100'000'000;   // as in the format's own implementation

struct StoredType {
  char const* name;
  std::uint64_t bytes;
  DType becomes;
};
constexpr StoredType stored_types[] = {{"F64", 8, DType::f64}, {"F32", 4, DType::f32}, {"BF16", 2, DType::bf16}, {"F16", 2, DType::f32},
                                       {"I32", 4, DType::i32}, {"I64", 8, DType::i32}, {"U8", 1, DType::u8}};

char const* stored_name(DType t) {
  for (auto const& s : stored_types)
    if (s.becomes == t && s.bytes == size_of(t)) return s.name;
  fail(ErrorKind::internal, "a tensor of an element type that safetensors cannot hold");
}

float half_to_float(std::uint16_t h) {
  std::uint32_t const sign = std::uint32_t(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | fraction << 13);
  if (exponent == 0) return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(float(fraction) * 0x1p-24f));   // subnormal
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

struct Entry {
  std::string name;
  StoredType const* type;
  Shape shape;
  std::uint64_t begin, end;
};

class Reader {
 public:
  explicit Reader(std::string const& path) : file_(path) {}

  SafeTensors read() {
    std::uint64_t header_bytes = 0;
    if (file_.size() < 8) bad("is cut off: expected a header");
    take(&header_bytes, 8);
    if (header_bytes > most_header_bytes) bad(format("is no safetensors file: its header would have {} bytes", header_bytes));
    if (header_bytes > file_.size() - 8) bad(format("is cut off or no safetensors file: its header should have {} bytes", header_bytes));
    std::string text(header_bytes, '\0');
    take(text.data(), header_bytes);
    data_bytes_ = file_.size() - 8 - header_bytes;
    SafeTensors out;
    auto const entries = parse(text, out.metadata);
    for (auto const& e : entries) out.tensors.emplace(e.name, load(e));
    return out;
  }

 private:
  [[noreturn]] void bad(std::string const& what) const { fail(ErrorKind::data, file_.path() + ": " + what); }

  void take(void* to, std::size_t bytes) {
    if (file_.read({static_cast<std::byte*>(to), bytes}) < bytes) bad("is cut off");
  }

  json parse_json(std::string const& text) const {
    std::vector<std::set<std::string>> keys;   // nlohmann would silently keep the last of two equal keys
    auto const on_event = [&](int, json::parse_event_t event, json& value) {
      if (event == json::parse_event_t::object_start) keys.emplace_back();
      if (event == json::parse_event_t::object_end) keys.pop_back();
      if (event == json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second)
        bad("the header names '" + value.get<std::string>() + "' twice");
      return true;
    };
    try {
      return json::parse(text, on_event);
    } catch (json::exception const&) {
      bad("is no safetensors file: its header is no valid JSON");
    }
  }

  std::vector<Entry> parse(std::string const& text, std::map<std::string, std::string>& metadata) const {
    json const header = parse_json(text);
    if (!header.is_object()) bad("is no safetensors file: its header is no JSON object");
    std::vector<Entry> entries;
    for (auto const& [name, value] : header.items()) {
      if (name == "__metadata__") {
        if (!value.is_object()) bad("__metadata__ is no object");
        for (auto const& [key, v] : value.items()) {
          if (!v.is_string()) bad("__metadata__ '" + key + "' is no string");
          metadata[key] = v.get<std::string>();
        }
      } else {
        entries.push_back(parse_entry(name, value));
      }
    }
    std::sort(entries.begin(), entries.end(), [](Entry const& a, Entry const& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
    std::uint64_t at = 0;
    for (auto const& e : entries) {
      if (e.begin != at) bad(format("tensor '{}' begins at byte {} of the data, expected {}", e.name, e.begin, at));
      at = e.end;
    }
    if (at != data_bytes_) bad(format("holds {} bytes of data, but its tensors need {}", data_bytes_, at));
    return entries;
  }

  Entry parse_entry(std::string const& name, json const& value) const {
    auto const whole_numbers = [&](char const* key) {
      std::vector<std::uint64_t> out;
      auto const found = value.find(key);
      bool good = found != value.end() && found->is_array();
      if (good)
        for (auto const& v : *found) {
          good &= v.is_number_unsigned();
          if (good) out.push_back(v.get<std::uint64_t>());
        }
      if (!good) bad(format("tensor '{}': expected a list of whole numbers under \"{}\"", name, key));
      return out;
    };
    if (!value.is_object() || !value.contains("dtype") || !value["dtype"].is_string())
      bad("tensor '" + name + "': expected an object with \"dtype\", \"shape\" and \"data_offsets\"");
    auto const dtype = value["dtype"].get<std::string>();
    auto const type = std::find_if(std::begin(stored_types), std::end(stored_types), [&](auto const& s) { return s.name == dtype; });
    if (type == std::end(stored_types))
      bad(format("tensor '{}' has element type {}, expected one of F64 F32 BF16 F16 I32 I64 U8", name, dtype));
    auto const sizes = whole_numbers("shape"), offsets = whole_numbers("data_offsets");
    if (sizes.size() > std::size_t(Shape::max_rank)) bad(format("tensor '{}' has {} axes, expected at most {}", name, sizes.size(), Shape::max_rank));
    if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > data_bytes_)
      bad(format("tensor '{}' does not lie within the {} bytes of data", name, data_bytes_));
    std::uint64_t need = type->bytes;
    bool empty = false, fits = true;
    std::vector<std::int64_t> shape;
    for (auto size : sizes) {
      empty |= size == 0;
      fits &= size <= INT64_MAX && (size == 0 || need <= UINT64_MAX / 2 / size);
      need = fits && size ? need * size : need;
      shape.push_back(std::int64_t(size));
    }
    if (empty) need = 0;
    if (!fits || need != offsets[1] - offsets[0])
      bad(format("tensor '{}' has {} bytes of data, which does not fit its shape and element type {}", name, offsets[1] - offsets[0], dtype));
    return {name, type, Shape(shape), offsets[0], offsets[1]};
  }

  Tensor load(Entry const& e) {
    Tensor out({e.type->becomes, e.shape});
    if (e.begin == e.end) return out;
    if (e.type->bytes == size_of(e.type->becomes)) {
      take(out.as<void>(), e.end - e.begin);
      return out;
    }
    auto const count = std::size_t(e.shape.elements());
    if (e.type->bytes == 2) {
      std::vector<std::uint16_t> halves(count);
      take(halves.data(), 2 * count);
      std::transform(halves.begin(), halves.end(), out.as<float>(), half_to_float);
    } else {
      std::vector<std::int64_t> wide(count);
      take(wide.data(), 8 * count);
      for (std::size_t i = 0; i < count; ++i) {
        if (wide[i] != std::int32_t(wide[i])) bad(format("tensor '{}' holds {}, which does not fit a 32-bit integer", e.name, wide[i]));
        out.as<std::int32_t>()[i] = std::int32_t(wide[i]);
      }
    }
    return out;
  }

  FileReader file_;
  std::uint64_t data_bytes_ = 0;
};

}  // namespace

SafeTensors read_safetensors(std::string const& path) { return Reader(path).read(); }

void write_safetensors(std::string const& path, std::span<NamedView const> tensors, std::map<std::string, std::string> const& metadata) {
  std::vector<NamedView const*> order;
  for (auto const& t : tensors) order.push_back(&t);
  std::sort(order.begin(), order.end(), [](NamedView const* a, NamedView const* b) {
    auto const x = size_of(a->view.type.dtype), y = size_of(b->view.type.dtype);
    return x != y ? x > y : a->name < b->name;
  });
  json header = json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::size_t at = 0;
  for (auto const* t : order) {
    if (t->name == "__metadata__" || header.contains(t->name)) fail(ErrorKind::usage, path + ": two tensors would be named '" + t->name + "'");
    auto const& type = t->view.type;
    header[t->name] = {{"dtype", stored_name(type.dtype)},
                       {"shape", std::vector<std::int64_t>(type.shape.begin(), type.shape.end())},
                       {"data_offsets", {at, at + type.bytes()}}};
    at += type.bytes();
  }
  std::string text;
  try {
    text = header.dump();
  } catch (json::exception const&) {
    fail(ErrorKind::usage, path + ": a name or a text for it is not UTF-8");
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::uint64_t const length = text.size();
  AtomicFile file(path);
  file.write(std::as_bytes(std::span(&length, 1)));
  file.write(text);
  for (auto const* t : order) {
    View view = t->view;
    Tensor logical;
    if (view.type.layout == Layout::nhwc) {
      logical = Tensor({view.type.dtype, view.type.shape});
      convert(view, logical.view());
      view = logical.view();
    }
    file.write({static_cast<std::byte const*>(view.data), view.type.bytes()});
  }
  file.commit();
}

}  // namespace falconet::io
