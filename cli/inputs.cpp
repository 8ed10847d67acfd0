#include "cli/inputs.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "falconet/base/error.h"
#include "falconet/base/file.h"
#include "falconet/base/format.h"
#include "falconet/data/cifar.h"
#include "falconet/data/image_folder.h"
#include "falconet/data/mnist.h"
#include "falconet/device/cuda/handles.h"
#include "falconet/device/cuda_status.h"
#include "falconet/train/model_file.h"
#include "falconet/train/run_folder.h"

namespace falconet::cli {
namespace {

namespace fs = std::filesystem;

fs::path share_folder() {  // of an install tree: bin/falconet, share/falconet
  std::error_code error;
  fs::path const program = fs::read_symlink("/proc/self/exe", error);
  return error ? fs::path() : program.parent_path().parent_path() / "share" / "falconet";
}

bool is_there(fs::path const& path) {
  std::error_code error;
  return fs::exists(path, error);
}

std::string trimmed(std::string folder) {
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  return folder;
}

}  // namespace

ProgramText program_text(std::string const& folder, std::string const& name, std::string const& extension, std::string_view kind_of_thing) {
  bool const is_path = name.find('/') != std::string::npos || name.ends_with(extension);
  std::string const inside = folder + "/" + name + extension;
  for (fs::path const& path : {is_path ? fs::path(name) : fs::path(inside), share_folder() / inside}) {
    if (!is_there(path)) continue;
    return {path.string(), std::string(read_file(path.string()).text())};
  }
  std::vector<std::string> known;
  for (auto const& file : embedded_files()) {
    if (file.name == inside) return {inside, std::string(file.text)};
    if (file.name.starts_with(folder + "/"))
      known.emplace_back(file.name.substr(folder.size() + 1, file.name.size() - folder.size() - 1 - extension.size()));
  }
  if (is_path) fail(ErrorKind::file, format("{}: no such file", name));
  fail_unknown(kind_of_thing, name, known);
}

void read_settings(Settings& settings, std::span<std::string const> words) {
  settings.read_words(words);
  bool const may_have_recipe = settings.verb() != "predict" && settings.verb() != "checks" && settings.verb() != "bench conv";
  if (may_have_recipe && settings.has("recipe")) {
    auto const name = settings.text("recipe");
    auto const recipe = program_text("recipes", name, ".toml", "recipe");
    settings.read_toml(recipe.text, recipe.where, SettingSource::recipe, "recipe " + name);
  }
  if (settings.verb() != "checks" && settings.has("config")) {
    auto const file = settings.text("config");
    settings.read_file(file, SettingSource::config, "config " + file);
  }
  if (settings.verb() == "train" && settings.given("resume")) {
    auto const run = trimmed(settings.text("resume"));
    std::error_code error;
    if (!fs::is_directory(run, error)) fail(ErrorKind::file, format("{}: no such run folder to resume", run));
    if (is_there(run + "/lock")) FileLock const free(run + "/lock");   // says which process has it, if one has
    if (is_there(run + "/args.toml"))
      settings.read_file(run + "/args.toml", SettingSource::run, "run " + run);
    else
      settings.read_toml(record_of_run(run, [](std::string const&) {}).settings, run + "/last.ckpt", SettingSource::run, "run " + run);
    if (settings.source("run") == "command line" && trimmed(settings.text("run")) != run)
      fail(ErrorKind::usage, format("resume={} goes on in that folder, so run={} cannot be another", run, settings.text("run")));
    settings.set("run", run);
  }
  if (settings.verb() != "checks") set_cuda_check(settings.text("cuda.check") == "sync" ? CudaCheck::sync : CudaCheck::off);
}

// ---- data ----

std::span<DataKind const> data_kinds() {
  static constexpr DataKind kinds[] = {
      {"mnist", "data/mnist", "60,000 and 10,000 digits, 1x28x28, 10 classes (IDX files, gzip or plain)",
       [](std::string const& folder, models::Description const&) { return data::mnist(folder); }},
      {"fashion_mnist", "data/fashion-mnist", "clothes in the same form",
       [](std::string const& folder, models::Description const&) { return data::fashion_mnist(folder); }},
      {"cifar10", "data/cifar-10", "50,000 and 10,000 pictures, 3x32x32, 10 classes (binary version)",
       [](std::string const& folder, models::Description const&) { return data::cifar10(folder); }},
      {"folder", "", "images of your own, a folder for each class",
       [](std::string const& folder, models::Description const& network) {
         data::ImageFolderOptions options{.height = int(network.image[1]), .width = int(network.image[2]), .channels = int(network.image[0])};
         if (network.imagenet) {
           auto const spec = network.spec(network.classes);
           options.mean = spec.mean, options.std = spec.std;
         }
         return data::image_folder(folder, options);
       }},
  };
  return kinds;
}

std::string find_data_folder(std::string const& folder) {
  if (is_there(folder) || folder.starts_with('/')) return folder;
  fs::path const path(folder), inside = path.begin() != path.end() && *path.begin() == "data" ? path.lexically_relative("data") : path;
  if (char const* home = std::getenv("FALCONET_DATA"); home && *home)
    if (auto const candidate = fs::path(home) / inside; is_there(candidate)) return candidate.string();
  for (auto const& root : {share_folder(), fs::path(FALCONET_SOURCE_DIR)})
    if (auto const candidate = root / "data" / inside; is_there(candidate)) return candidate.string();
  return folder;
}

namespace {

struct Place {
  DataKind const* kind;
  std::string folder;
};

Place place_of(std::string const& text) {
  auto const colon = text.find(':');
  auto const kind = text.substr(0, colon);
  std::vector<std::string> known;
  for (auto const& k : data_kinds()) {
    known.emplace_back(k.name);
    if (k.name != kind) continue;
    std::string const wanted = colon == std::string::npos ? std::string(k.folder) : trimmed(text.substr(colon + 1));
    if (wanted.empty()) fail(ErrorKind::usage, format("data={} needs a folder: data={}:FOLDER", text, kind));
    std::string const folder = find_data_folder(wanted);
    if (!is_there(folder))
      fail(ErrorKind::data,
           format("{}: no such folder, where the data set {} was expected (data={}:FOLDER, or FALCONET_DATA, says where it is)", folder,
                  kind, kind));
    return {&k, folder};
  }
  fail_unknown("data set", kind, known);
}

}  // namespace

NamedData open_data(std::string const& text, models::Description const& network) {
  auto const place = place_of(text);
  return {std::string(place.kind->name), place.folder, place.kind->open(place.folder, network)};
}

namespace {
// Where the test part of an image folder lies: in it, or the folder itself.
std::string test_part(std::string const& folder) {
  for (char const* part : {"/val", "/test", "/valid", ""})
    if (is_there(folder + part)) return folder + part;
  fail(ErrorKind::data, folder + ": no such folder");
}
}  // namespace

TestData open_test_data(std::string const& text, ImageSpec const& spec) {
  auto const place = place_of(text);
  std::string const kind(place.kind->name);
  if (kind != "folder") return {kind, place.folder, place.kind->open(place.folder, {}).test};
  return {kind, place.folder, data::image_folder_part(test_part(place.folder), {spec.image, spec.mean, spec.std, spec.labels})};
}

// ---- models ----

std::string run_file(std::string const& model) {
  std::error_code error;
  if (!fs::is_directory(model, error)) {
    if (!is_there(model)) {
      for (auto const& known : models::known())
        if (known.name == model)
          fail(ErrorKind::usage, format("model={} is an untrained network; a run folder or a .safetensors file is needed, or weights=FILE beside it", model));
      fail(ErrorKind::file, format("{}: no such run folder or .safetensors file", model));
    }
    return model;
  }
  auto const best = trimmed(model) + "/best.safetensors";
  if (!is_there(best)) fail(ErrorKind::file, format("{}: the run has no best.safetensors yet", model));
  return best;
}

ModelOptions model_options(Settings const& settings) {
  ModelOptions options;
  options.device = settings.text("device");
  if (options.device == "auto" && cuda_status().devices > 0 && Device::parse("auto").kind == DeviceKind::cpu)   // a GPU is there and is not taken: not in silence
    std::fprintf(stderr, "note: on the CPU: %s\n", cuda_refusal(0).c_str());
  if (settings.has("threads")) options.threads = int(settings.whole("threads"));
  if (settings.has("isa")) {
    Isa const wanted = parse_isa(settings.text("isa"));
    if (wanted > detected_isa())
      fail(ErrorKind::device, format("isa={}: this processor has only {}", settings.text("isa"), name(detected_isa())));
    options.isa = wanted;
  }
  return options;
}

std::unique_ptr<Model> make_model(Settings const& settings, ImageSpec const* spec) {
  auto const& description = models::find(settings.text("model"));
  ImageSpec own;
  if (!spec) {
    own = description.spec(settings.has("classes") ? int(settings.whole("classes")) : description.classes);
    spec = &own;
  }
  auto options = model_options(settings);
  options.seed = std::uint64_t(settings.whole("seed"));
  auto model = std::make_unique<Model>(*spec, description.make(int(spec->labels.size())), options);
  model->name = description.name;
  return model;
}

bool is_trained(std::string const& model) {
  std::error_code error;
  return fs::is_directory(model, error) || model.ends_with(".safetensors");
}

std::unique_ptr<Model> described_model(Settings const& settings, ImageSpec const* spec) {
  auto const which = settings.text("model");
  if (!is_trained(which)) {
    auto model = make_model(settings, spec);
    read_weights(settings, *model);
    return model;
  }
  for (char const* other : {"weights", "classes"})
    if (settings.has(other)) fail(ErrorKind::usage, format("model={} has weights and classes of its own: {}= is for a network by name", which, other));
  return load_model(run_file(which), model_options(settings));
}

namespace {
constexpr std::string_view partial = "partial:";
}

void read_weights(Settings const& settings, Model& model) {
  if (!settings.has("weights")) return;
  auto const text = settings.text("weights");
  bool const some = text.starts_with(partial);
  auto const file = run_file(some ? text.substr(partial.size()) : text);
  auto const read = load_weights(model, file, some ? WeightMatch::partial : WeightMatch::strict);
  if (!read.misfits().empty()) std::fprintf(stderr, "note: %s: %d tensors read%s\n", file.c_str(), read.read, read.misfits().c_str());
}

std::unique_ptr<Model> trained_model(Settings const& settings) {
  auto const which = settings.text("model");
  if (!settings.has("weights")) return load_model(run_file(which), model_options(settings));
  if (settings.text("weights").starts_with(partial))
    fail(ErrorKind::usage, format("weights={}: weights that are only partly there are for training", settings.text("weights")));
  auto const& description = models::find(which);
  auto spec = description.spec(settings.has("classes") ? int(settings.whole("classes")) : description.classes);
  if (settings.has("data") && !settings.has("classes")) {
    auto const place = place_of(settings.text("data"));
    if (place.kind->name == "folder") {
      spec.labels = data::class_names(test_part(place.folder));
    } else {
      auto const d = place.kind->open(place.folder, description).test.spec();
      spec = {d.image, d.mean, d.std, d.labels};
    }
  }
  auto model = std::make_unique<Model>(spec, description.make(int(spec.labels.size())), model_options(settings));
  model->name = description.name;
  load_weights(*model, run_file(settings.text("weights")));
  return model;
}

// "8GiB", "1.5 GiB", "900MiB": bytes.
static std::int64_t bytes_of(std::string const& setting, std::string const& text) {
  std::size_t end = 0;
  double number = 0;
  try {
    number = std::stod(text, &end);
  } catch (std::exception const&) {
  }
  while (end < text.size() && text[end] == ' ') ++end;
  auto const unit = text.substr(end);
  int const power = unit == "GiB" ? 30 : unit == "MiB" ? 20 : unit == "KiB" ? 10 : -1;
  if (power < 0 || !(number > 0) || number > 1e6) fail(ErrorKind::usage, format("{} should be a positive number of KiB, MiB or GiB, such as 8GiB, not '{}'", setting, text));
  return std::int64_t(number * double(std::int64_t(1) << power));
}

StepOptions step_options(Settings const& settings) {
  StepOptions options;
  options.batch = int(settings.whole("batch"));
  options.precision = parse_precision(settings.text("precision"));
  options.rivals = settings.flag("rivals");
  bool const trains = settings.verb() == "train" || settings.verb() == "bench train" || settings.verb() == "summary";
  if (trains && settings.has("memory")) options.memory = bytes_of("memory", settings.text("memory"));
  for (auto const& pin : settings.pins()) options.pins[pin.layer] = pin.choice;
  if (auto const mode = parse_tune_mode(settings.text("tune")); mode != TuneMode::off) {
    options.tuner = settings.verb() == "tune" ? std::make_shared<Tuner>(mode, tune_file(), settings.real("budget")) : std::make_shared<Tuner>(mode);
    if (isatty(2))
      options.tuner->on_measured = [](Tuner::Count const& c) { std::fprintf(stderr, "\rmeasured %d problems, %.0f s\r", c.measured, c.seconds); };
  }
  return options;
}

}  // namespace falconet::cli
