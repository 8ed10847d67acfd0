#include "falconet/base/settings.h"

#include <algorithm>
#include <charconv>

#include "falconet/base/format.h"

namespace falconet {
namespace {

constexpr std::string_view pin_prefix = "pin.";

std::vector<std::string_view> pieces(std::string_view list) {   // "a, b" or "a,b"
  std::vector<std::string_view> result;
  for (bool more = !list.empty(); more;) {
    std::size_t const comma = list.find(',');
    std::string_view piece = list.substr(0, comma);
    while (piece.starts_with(' ')) piece.remove_prefix(1);
    while (piece.ends_with(' ')) piece.remove_suffix(1);
    result.push_back(piece);
    more = comma != std::string_view::npos;
    if (more) list.remove_prefix(comma + 1);
  }
  return result;
}

}  // namespace

bool belongs_to(Setting const& setting, std::string_view verb) {
  auto const verbs = pieces(setting.verbs);
  return std::ranges::find(verbs, verb) != verbs.end();
}

namespace {

std::string key_of(std::string_view word) {   // --weight-decay means weight_decay; layer names are left alone
  std::string key(word);
  if (!key.starts_with(pin_prefix)) std::ranges::replace(key, '-', '_');
  return key;
}

// A key is a name as in the table, or pin.ANYTHING; so "./a=b.png" and "https://x?y=z" are paths.
bool looks_like_a_key(std::string_view text) {
  if (text.starts_with(pin_prefix)) return text.size() > pin_prefix.size();
  for (Setting const& setting : settings_table())
    if (auto const dot = setting.name.find('.'); dot != std::string_view::npos && text.starts_with(setting.name.substr(0, dot + 1))) return true;     // cuda.check, cuda.chek
  if (text.empty() || text.front() < 'a' || text.front() > 'z') return false;
  return text.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_-") == std::string_view::npos;
}

bool is_flag_word(std::string_view word) {
  return word == "true" || word == "false" || word == "on" || word == "off" || word == "yes" || word == "no" || word == "1" || word == "0";
}

template <class T>
T number(std::string_view canonical_text) {   // not std::stod, which would follow the program's locale
  T value = 0;
  std::from_chars(canonical_text.data(), canonical_text.data() + canonical_text.size(), value);
  return value;
}

}  // namespace

Settings::Settings(std::string_view verb) : verb_(nullptr) {
  for (Verb const& candidate : verbs_table()) {
    if (candidate.name == verb) verb_ = &candidate;
  }
  if (!verb_) {
    std::vector<std::string> known;
    for (Verb const& candidate : verbs_table()) known.emplace_back(candidate.name);
    fail_unknown("verb", verb, known);
  }
  for (Setting const& setting : settings_table()) {
    if (belongs_to(setting, verb) && !setting.fallback.empty()) assign(setting, setting.fallback, SettingSource::fallback, "default");
  }
}

Setting const* Settings::find(std::string_view name) const {
  for (Setting const& setting : settings_table()) {
    if (setting.name == name && belongs_to(setting, verb())) return &setting;
  }
  return nullptr;
}

namespace {

// The key of `verb` that was most likely meant: the nearest of its keys and of the other words for them, at most two slips away or
// half of the letters, but never all of them. Empty if there is none.
std::string meant(std::string_view name, std::string_view verb) {
  struct Candidate {
    std::string_view word, key;
  };
  auto const is_key = [&](std::string_view word) {
    return std::ranges::any_of(settings_table(), [&](Setting const& s) { return s.name == word && belongs_to(s, verb); });
  };
  std::vector<Candidate> candidates;
  for (Setting const& setting : settings_table()) {
    if (!belongs_to(setting, verb)) continue;
    candidates.push_back({setting.name, setting.name});
    for (Synonym const& synonym : synonyms_table())
      if (synonym.key == setting.name && !is_key(synonym.word)) candidates.push_back({synonym.word, setting.name});
  }
  std::string_view best;
  std::size_t least = std::max<std::size_t>(2, name.size() / 2) + 1;
  for (Candidate const& candidate : candidates) {
    std::size_t const distance = edit_distance(name, candidate.word);
    if (distance < least && distance < std::min(name.size(), candidate.word.size())) best = candidate.key, least = distance;
  }
  for (Candidate const& candidate : candidates)
    if (best.empty() && name.size() >= 2 && candidate.word.starts_with(name)) best = candidate.key;
  return std::string(best);
}

}  // namespace

void Settings::fail_unknown_setting(std::string_view name) const {
  std::string others;
  for (Setting const& setting : settings_table())
    if (setting.name == name) others += format("{}{}", others.empty() ? "" : ", ", setting.verbs);
  std::string const key = meant(name, verb());
  if (!others.empty()) {
    bool const synonym = std::ranges::any_of(synonyms_table(), [&](Synonym const& s) { return s.word == name && s.key == key; });
    fail(ErrorKind::usage, format("'{}' is a setting of {}, not of {}{}", name, others, verb(), synonym ? format("; did you mean '{}'?", key) : ""));
  }
  fail(ErrorKind::usage, key.empty() ? format("unknown setting '{}'; `falconet help {}` lists them", name, verb())
                                     : format("unknown setting '{}'; did you mean '{}'?", name, key));
}

void Settings::read_words(std::span<std::string const> words) {
  bool only_paths = false;
  for (std::size_t i = 0; i < words.size(); ++i) {
    std::string_view word = words[i];
    if (only_paths) {
      paths_.emplace_back(word);
      continue;
    }
    if (word == "--") {
      only_paths = true;
      continue;
    }
    bool const dashed = word.starts_with("--");
    if (dashed) word.remove_prefix(2);
    std::size_t const equals = word.find('=');
    if (equals != std::string_view::npos && (dashed || looks_like_a_key(word.substr(0, equals)))) {
      set(key_of(word.substr(0, equals)), word.substr(equals + 1));
    } else if (dashed) {
      std::string const key = key_of(word);
      Setting const* setting = find(key);
      if (!setting && !key.starts_with(pin_prefix)) fail_unknown_setting(key);
      if (setting && setting->type == SettingType::flag && (i + 1 == words.size() || !is_flag_word(words[i + 1]))) {
        set(key, "true");
      } else if (i + 1 == words.size()) {
        fail(ErrorKind::usage, format("{} needs a value: {}", key, setting ? expected(*setting) : "the name of an algorithm"));
      } else {
        set(key, words[++i]);
      }
    } else if (verb_->paths.empty()) {
      std::string const key = key_of(word);
      if (find(key)) fail(ErrorKind::usage, format("'{}' needs a value: {}=...", word, key));
      fail(ErrorKind::usage, format("{} takes settings as key=value and no paths, so '{}' is not understood", verb(), word));
    } else {
      paths_.emplace_back(word);
    }
  }
}

void Settings::set(std::string_view name, std::string_view value, SettingSource source, std::string const& source_text) {
  if (name == "pin") name = pin_prefix;
  if (name.starts_with(pin_prefix)) return set_pin(name.substr(pin_prefix.size()), value, source, source_text);
  Setting const* setting = find(name);
  if (!setting) fail_unknown_setting(name);
  assign(*setting, value, source, source_text);
}

void Settings::assign(Setting const& setting, std::string_view value, SettingSource source, std::string const& source_text) {
  std::string text = canonical(setting, value);
  auto const found = values_.find(setting.name);
  if (found == values_.end()) {
    values_.emplace(setting.name, Held{std::move(text), source_text, source});
  } else if (source >= found->second.source) {
    found->second = Held{std::move(text), source_text, source};
  }
}

void Settings::set_pin(std::string_view layer, std::string_view choice, SettingSource source, std::string const& source_text) {
  if (!find("pin")) fail(ErrorKind::usage, format("{} runs no layers, so nothing can be pinned", verb()));
  if (layer.empty()) fail(ErrorKind::usage, "a pin needs a layer: pin.LAYER[:direction]=ALGORITHM");
  if (choice.empty()) fail(ErrorKind::usage, format("pin.{} should name an algorithm, such as reference", layer));
  Held& pin = pins_[std::string(layer)];
  if (source >= pin.source) pin = Held{std::string(choice), source_text, source};
}

bool Settings::has(std::string_view name) const {
  if (!find(name)) fail(ErrorKind::internal, format("the settings table has no '{}' for {}", name, verb()));
  return values_.contains(name);
}

bool Settings::given(std::string_view name) const { return has(name) && values_.find(name)->second.source != SettingSource::fallback; }

Settings::Held const& Settings::held(std::string_view name, SettingType type, SettingType other) const {
  Setting const* setting = find(name);
  if (!setting || (setting->type != type && setting->type != other)) {
    fail(ErrorKind::internal, format("the settings table has no '{}' of this type for {}", name, verb()));
  }
  auto const found = values_.find(name);
  if (found == values_.end()) fail(ErrorKind::usage, format("{} needs {}=...: {}", verb(), name, setting->help));
  return found->second;
}

std::int64_t Settings::whole(std::string_view name) const { return number<std::int64_t>(held(name, SettingType::whole, SettingType::whole).value); }
double Settings::real(std::string_view name) const { return number<double>(held(name, SettingType::real, SettingType::real).value); }
bool Settings::flag(std::string_view name) const { return held(name, SettingType::flag, SettingType::flag).value == "true"; }
std::string Settings::text(std::string_view name) const { return held(name, SettingType::text, SettingType::choice).value; }

std::vector<std::int64_t> Settings::wholes(std::string_view name) const {
  std::vector<std::int64_t> result;
  for (std::string_view piece : pieces(held(name, SettingType::wholes, SettingType::wholes).value)) result.push_back(number<std::int64_t>(piece));
  return result;
}

std::vector<std::string> Settings::texts(std::string_view name) const {
  auto const list = pieces(held(name, SettingType::texts, SettingType::texts).value);
  return {list.begin(), list.end()};
}

std::string Settings::source(std::string_view name) const {
  if (!has(name)) return "";
  return values_.find(name)->second.source_text;
}

std::vector<Pin> Settings::pins() const {
  std::vector<Pin> result;
  for (auto const& [layer, pin] : pins_) result.push_back({layer, pin.value, pin.source_text});
  return result;
}

std::string help_text() {
  std::string text = "falconet VERB key=value ... [paths]     (--key value and --key=value too)\n\n";
  for (Verb const& verb : verbs_table()) text += format("  {:<14}{:<58}  falconet {}\n", verb.name, verb.help, verb.example);
  text += "\n`falconet help VERB` lists the settings of a verb, `falconet help data` the kinds of data; json=true gives rows.\n";
  text += "A setting comes from its default, the recipe, the config file or the command line; the later wins.\n";
  return text;
}

std::string help_of(Setting const& setting, std::string_view networks) {
  constexpr std::string_view place = "{networks}";
  std::string help(setting.help);
  if (auto const at = help.find(place); at != help.npos) help.replace(at, place.size(), networks);
  return help;
}

std::string help_text(std::string_view name, std::string_view networks) {
  Settings const known(name);
  Verb const& verb = *std::ranges::find(verbs_table(), known.verb(), &Verb::name);
  std::string text = format("falconet {}: {}\n\n", verb.name, verb.help);
  std::size_t width = 0;
  for (Setting const& setting : settings_table()) {
    if (belongs_to(setting, verb.name)) width = std::max(width, setting.name.size() + 1 + std::max<std::size_t>(3, setting.fallback.size()));
  }
  for (Setting const& setting : settings_table()) {
    if (!belongs_to(setting, verb.name)) continue;
    std::string const shown = format("{}={}", setting.name == "pin" ? "pin.LAYER" : setting.name, setting.fallback.empty() ? "..." : setting.fallback);
    bool const obvious = setting.type == SettingType::text || setting.type == SettingType::texts || setting.type == SettingType::flag;
    text += format("  {:<{}}  {}{}\n", shown, width, help_of(setting, networks), obvious ? "" : format(" ({})", expected(setting)));
  }
  if (!verb.paths.empty()) text += format("  {:<{}}  {}\n", "PATH ...", width, verb.paths);
  return text + format("\nfor example: falconet {}\n", verb.example);
}

}  // namespace falconet
