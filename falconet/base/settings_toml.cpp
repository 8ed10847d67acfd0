// Settings in TOML files: reading recipes and config files, writing args.toml.
#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

#include <fstream>
#include <sstream>

#include "falconet/base/error.h"
#include "falconet/base/format.h"
#include "falconet/base/settings.h"

namespace falconet {
namespace {

// A scalar as a user would write it on the command line.
bool scalar_text(toml::node const& node, std::string& text) {
  if (auto const* value = node.as_string()) {
    text = value->get();
  } else if (auto const* value = node.as_integer()) {
    text = std::to_string(value->get());
  } else if (auto const* value = node.as_floating_point()) {
    text = format("{}", value->get());
  } else if (auto const* value = node.as_boolean()) {
    text = value->get() ? "true" : "false";
  } else {
    return false;
  }
  return true;
}

bool value_text(toml::node const& node, std::string& text) {
  auto const* array = node.as_array();
  if (!array) return scalar_text(node, text);
  text.clear();
  for (toml::node const& element : *array) {
    std::string piece;
    if (!scalar_text(element, piece)) return false;
    text += (text.empty() ? "" : ",") + piece;
  }
  return true;
}

std::string toml_string(std::string_view text) {
  std::string result = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') {
      result += '\\';
      result += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      result += format("\\u{:04x}", static_cast<unsigned>(c));
    } else {
      result += c;
    }
  }
  return result + '"';
}

std::string toml_value(SettingType type, std::string const& value) {
  switch (type) {
    case SettingType::whole:
    case SettingType::real:   // as std::to_chars writes them, "1e-05" and "3", they are TOML as they stand
    case SettingType::flag: return value;
    case SettingType::text:
    case SettingType::choice: return toml_string(value);
    case SettingType::wholes: return "[" + value + "]";
    case SettingType::texts: {
      std::string list;
      std::stringstream pieces(value);
      for (std::string piece; std::getline(pieces, piece, ',');) list += (list.empty() ? "" : ", ") + toml_string(piece);
      return "[" + list + "]";
    }
  }
  return "";
}

}  // namespace

void Settings::read_file(std::filesystem::path const& file, SettingSource source, std::string const& source_text) {
  std::error_code error;
  if (std::filesystem::is_directory(file, error)) fail(ErrorKind::file, format("{}: is a folder; a TOML file was expected", file.string()));
  std::ifstream stream(file, std::ios::binary);
  std::stringstream content;
  if (stream) content << stream.rdbuf();
  if (!stream) fail(ErrorKind::file, format("{}: cannot be read; a TOML file with settings was expected", file.string()));
  read_toml(content.str(), file.string(), source, source_text);
}

void Settings::read_toml(std::string_view text, std::string const& file_name, SettingSource source, std::string const& source_text) {
  toml::parse_result const result = toml::parse(text, file_name);
  if (!result) {
    fail(ErrorKind::usage, format("{}:{}: {}", file_name, result.error().source().begin.line, result.error().description()));
  }
  // Settings in the file's order, so that the first mistake in it is the one reported.
  auto const apply = [&](toml::key const& key, toml::node const& node, std::string const& name) {
    std::string const place = format("{}:{}: ", file_name, key.source().begin.line);
    std::string value;
    try {
      Setting const* const own = find(name.starts_with("pin.") ? "pin" : name);
      bool const of_this_verb = own != nullptr;
      Setting const* known = name.starts_with("pin.") ? nullptr : own;   // or another verb's
      for (Setting const& setting : settings_table()) {
        if (!known && setting.name == name) known = &setting;
      }
      if (!known && !name.starts_with("pin.")) fail_unknown_setting(name);
      if (!value_text(node, value)) {
        fail(ErrorKind::usage, format("{} should be {}", name, known ? expected(*known) : "the name of an algorithm"));
      }
      if (of_this_verb) set(name, value, source, source_text);
    } catch (Error const& error) {
      fail(error.kind, place + error.message);
    }
  };
  for (auto const& [key, node] : result.table()) {
    toml::table const* table = node.as_table();
    if (key.str() == "pin" && table) {
      for (auto const& [layer, choice] : *table) apply(layer, choice, "pin." + std::string(layer.str()));
    } else if (table && key.str() == "cuda") {   // cuda.check = "sync"
      for (auto const& [inner, value] : *table) apply(inner, value, std::string(key.str()) + "." + std::string(inner.str()));
    } else {
      apply(key, node, std::string(key.str()));
    }
  }
}

std::string Settings::toml() const {
  std::string text = format("# falconet {}\n", verb());
  std::size_t width = 0;
  std::vector<std::pair<std::string, std::string>> lines;
  for (Setting const& setting : settings_table()) {
    auto const value = values_.find(setting.name);
    if (find(setting.name) != &setting || value == values_.end()) continue;
    lines.emplace_back(format("{} = {}", setting.name, toml_value(setting.type, value->second.value)), value->second.source_text);
    width = std::max(width, lines.back().first.size());
  }
  for (auto const& [line, source] : lines) text += format("{:<{}}  # {}\n", line, width, source);
  if (!pins_.empty()) text += "\n[pin]\n";
  for (auto const& [layer, pin] : pins_) text += format("{} = {}  # {}\n", toml_string(layer), toml_string(pin.value), pin.source_text);
  return text;
}

}  // namespace falconet
