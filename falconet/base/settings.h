// Settings: one table (settings_table.cpp) feeds the command line, `help`, TOML files and the args.toml of a run.
//
//   Settings settings("train");
//   settings.read_words(words);                                              // epochs=3 --batch 128 pin.conv1=direct
//   if (settings.has("recipe")) settings.read_file("recipes/mnist.toml", SettingSource::recipe, "recipe mnist");
//   std::int64_t const epochs = settings.whole("epochs");
//
// The order of the calls does not matter: each value remembers where it came from and a higher source wins. All errors are usage
// errors that name the setting (and file and line) and say what was expected.
#pragma once
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "falconet/base/nearest.h"   // for those who offer the nearest name of their own

namespace falconet {

enum class SettingType : std::uint8_t { whole, real, flag, text, choice, wholes, texts };   // wholes, texts: lists, a,b,c

// A row of the table. The same name may stand in several rows, for different verbs.
struct Setting {
  std::string_view name;
  SettingType type = SettingType::text;
  std::string_view fallback;                     // the default, as a user would write it; empty: none
  std::string_view verbs;                        // "train, bench train"
  std::string_view help;                         // half a line, no full stop; {networks}: where help_of() writes their names
  std::string_view choices = "";                 // of a choice: "f32, bf16, f64"
  double least = -std::numeric_limits<double>::infinity(), most = std::numeric_limits<double>::infinity();   // of numbers
  bool above_least = false, below_most = false;  // the ends themselves are not allowed
};

struct Verb {
  std::string_view name;                         // "train", "bench conv"
  std::string_view help;                         // half a line
  std::string_view example;                      // the words after "falconet"
  std::string_view paths = "";                   // what its positional paths are; empty: it takes none
};

// Another word for a setting, which an error message answers with the setting's name. It may be the name of another verb's setting.
struct Synonym {
  std::string_view word, key;
};

std::span<Setting const> settings_table();
std::span<Synonym const> synonyms_table();
std::span<Verb const> verbs_table();

// Where a value came from; a later one wins. `run` is the args.toml of a run that is being resumed.
enum class SettingSource : std::uint8_t { fallback, recipe, config, run, command_line };

// layer[:direction] -> algorithm[:config]; by pin.LAYER=... on the command line, and in [pin] in a file.
struct Pin {
  std::string layer, choice, source;
};

class Settings {
 public:
  explicit Settings(std::string_view verb);      // one of verbs_table(), else throws, offering the nearest
  std::string_view verb() const { return verb_->name; }

  // key=value, --key value, --key=value, --flag; pin.LAYER[:direction]=ALGORITHM; anything else is a path. A dash in a key
  // stands for an underscore, "--" ends the settings, and of two equal keys the last wins.
  void read_words(std::span<std::string const> words);
  // Every key must be known, but keys of other verbs are passed over: a recipe serves train, eval and summary alike.
  void read_file(std::filesystem::path const& file, SettingSource, std::string const& source_text);
  void read_toml(std::string_view toml, std::string const& file_name, SettingSource, std::string const& source_text);
  void set(std::string_view name, std::string_view value, SettingSource = SettingSource::command_line, std::string const& source_text = "command line");

  bool has(std::string_view name) const;         // it has a value, perhaps the default
  bool given(std::string_view name) const;       // a value that is not the table's default
  // Each throws a usage error when there is no value ("train needs model=..."), and an internal one when the table has another type.
  std::int64_t whole(std::string_view name) const;
  double real(std::string_view name) const;
  bool flag(std::string_view name) const;
  std::string text(std::string_view name) const; // of text and choice
  std::vector<std::int64_t> wholes(std::string_view name) const;
  std::vector<std::string> texts(std::string_view name) const;
  std::string source(std::string_view name) const;   // "default", "recipe mnist", "config my.toml", "command line"
  std::vector<std::string> const& paths() const { return paths_; }
  std::vector<Pin> pins() const;                 // sorted by layer

  // What args.toml says: every setting of the verb that has a value, with its source as a comment. read_file() reads it back.
  std::string toml() const;

 private:
  struct Held {
    std::string value, source_text;
    SettingSource source = SettingSource::fallback;
  };
  Setting const* find(std::string_view name) const;                          // of this verb
  Held const& held(std::string_view name, SettingType, SettingType other) const;
  void assign(Setting const&, std::string_view value, SettingSource, std::string const& source_text);
  void set_pin(std::string_view layer, std::string_view choice, SettingSource, std::string const& source_text);
  [[noreturn]] void fail_unknown_setting(std::string_view name) const;

  Verb const* verb_;
  std::map<std::string, Held, std::less<>> values_, pins_;
  std::vector<std::string> paths_;
};

// "a whole number of at least 1", "one of f32, bf16, f64", "true or false" ...
std::string expected(Setting const&);
// The value in its one canonical spelling ("064" -> "64", "on" -> "true"); throws "batch should be a whole number of at least 1, not 0".
std::string canonical(Setting const&, std::string_view value);

bool belongs_to(Setting const&, std::string_view verb);
// Its help with the names of the networks in their place.
std::string help_of(Setting const&, std::string_view networks);
// The page that `falconet help` and `falconet help VERB` print, from the tables. networks: what model= may be, which is known elsewhere.
std::string help_text();
std::string help_text(std::string_view verb, std::string_view networks);

}  // namespace falconet
