// Model files: safetensors with the weights under their keys and, as metadata, the network's name and what it is fed.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "falconet/nn/model.h"

namespace falconet {

// Writes weights and running statistics (no optimizer state), atomically.
void save_model(Model const& model, std::string const& path);

// Makes the model that the file describes (it must name a known network) with its weights. Throws file, data or model errors.
std::unique_ptr<Model> load_model(std::string const& path, ModelOptions options = {});

// What a file's tensors had to do with a network's.
struct WeightsRead {
  int read = 0;                                               // tensors that were read
  std::vector<std::string> missing, unexpected, unfit;        // keys; of another shape or no numbers: with both types
  std::string misfits() const;                                // "; missing: a, b and 3 more; unexpected: c"; empty: all fits
};
// Reads weights into a model, such as PyTorch's of the same keys. Strict: every key must be there with its shape and none may be left
// over (model error that lists what does not fit); partial: what fits is read, and that must be something (model error).
enum class WeightMatch { strict, partial };
WeightsRead load_weights(Model& model, std::string const& path, WeightMatch match = WeightMatch::strict);

}  // namespace falconet
