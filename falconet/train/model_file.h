// Model files: safetensors with the weights under their keys and, as metadata, the network's name and what it is fed.
#pragma once
#include <memory>
#include <string>

#include "falconet/nn/model.h"

namespace falconet {

// Writes weights and running statistics (no optimizer state), atomically.
void save_model(Model const& model, std::string const& path);

// Makes the model that the file describes (it must name a known network) with its weights. Throws file, data or model errors.
std::unique_ptr<Model> load_model(std::string const& path, ModelOptions options = {});

// Reads weights into a model. Strict: every key must be there and none may be left over (model error that lists both); partial:
// only keys with fitting shapes are read, the number read is returned.
enum class WeightMatch { strict, partial };
int load_weights(Model& model, std::string const& path, WeightMatch match = WeightMatch::strict);

}  // namespace falconet
