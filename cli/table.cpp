#include "cli/table.h"

#include <algorithm>
#include <cmath>

#include "falconet/base/format.h"

namespace falconet::cli {
namespace {

std::size_t width_of(std::string const& text) {  // characters, not bytes
  return std::size_t(std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

}  // namespace

Table::Table(std::vector<std::string> columns) : names_(std::move(columns)) {
  for (auto& name : names_) {
    right_.push_back(name.starts_with('>'));
    if (right_.back()) name.erase(0, 1);
  }
}

void Table::row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }

std::string Table::text(std::string_view indent) const {
  std::vector<std::size_t> width;
  for (auto const& name : names_) width.push_back(width_of(name));
  for (auto const& row : rows_)
    for (std::size_t i = 0; i < row.size(); ++i)
      if (row.size() == names_.size() || i + 1 < row.size()) width[i] = std::max(width[i], width_of(row[i]));
  std::string out;
  auto const line = [&](std::vector<std::string> const& cells) {
    std::string text(indent);
    for (std::size_t i = 0; i < cells.size(); ++i) {
      std::size_t const used = width_of(cells[i]);
      std::string const pad(used < width[i] ? width[i] - used : 0, ' ');
      bool const runs_on = i + 1 == cells.size() && cells.size() < names_.size();
      bool const right = right_[i] && !runs_on;
      text.append(i ? "  " : "").append(right ? pad : cells[i]).append(right ? cells[i] : pad);
    }
    text.resize(text.find_last_not_of(' ') + 1);
    out.append(text).append("\n");
  };
  line(names_);
  for (auto const& row : rows_) line(row);
  return out;
}

std::string with_commas(std::int64_t value) {
  std::string text = std::to_string(value);
  for (std::size_t at = text.size(); at > 3 + (value < 0);) text.insert(at -= 3, 1, ',');
  return text;
}

std::string bytes_text(double bytes) {
  constexpr char const* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  while (bytes >= 1000 && unit < 4) bytes /= 1024, ++unit;
  return unit ? format("{:.3g} {}", bytes, units[unit]) : format("{:.0f} B", bytes);
}

namespace {

// Bytes of the UTF-8 character that begins there; 0 where there is none (RFC 3629).
std::size_t character_length(std::string_view text) {
  auto const at = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  unsigned const first = at(0);
  if (first < 0x80) return 1;
  std::size_t const length = first >= 0xc2 && first <= 0xdf ? 2 : first >= 0xe0 && first <= 0xef ? 3 : first >= 0xf0 && first <= 0xf4 ? 4 : 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((at(i) & 0xc0) != 0x80) return 0;
  bool const overlong = (first == 0xe0 && at(1) < 0xa0) || (first == 0xf0 && at(1) < 0x90);
  bool const none = (first == 0xed && at(1) > 0x9f) || (first == 0xf4 && at(1) > 0x8f);   // surrogates, beyond U+10FFFF
  return overlong || none ? 0 : length;
}

}  // namespace

// A byte that is not UTF-8, as a file's name may hold, becomes U+FFFD: a row must parse.
std::string json_text(std::string_view text) {
  std::string out(1, '"');
  for (std::size_t i = 0; i < text.size(); ++i) {
    char const c = text[i];
    std::size_t const length = character_length(text.substr(i));
    if (length != 1) {
      if (length == 0) out += "\\ufffd";
      else out += text.substr(i, length), i += length - 1;
      continue;
    }
    if (c == '"' || c == '\\')
      (out += '\\') += c;
    else if (c == '\n')
      out += "\\n";
    else if (static_cast<unsigned char>(c) < 0x20)
      out += format("\\u{:04x}", static_cast<unsigned>(static_cast<unsigned char>(c)));
    else
      out += c;
  }
  out += '"';
  return out;
}

JsonRow& JsonRow::raw(std::string_view key, std::string const& value) {
  text_.append(text_.empty() ? "" : ", ").append(json_text(key)).append(": ").append(value);
  return *this;
}
JsonRow& JsonRow::add(std::string_view key, std::string_view text) { return raw(key, json_text(text)); }
JsonRow& JsonRow::add(std::string_view key, double number) { return raw(key, std::isfinite(number) ? format("{:.9g}", number) : "null"); }
JsonRow& JsonRow::add(std::string_view key, std::int64_t number) { return raw(key, std::to_string(number)); }
JsonRow& JsonRow::add(std::string_view key, bool value) { return raw(key, value ? "true" : "false"); }

}  // namespace falconet::cli
