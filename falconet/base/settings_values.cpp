// What a value of a setting may be, and how it is spelt.
#include <charconv>
#include <cmath>

#include "falconet/base/format.h"
#include "falconet/base/error.h"
#include "falconet/base/settings.h"

namespace falconet {
namespace {

std::string number(double value) {
  char buffer[40];
  auto const [end, error] = std::to_chars(buffer, buffer + sizeof buffer, value);
  return {buffer, error == std::errc() ? end : buffer};
}
std::string bound(Setting const& setting, double value) {   // of whole numbers never as 1e+06
  bool const whole = setting.type == SettingType::whole || setting.type == SettingType::wholes;
  return whole ? std::to_string(static_cast<std::int64_t>(value)) : number(value);
}

std::string range(Setting const& setting) {
  bool const has_least = std::isfinite(setting.least), has_most = std::isfinite(setting.most);
  std::string const least = has_least ? bound(setting, setting.least) : "", most = has_most ? bound(setting, setting.most) : "";
  if (has_least && has_most && !setting.above_least && !setting.below_most) return format(" from {} to {}", least, most);
  std::string text;
  if (has_least) text = format(" {} {}", setting.above_least ? "above" : "of at least", least);
  if (has_most) text += format("{}{} {}", has_least ? " and" : "", setting.below_most ? " below" : " at most", most);
  return text;
}

bool inside(Setting const& setting, double value) {
  return (setting.above_least ? value > setting.least : value >= setting.least) && (setting.below_most ? value < setting.most : value <= setting.most);
}

template <class T>
bool parse(std::string_view text, T& value) {
  if (text.starts_with('+')) text.remove_prefix(1);
  auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

[[noreturn]] void fail_value(Setting const& setting, std::string_view value) {
  double ignored = 0;
  bool const bare = parse(value, ignored) && std::isfinite(ignored);
  fail(ErrorKind::usage, format("{} should be {}, not {}", setting.name, expected(setting), bare ? std::string(value) : format("'{}'", value)));
}

std::string canonical_whole(Setting const& setting, std::string_view whole_value, std::string_view piece) {
  std::int64_t value = 0;
  if (!parse(piece, value) || !inside(setting, static_cast<double>(value))) fail_value(setting, whole_value);
  return std::to_string(value);
}

}  // namespace

std::string expected(Setting const& setting) {
  switch (setting.type) {
    case SettingType::whole: return "a whole number" + range(setting);
    case SettingType::real: return "a number" + range(setting);
    case SettingType::flag: return "true or false";
    case SettingType::text: return "a text";
    case SettingType::choice: return format("one of {}", setting.choices);
    case SettingType::wholes: return format("whole numbers{}, such as 1,2", range(setting));
    case SettingType::texts: return "names, such as a,b";
  }
  return "";
}

std::string canonical(Setting const& setting, std::string_view value) {
  switch (setting.type) {
    case SettingType::whole: return canonical_whole(setting, value, value);
    case SettingType::real: {
      double parsed = 0;
      if (!parse(value, parsed) || !std::isfinite(parsed) || !inside(setting, parsed)) fail_value(setting, value);
      return number(parsed);
    }
    case SettingType::flag:
      if (value == "true" || value == "on" || value == "yes" || value == "1") return "true";
      if (value == "false" || value == "off" || value == "no" || value == "0") return "false";
      fail_value(setting, value);
    case SettingType::text:
      if (value.empty()) fail(ErrorKind::usage, format("{} should not be empty: {}", setting.name, setting.help));
      return std::string(value);
    case SettingType::choice: {
      std::string_view rest = setting.choices;
      while (!rest.empty()) {
        std::size_t const comma = rest.find(", ");
        if (rest.substr(0, comma) == value) return std::string(value);
        rest = comma == std::string_view::npos ? std::string_view() : rest.substr(comma + 2);
      }
      fail_value(setting, value);
    }
    case SettingType::wholes:
    case SettingType::texts: {
      std::string list;
      for (std::size_t start = 0; start <= value.size();) {
        std::size_t const comma = std::min(value.find(',', start), value.size());
        std::string_view const piece = value.substr(start, comma - start);
        if (piece.empty()) fail_value(setting, value);
        list += list.empty() ? "" : ",";
        list += setting.type == SettingType::wholes ? canonical_whole(setting, value, piece) : std::string(piece);
        start = comma + 1;
      }
      return list;
    }
  }
  return "";
}

}  // namespace falconet
