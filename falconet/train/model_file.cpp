#include "falconet/train/model_file.h"

#include <cstdlib>

#include "falconet/base/error.h"
#include "falconet/io/safetensors.h"
#include "falconet/nn/models.h"
#include "falconet/ops/problem_text.h"

namespace falconet {
namespace {

bool optimizer_state(std::string const& key) { return key.starts_with("optimizer."); }

// Labels are separated by newlines, which a label cannot hold.
std::string join(std::vector<std::string> const& items) {
  std::string out;
  for (auto const& i : items) (out += out.empty() ? "" : "\n") += i;
  return out;
}
std::string join(std::vector<float> const& items) {
  std::string out;
  for (float v : items) (out += out.empty() ? "" : " ") += exact(v);
  return out;
}
std::vector<float> floats(std::string const& text) {
  std::vector<float> out;
  for (auto item : split(text, ' ')) out.push_back(std::strtof(std::string(item).c_str(), nullptr));
  return out;
}

int read_into(Model& model, io::SafeTensors const& file, std::string const& path, WeightMatch match) {
  std::string missing, unexpected, unfit;
  auto list = [](std::string& out, std::string const& key) { (out += out.empty() ? "" : ", ") += key; };
  auto fits = [](Tensor const& t, Parameters::Entry const& e) { return t.shape() == e.tensor.shape() && t.type().dtype != DType::u8 && t.type().dtype != DType::i32; };
  for (auto const& e : model.parameters()->entries()) {
    if (optimizer_state(e.name)) continue;
    auto at = file.tensors.find(e.name);
    if (at == file.tensors.end()) list(missing, e.name);
    else if (!fits(at->second, e)) list(unfit, e.name + " (" + at->second.type().text() + " instead of " + e.tensor.shape().text() + ")");
  }
  for (auto const& [key, tensor] : file.tensors) {
    // PyTorch counts batches; falconet has no use for the number.
    if (!model.parameters()->find(key) && !key.ends_with(".num_batches_tracked")) list(unexpected, key);
  }
  if (match == WeightMatch::strict && !(missing.empty() && unexpected.empty() && unfit.empty())) {
    std::string why = path + ": the weights do not fit the network";
    if (!missing.empty()) why += "; missing: " + missing;
    if (!unexpected.empty()) why += "; unexpected: " + unexpected;
    if (!unfit.empty()) why += "; of another shape: " + unfit;
    fail(ErrorKind::model, why);
  }
  int read = 0;
  for (auto& e : model.parameters()->entries()) {
    auto at = file.tensors.find(e.name);
    if (at == file.tensors.end() || !fits(at->second, e)) continue;
    convert(at->second.view(), e.tensor.view());
    ++read;
  }
  return read;
}

}  // namespace

void save_model(Model const& model, std::string const& path) {
  std::vector<io::NamedView> tensors;
  for (auto const& e : model.parameters()->entries())
    if (!optimizer_state(e.name)) tensors.push_back({e.name, e.tensor.view()});
  auto const& spec = model.spec();
  io::write_safetensors(path, tensors,
                        {{"falconet.model", model.name},
                         {"falconet.image", spec.image.text()},
                         {"falconet.mean", join(spec.mean)},
                         {"falconet.std", join(spec.std)},
                         {"falconet.labels", join(spec.labels)}});
}

std::unique_ptr<Model> load_model(std::string const& path, ModelOptions options) {
  auto const file = io::read_safetensors(path);
  auto text = [&](char const* key) {
    auto at = file.metadata.find(std::string("falconet.") + key);
    if (at == file.metadata.end()) fail(ErrorKind::model, path + " has no '" + key + "' in its metadata: it is not a falconet model file (weights alone are read with weights=)");
    return at->second;
  };
  auto const name = text("model");
  if (name.empty()) fail(ErrorKind::model, path + " holds a network of its program's own; make the network and use load_weights");
  ImageSpec spec;
  spec.image = Shape::parse(text("image"));
  spec.mean = floats(text("mean"));
  spec.std = floats(text("std"));
  auto const labels = text("labels");
  for (auto label : split(labels, '\n')) spec.labels.emplace_back(label);
  auto const channels = std::size_t(spec.image.rank() == 3 ? spec.image[0] : 0);
  if (channels == 0 || spec.mean.size() != channels || spec.std.size() != channels || spec.labels.empty())
    fail(ErrorKind::model, path + ": image, mean, std and labels in the metadata do not belong together");
  auto model = std::make_unique<Model>(spec, models::find(name).make(int(spec.labels.size())), std::move(options));
  model->name = name;
  read_into(*model, file, path, WeightMatch::strict);
  return model;
}

int load_weights(Model& model, std::string const& path, WeightMatch match) { return read_into(model, io::read_safetensors(path), path, match); }

}  // namespace falconet
