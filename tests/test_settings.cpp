// Settings: what the command line, TOML files and args.toml may say, and what falconet answers to mistakes.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "falconet/base/error.h"
#include "falconet/base/nearest.h"
#include "falconet/base/settings.h"

namespace falconet {
namespace {

Settings words(std::string_view verb, std::vector<std::string> const& list) {
  Settings settings(verb);
  settings.read_words(list);
  return settings;
}

template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (Error const& error) {
    EXPECT_TRUE(error.kind == ErrorKind::usage || error.kind == ErrorKind::file) << error.what();
    return error.what();
  }
  return "no error";
}
std::string mistake(std::string_view verb, std::vector<std::string> const& list) {
  return error_of([&] { words(verb, list); });
}
std::string toml_mistake(std::string_view text) {
  return error_of([&] { Settings("train").read_toml(text, "x.toml", SettingSource::config, "config x.toml"); });
}

TEST(Settings, EveryRowOfTheTableIsSound) {
  for (Setting const& setting : settings_table()) {
    SCOPED_TRACE(setting.name);
    EXPECT_FALSE(setting.help.empty());
    EXPECT_FALSE(setting.help.ends_with('.'));
    EXPECT_EQ(setting.type == SettingType::choice, !setting.choices.empty());
    if (!setting.fallback.empty()) { EXPECT_NO_THROW(canonical(setting, setting.fallback)); }
    std::string verbs = std::string(setting.verbs) + ", ";
    for (std::size_t at = 0; at < verbs.size();) {
      std::size_t const comma = verbs.find(", ", at);
      std::string const verb = verbs.substr(at, comma - at);
      int rows = 0;
      for (Setting const& other : settings_table()) rows += other.name == setting.name && (", " + std::string(other.verbs) + ", ").find(", " + verb + ", ") != std::string::npos;
      EXPECT_EQ(rows, 1) << "rows of this name for " << verb;
      EXPECT_NO_THROW(Settings{verb}) << verb;
      at = comma + 2;
    }
  }
}

TEST(Settings, AValueMayBeWrittenInThreeWays) {
  EXPECT_EQ(words("train", {"epochs=3"}).whole("epochs"), 3);
  EXPECT_EQ(words("train", {"--epochs=4"}).whole("epochs"), 4);
  EXPECT_EQ(words("train", {"--epochs", "5"}).whole("epochs"), 5);
  EXPECT_EQ(words("train", {"--weight-decay", "5e-4"}).real("weight_decay"), 5e-4);
  EXPECT_EQ(words("train", {"weight-decay=0.5"}).real("weight_decay"), 0.5);
}

TEST(Settings, OfTwoEqualKeysTheLastWins) { EXPECT_EQ(words("train", {"epochs=3", "epochs=7"}).whole("epochs"), 7); }

TEST(Settings, AFlagNeedsNoValue) {
  EXPECT_FALSE(words("predict", {}).flag("json"));
  EXPECT_TRUE(words("predict", {"--json"}).flag("json"));
  EXPECT_FALSE(words("predict", {"--json", "off"}).flag("json"));
  Settings const settings = words("predict", {"--json", "cat.png"});
  EXPECT_TRUE(settings.flag("json"));
  EXPECT_EQ(settings.paths(), std::vector<std::string>{"cat.png"});
  EXPECT_TRUE(words("train", {"rivals=on"}).flag("rivals"));
}

TEST(Settings, ListsAreWrittenWithCommas) {
  EXPECT_EQ(words("bench conv", {"threads=1,2"}).wholes("threads"), (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(words("bench conv", {"directions=fwd"}).texts("directions"), std::vector<std::string>{"fwd"});
  EXPECT_EQ(mistake("bench conv", {"threads=1,,2"}), "threads should be whole numbers from 1 to 1024, such as 1,2, not '1,,2'");
  EXPECT_EQ(mistake("bench conv", {"threads=1,0"}), "threads should be whole numbers from 1 to 1024, such as 1,2, not '1,0'");
}

TEST(Settings, PathsAreWhateverIsNoSetting) {
  EXPECT_EQ(words("predict", {"model=m", "./a=b.png", "dogs/", "--", "--json", "count=3"}).paths(),
            (std::vector<std::string>{"./a=b.png", "dogs/", "--json", "count=3"}));
}

TEST(Settings, ATypoGetsTheNearestName) {
  EXPECT_EQ(mistake("train", {"epocs=3"}), "unknown setting 'epocs'; did you mean 'epochs'?");
  EXPECT_EQ(mistake("train", {"--bacth", "3"}), "unknown setting 'bacth'; did you mean 'batch'?");
  EXPECT_EQ(mistake("train", {"EPOCHS=3"}), "train takes settings as key=value and no paths, so 'EPOCHS=3' is not understood");
  EXPECT_EQ(mistake("train", {"--zzzzzz=3"}), "unknown setting 'zzzzzz'; `falconet help train` lists them");
  EXPECT_EQ(error_of([] { Settings("trian"); }), "unknown verb 'trian'; did you mean 'train'?");
}

TEST(Settings, AnotherWordForASettingGetsItsName) {
  for (auto const& [word, key] : std::vector<std::pair<std::string, std::string>>{
           {"learning_rate", "lr"}, {"learning-rate", "lr"}, {"learning", "lr"}, {"lerning", "lr"}, {"epoch", "epochs"}, {"batch_size", "batch"},
           {"batchsize", "batch"}, {"gpu", "device"}, {"out", "run"}, {"output", "run"}, {"workers", "threads"}, {"optimiser", "optimizer"},
           {"wieghts", "weights"}, {"decay", "weight_decay"}, {"dataset", "data"}, {"smothing", "label_smoothing"}})
    EXPECT_NE(mistake("train", {"--" + word + "=1"}).find("; did you mean '" + key + "'?"), std::string::npos) << mistake("train", {"--" + word + "=1"});
  for (Synonym const& synonym : synonyms_table()) {
    auto const row = std::ranges::find(settings_table(), synonym.key, &Setting::name);
    EXPECT_NE(row, settings_table().end()) << synonym.word << " stands for '" << synonym.key << "', which is no setting";
  }
}

TEST(Settings, NumbersHaveAnUpperBoundThatFitsWhereTheyAreUsed) {
  for (std::string const value : {"1000001", "2147483648", "4294967297", "9223372036854775807"})
    for (auto const& [verb, key] : std::vector<std::pair<std::string, std::string>>{
             {"train", "epochs"}, {"train", "batch"}, {"train", "threads"}, {"train", "step_epochs"}, {"bench train", "steps"},
             {"bench conv", "repetitions"}, {"bench conv", "threads"}, {"predict", "top"}}) {
      if (key == "batch" && value == "1000001") continue;
      auto const text = mistake(verb, {key + "=" + value});
      EXPECT_TRUE(text.starts_with(key + " should be ") && text.find(" from 1 to ") != std::string::npos) << text;
    }
}

TEST(Settings, AKeyOfAnotherVerbIsNamedAsSuch) {
  EXPECT_EQ(mistake("eval", {"run=x"}), "'run' is a setting of train, not of eval; did you mean 'model'?");
  EXPECT_EQ(mistake("eval", {"epochs=3"}), "'epochs' is a setting of train, not of eval");
}

TEST(Settings, AWrongValueNamesTheSettingAndWhatIsExpected) {
  EXPECT_EQ(mistake("train", {"epochs=0"}), "epochs should be a whole number from 1 to 1000000, not 0");
  EXPECT_EQ(mistake("train", {"batch=0"}), "batch should be a whole number from 1 to 1048576, not 0");
  EXPECT_EQ(mistake("train", {"epochs=3.5"}), "epochs should be a whole number from 1 to 1000000, not 3.5");
  EXPECT_EQ(mistake("train", {"epochs=three"}), "epochs should be a whole number from 1 to 1000000, not 'three'");
  EXPECT_EQ(mistake("train", {"epochs="}), "epochs should be a whole number from 1 to 1000000, not ''");
  EXPECT_EQ(mistake("train", {"epochs=99999999999999999999"}), "epochs should be a whole number from 1 to 1000000, not 99999999999999999999");
  EXPECT_EQ(mistake("train", {"lr=-0.1"}), "lr should be a number above 0 and at most 1e+06, not -0.1");
  EXPECT_EQ(mistake("train", {"--lr", "-1"}), "lr should be a number above 0 and at most 1e+06, not -1");
  EXPECT_EQ(mistake("train", {"lr=nan"}), "lr should be a number above 0 and at most 1e+06, not 'nan'");
  EXPECT_EQ(mistake("train", {"momentum=1"}), "momentum should be a number of at least 0 and below 1, not 1");
  EXPECT_EQ(mistake("train", {"precision=f16"}), "precision should be one of f32, tf32, bf16, f64, not 'f16'");
  EXPECT_EQ(mistake("train", {"nesterov=maybe"}), "nesterov should be true or false, not 'maybe'");
  EXPECT_EQ(mistake("train", {"run="}), "run should not be empty: the run folder; default: the next free runs/trainN");
}

TEST(Settings, AKeyWithoutAValueIsAnError) {
  EXPECT_EQ(mistake("train", {"epochs"}), "'epochs' needs a value: epochs=...");
  EXPECT_EQ(mistake("train", {"--epochs"}), "epochs needs a value: a whole number from 1 to 1000000");
  EXPECT_EQ(mistake("train", {"cat.png"}), "train takes settings as key=value and no paths, so 'cat.png' is not understood");
}

TEST(Settings, AMissingValueSaysWhatIsNeeded) {
  EXPECT_EQ(error_of([] { words("eval", {}).text("model"); }), "eval needs model=...: a run folder or a .safetensors file; with weights=: the name of a network");
  EXPECT_FALSE(words("eval", {}).has("model"));
}

TEST(Settings, TheHigherSourceWinsWhateverTheOrder) {
  Settings settings = words("train", {"batch=32"});
  settings.read_toml("epochs = 5\nbatch = 128\nlr = 0.5\n", "c.toml", SettingSource::config, "config c.toml");
  settings.read_toml("epochs = 9\nbatch = 256\nlr = 1\nmomentum = 0.5\n", "r.toml", SettingSource::recipe, "recipe mnist");
  EXPECT_EQ(settings.whole("batch"), 32);
  EXPECT_EQ(settings.source("batch"), "command line");
  EXPECT_EQ(settings.whole("epochs"), 5);
  EXPECT_EQ(settings.source("epochs"), "config c.toml");
  EXPECT_EQ(settings.real("lr"), 0.5);
  EXPECT_EQ(settings.real("momentum"), 0.5);
  EXPECT_EQ(settings.source("momentum"), "recipe mnist");
  EXPECT_EQ(settings.source("seed"), "default");
  EXPECT_TRUE(settings.given("momentum"));
  EXPECT_FALSE(settings.given("seed"));
}

TEST(Settings, PinsNameALayerAndADirection) {
  Settings settings = words("train", {"pin.layer1.0.conv1=direct", "--pin.conv1:fwd", "im2col_gemm:tile:8"});
  settings.read_toml("[pin]\nconv9 = \"naive\"\n\"layer1.0.conv1\" = \"naive\"\n", "c.toml", SettingSource::config, "config c.toml");
  auto const pins = settings.pins();
  ASSERT_EQ(pins.size(), 3u);
  EXPECT_EQ(pins[0].layer, "conv1:fwd");
  EXPECT_EQ(pins[0].choice, "im2col_gemm:tile:8");
  EXPECT_EQ(pins[1].layer, "conv9");
  EXPECT_EQ(pins[1].source, "config c.toml");
  EXPECT_EQ(pins[2].choice, "direct");
  EXPECT_EQ(mistake("train", {"pin.conv1="}), "pin.conv1 should name an algorithm, such as reference");
  EXPECT_EQ(mistake("train", {"pin=direct"}), "a pin needs a layer: pin.LAYER[:direction]=ALGORITHM");
  EXPECT_EQ(mistake("checks", {"pin.conv1=direct"}), "checks runs no layers, so nothing can be pinned");
}

TEST(Settings, MistakesInAFileNameFileAndLine) {
  EXPECT_EQ(toml_mistake("batch = 3\nepocs = 1\n"), "x.toml:2: unknown setting 'epocs'; did you mean 'epochs'?");
  EXPECT_EQ(toml_mistake("\nbatch = 0\n"), "x.toml:2: batch should be a whole number from 1 to 1048576, not 0");
  EXPECT_EQ(toml_mistake("batch = 1979-05-27\n"), "x.toml:1: batch should be a whole number from 1 to 1048576");
  EXPECT_EQ(toml_mistake("[batch]\nx = 1\n"), "x.toml:1: batch should be a whole number from 1 to 1048576");
  EXPECT_EQ(toml_mistake("[pin]\n\nconv1 = [[1]]\n"), "x.toml:3: pin.conv1 should be the name of an algorithm");
  EXPECT_TRUE(toml_mistake("batch = \n").starts_with("x.toml:1: ")) << toml_mistake("batch = \n");
  EXPECT_EQ(toml_mistake("step_epochs = [30, 60]\nsteps = 5  # of bench\n"), "no error");
  EXPECT_EQ(error_of([] { Settings("train").read_file("no/such.toml", SettingSource::config, ""); }),
            "no/such.toml: cannot be read; a TOML file with settings was expected");
  EXPECT_EQ(error_of([] { Settings("train").read_file("tests", SettingSource::config, ""); }), "tests: is a folder; a TOML file was expected");
}

TEST(Settings, AFileServesSeveralVerbs) {
  Settings settings("eval");
  settings.read_toml("epochs = 3\ndata = \"mnist:data/mnist\"\n", "r.toml", SettingSource::recipe, "recipe mnist");
  EXPECT_EQ(settings.text("data"), "mnist:data/mnist");
}

TEST(Settings, ArgsTomlHoldsEachValueWithItsSourceAndReadsBack) {
  Settings settings = words("train", {"model=a \"b\" \\c\x01", "lr=1e-05", "step-epochs=30,60", "--nesterov", "pin.l.\"0\":fwd=direct", "seed=9007199254740993"});
  settings.read_toml("epochs = 3\n", "r.toml", SettingSource::recipe, "recipe mnist");
  std::string const text = settings.toml();
  EXPECT_NE(text.find("\nepochs = 3 "), std::string::npos) << text;
  EXPECT_NE(text.find("# recipe mnist\n"), std::string::npos) << text;
  EXPECT_NE(text.find("# command line\n"), std::string::npos) << text;

  auto const file = std::filesystem::temp_directory_path() / ("falconet_args_" + std::to_string(::getpid()) + ".toml");
  std::ofstream(file) << text;
  Settings again("train");
  again.read_file(file, SettingSource::run, "run runs/x");
  std::filesystem::remove(file);
  EXPECT_EQ(again.text("model"), "a \"b\" \\c\x01");
  EXPECT_EQ(again.real("lr"), 1e-05);
  EXPECT_EQ(again.whole("epochs"), 3);
  EXPECT_EQ(again.whole("seed"), 9007199254740993);
  EXPECT_EQ(again.wholes("step_epochs"), (std::vector<std::int64_t>{30, 60}));
  EXPECT_TRUE(again.flag("nesterov"));
  EXPECT_EQ(again.pins().at(0).layer, "l.\"0\":fwd");
  EXPECT_EQ(again.source("epochs"), "run runs/x");
  EXPECT_FALSE(again.has("resume"));
}

TEST(Settings, CanonicalValuesAreSpeltInOneWay) {
  EXPECT_EQ(words("train", {"batch=064"}).whole("batch"), 64);
  EXPECT_EQ(words("train", {"batch=+64"}).whole("batch"), 64);
  EXPECT_NE(words("train", {"lr=1.0e-3"}).toml().find("lr = 0.001 "), std::string::npos);
}

TEST(Settings, EveryVerbHasAHelpPage) {
  for (Verb const& verb : verbs_table()) {
    std::string const page = help_text(verb.name, "lenet5, resnet20");
    EXPECT_NE(page.find(verb.help), std::string::npos);
    EXPECT_NE(help_text().find(verb.name), std::string::npos);
    EXPECT_EQ(page.find("{networks}"), std::string::npos);
    for (std::size_t at = 0; at < page.size(); at = page.find('\n', at) + 1) EXPECT_LE(page.find('\n', at) - at, 160u) << page.substr(at, 160);
  }
  EXPECT_NE(help_text("train", "lenet5, resnet20").find("epochs=10"), std::string::npos) << help_text("train", "lenet5, resnet20");
  EXPECT_NE(help_text("train", "lenet5, resnet20").find("pin.LAYER=..."), std::string::npos);
  EXPECT_NE(help_text("bench train", "lenet5, resnet20").find("the network: lenet5, resnet20\n"), std::string::npos);
  EXPECT_EQ(help_text("checks", "").find("pin.LAYER=..."), std::string::npos);
}

TEST(Nearest, SlipsOfTheFingersAreForgivenAndOthersAreNot) {
  std::vector<std::string> const known = {"mnist_cnn", "lenet5", "resnet20", "resnet56", "resnet_mini"};
  EXPECT_EQ(nearest("mnist-cnn", known), "mnist_cnn");
  EXPECT_EQ(nearest("ResNet20", known), "resnet20");
  EXPECT_EQ(nearest("lenet", known), "lenet5");
  EXPECT_EQ(nearest("mnist", known), "mnist_cnn");
  EXPECT_EQ(nearest("vgg16", known), "");
  EXPECT_EQ(nearest("", known), "");
  EXPECT_EQ(edit_distance("ab", "ba"), 1u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(unknown_name("model", "vgg16", known), "unknown model 'vgg16'; known are mnist_cnn, lenet5, resnet20, resnet56, resnet_mini");
}

}  // namespace
}  // namespace falconet
