#include "falconet/graph/parameters.h"

#include <algorithm>
#include <cmath>

#include "falconet/base/error.h"
#include "falconet/base/random.h"
#include "falconet/graph/device_copy.h"

namespace falconet {

void initialise(Tensor& tensor, Init const& init, std::uint64_t seed, std::string_view name) {
  double spread = init.value;   // half width of a uniform, or standard deviation of a normal
  bool normal = false;
  double const in = double(init.fan_in), out = double(init.fan_out);
  switch (init.kind) {
    case Init::constant: break;
    case Init::uniform: break;
    case Init::normal: normal = true; break;
    case Init::kaiming_uniform: spread = std::sqrt(6.0 / in); break;
    case Init::kaiming_normal: spread = std::sqrt(2.0 / in), normal = true; break;
    case Init::kaiming_normal_fan_out: spread = std::sqrt(2.0 / out), normal = true; break;
    case Init::xavier_uniform: spread = std::sqrt(6.0 / (in + out)); break;
    case Init::xavier_normal: spread = std::sqrt(2.0 / (in + out)), normal = true; break;
    case Init::pytorch: spread = 1.0 / std::sqrt(in); break;
  }
  Tensor logical({DType::f32, tensor.shape(), Layout::nchw});
  std::span<float> const values(logical.as<float>(), std::size_t(tensor.shape().elements()));
  RandomKey const key = random_key(seed, hash(name));
  if (init.kind == Init::constant) std::fill(values.begin(), values.end(), float(init.value));
  else if (normal) fill_normal(values, key, 0, 0.0f, float(spread));
  else fill_uniform(values, key, 0, float(-spread), float(spread));
  convert(logical.view(), tensor.view());
}

Parameters::Parameters(std::uint64_t seed, DType dtype) : seed_(seed), dtype_(dtype) {}
Parameters::~Parameters() = default;

void Parameters::adopt(Graph const& graph) {
  for (auto const& v : graph.values) {
    if (v.from >= 0 || (v.role != Role::parameter && v.role != Role::state) || v.name.empty()) continue;
    if (Entry* known = find(v.name)) {
      if (!(known->tensor.shape() == v.type.shape))
        fail(ErrorKind::model, v.name + ": the network wants " + v.type.shape.text() + ", the weights hold " + known->tensor.shape().text());
      continue;
    }
    TensorType type{dtype_, v.type.shape, v.type.shape.rank() == 4 ? Layout::nhwc : Layout::nchw};
    Entry entry{v.name, v.role, v.init, Tensor(type)};
    initialise(entry.tensor, v.init, seed_, v.name);
    index_[v.name] = entries_.size();
    entries_.push_back(std::move(entry));
  }
}

Parameters::Entry* Parameters::find(std::string const& name) {
  auto at = index_.find(name);
  return at == index_.end() ? nullptr : &entries()[at->second];
}
Parameters::Entry const* Parameters::find(std::string const& name) const {
  auto at = index_.find(name);
  return at == index_.end() ? nullptr : &entries()[at->second];
}
std::vector<Parameters::Entry>& Parameters::entries() {
  to_host();
  changed();
  if (copy_) copy_->host_is_newer = true;
  return entries_;
}
std::vector<Parameters::Entry> const& Parameters::entries() const {
  to_host();
  return entries_;
}

std::map<std::string, View> Parameters::views() const {
  std::map<std::string, View> out;
  for (auto const& e : entries_) out[e.name] = e.tensor.view();
  return out;
}
void* Parameters::on_device(std::string const& name, int device) {
  if (!copy_) copy_ = std::make_unique<DeviceCopy>(device);
  if (copy_->device() != device) fail(ErrorKind::internal, "the weights lie on cuda:" + std::to_string(copy_->device()) + ", not on cuda:" + std::to_string(device));
  auto const& entry = entries()[index_.at(name)];      // what has just been given memory is brought over with all others
  return copy_->address(name, entry.tensor.view());
}
bool Parameters::lies_on_device(std::string const& name) const { return copy_ && copy_->has(name); }
void Parameters::to_device(bool written) {
  if (!copy_) return;
  if (copy_->host_is_newer) copy_->upload(views());
  if (!written) return;
  copy_->device_is_newer = true;
  changed();
}
void Parameters::to_host() const {
  if (copy_ && copy_->device_is_newer) copy_->download(views());
}

void Parameters::convert(DType dtype) {
  to_host();
  changed();
  copy_.reset();
  dtype_ = dtype;
  for (auto& e : entries_) {
    TensorType type = e.tensor.type();
    if (type.dtype == dtype) continue;
    type.dtype = dtype;
    Tensor other(type);
    falconet::convert(e.tensor.view(), other.view());
    e.tensor = std::move(other);
  }
}

std::int64_t Parameters::trained_elements() const {
  std::int64_t n = 0;
  for (auto const& e : entries_)
    if (e.role == Role::parameter) n += e.tensor.shape().elements();
  return n;
}

}  // namespace falconet
