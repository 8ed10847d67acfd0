// What several verbs read from their settings: recipes and config files, data sets, models, and where such things lie.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "falconet/base/settings.h"
#include "falconet/data/pipeline.h"
#include "falconet/nn/model.h"
#include "falconet/nn/models.h"
#include "falconet/plan/step.h"

namespace falconet::cli {

// Reads the words, then the recipe, the config file and the args.toml of a resumed run that they name.
void read_settings(Settings& settings, std::span<std::string const> words);

// A text that belongs to the program, such as recipes/mnist.toml: the file of that name below the working folder or the installed
// share folder, else the copy that is built into the program. Throws a usage error that offers the nearest of its folder.
struct ProgramText {
  std::string where;  // the file's path, or its name if built in
  std::string text;
};
ProgramText program_text(std::string const& folder, std::string const& name, std::string const& extension, std::string_view kind_of_thing);

struct EmbeddedFile {
  std::string_view name, text;  // "recipes/mnist.toml"
};
std::span<EmbeddedFile const> embedded_files();

// data=KIND[:FOLDER], such as mnist, cifar10:data/cifar-10. The folder is looked for from the working folder, then below
// FALCONET_DATA, the installed share folder and the source tree. Image folders are resized to what the network was made for, and
// normalised by ImageNet's mean and std if it is a network for that.
struct NamedData {
  std::string kind, folder;  // as found
  data::Split split;
};
NamedData open_data(std::string const& text, models::Description const& network);

// The test part of a data set, normalised as a trained model says; of image folders the training part is not needed.
struct TestData {
  std::string kind, folder;
  data::Pipeline set;
};
TestData open_test_data(std::string const& text, ImageSpec const& spec);

struct DataKind {
  std::string_view name, folder, help;
  data::Split (*open)(std::string const& folder, models::Description const& network);
};
std::span<DataKind const> data_kinds();
std::string find_data_folder(std::string const& folder);  // the path unchanged if it is nowhere

std::string run_file(std::string const& model);  // best.safetensors of a run folder, or the file itself
ModelOptions model_options(Settings const& settings);
// The named network for the images and classes of a data set, or for those it was made for.
// The classes setting decides their number where there is no data set. Weights are not read.
std::unique_ptr<Model> make_model(Settings const& settings, ImageSpec const* spec);
// weights=FILE or weights=partial:FILE, if given: reads them into the model; what a partial file leaves out is noted on stderr.
void read_weights(Settings const& settings, Model& model);
bool is_trained(std::string const& model);   // a run folder or a .safetensors file, not the name of a network
// The model of summary and bench: a network by name with the weights that weights= names, if any, or the trained one of a run folder or file.
std::unique_ptr<Model> described_model(Settings const& settings, ImageSpec const* spec);
// The model of eval and predict: model=RUN or FILE as it describes itself, or the network model=NAME with the weights of weights=FILE.
std::unique_ptr<Model> trained_model(Settings const& settings);
StepOptions step_options(Settings const& settings);

}  // namespace falconet::cli
