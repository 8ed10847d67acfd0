#include "falconet/train/model_file.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

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
std::vector<float> floats(std::string const& text, char const* what) {
  std::vector<float> out;
  for (auto item : split(text, ' ')) out.push_back(float(parse_real(item, what)));
  return out;
}

// Keys for a message: the first eight, and how many more there are.
std::string listed(std::string const& what, std::vector<std::string> const& keys) {
  constexpr std::size_t most = 8;
  if (keys.empty()) return "";
  std::string out = "; " + what + ": ";
  for (std::size_t i = 0; i < std::min(most, keys.size()); ++i) (out += i ? ", " : "") += keys[i];
  return keys.size() > most ? out + " and " + std::to_string(keys.size() - most) + " more" : out;
}

// Whether a tensor of the file can become this parameter.
bool fits(Tensor const& t, Shape const& shape) { return t.shape() == shape && t.type().dtype != DType::u8 && t.type().dtype != DType::i32; }

// A parameter or state that a network has.
struct Wanted {
  std::string name;
  Shape shape;
};

WeightsRead compared(std::vector<Wanted> const& wanted, io::SafeTensors const& file) {
  WeightsRead out;
  std::set<std::string> known;
  for (auto const& w : wanted) {
    known.insert(w.name);
    auto at = file.tensors.find(w.name);
    if (at == file.tensors.end()) out.missing.push_back(w.name);
    else if (!fits(at->second, w.shape)) out.unfit.push_back(w.name + " (" + at->second.type().text() + " instead of " + w.shape.text() + ")");
    else ++out.read;
  }
  for (auto const& [key, tensor] : file.tensors)
    if (!known.contains(key) && !key.ends_with(".num_batches_tracked")) out.unexpected.push_back(key);   // PyTorch counts batches; falconet has no use for it
  return out;
}

// Throws unless the file holds exactly these, listing what is missing, unexpected or of another shape.
WeightsRead require_fit(std::vector<Wanted> const& wanted, io::SafeTensors const& file, std::string const& path) {
  auto out = compared(wanted, file);
  if (!out.misfits().empty()) fail(ErrorKind::model, path + ": the weights do not fit the network" + out.misfits());
  return out;
}

std::vector<Wanted> wanted_by(Model const& model) {
  std::vector<Wanted> out;
  for (auto const& e : std::as_const(*model.parameters()).entries())
    if (!optimizer_state(e.name)) out.push_back({e.name, e.tensor.shape()});
  return out;
}

// Of a network that is not yet a model, so that no memory is taken for weights of any size that a file may speak of.
std::vector<Wanted> wanted_by(Layer const& net, Shape const& image) {
  Graph graph;
  net(graph.input("images", {DType::f32, Shape{1, image[0], image[1], image[2]}, Layout::nchw}));
  std::vector<Wanted> out;
  for (auto const& v : graph.values)
    if (v.role == Role::parameter || v.role == Role::state) out.push_back({v.name, v.type.shape});
  return out;
}

void read_into(Model& model, io::SafeTensors const& file) {
  for (auto& e : model.parameters()->entries()) {
    auto at = file.tensors.find(e.name);
    if (at != file.tensors.end() && fits(at->second, e.tensor.shape())) convert(at->second.view(), e.tensor.view());
  }
}

constexpr std::int64_t most_image_size = 65536;

// What the metadata say of the images; throws where they make no sense.
ImageSpec spec_of(std::string const& image, std::string const& mean, std::string const& deviation, std::string const& labels) {
  ImageSpec spec{Shape::parse(image), floats(mean, "mean"), floats(deviation, "std"), {}};
  for (auto label : split(labels, '\n')) spec.labels.emplace_back(label);
  if (spec.image.rank() != 3 || std::any_of(spec.image.begin(), spec.image.end(), [](std::int64_t size) { return size < 1 || size > most_image_size; }))
    fail(ErrorKind::data, "an image of " + image + ", expected channels x height x width, each from 1 to " + std::to_string(most_image_size));
  auto const channels = std::size_t(spec.image[0]);
  if (spec.mean.size() != channels || spec.std.size() != channels || spec.labels.empty())
    fail(ErrorKind::data, "image, mean, std and labels do not belong together");
  return spec;
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
    if (at == file.metadata.end()) fail(ErrorKind::model, path + " has no '" + key + "' in its metadata: it is not a falconet model file (weights alone are read with weights=, into a network named by model=)");
    return at->second;
  };
  auto const name = text("model");
  if (name.empty()) fail(ErrorKind::model, path + " holds a network of its program's own; make the network and use load_weights");
  ImageSpec spec;
  Layer net;
  try {
    spec = spec_of(text("image"), text("mean"), text("std"), text("labels"));
    net = models::find(name).make(int(spec.labels.size()));
    require_fit(wanted_by(net, spec.image), file, path);
  } catch (Error const& e) {
    if (e.message.starts_with(path)) throw;
    fail(ErrorKind::data, path + ": its metadata: " + (e.layer.empty() ? "" : e.layer + ": ") + e.message);
  }
  auto model = std::make_unique<Model>(std::move(spec), std::move(net), std::move(options));
  model->name = name;
  read_into(*model, file);
  return model;
}

std::string WeightsRead::misfits() const {
  return listed("missing", missing) + listed("unexpected", unexpected) + listed("of another shape", unfit);
}

WeightsRead load_weights(Model& model, std::string const& path, WeightMatch match) {
  auto const file = io::read_safetensors(path);
  auto const wanted = wanted_by(model);
  auto out = match == WeightMatch::strict ? require_fit(wanted, file, path) : compared(wanted, file);
  if (match == WeightMatch::partial && out.read == 0) fail(ErrorKind::model, path + ": none of its tensors fits the network" + out.misfits());
  read_into(model, file);
  return out;
}

}  // namespace falconet
