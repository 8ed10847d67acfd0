// What a network is fed: the shape of one image, how its pixels are normalised, and the names of the classes. It travels in the
// model file, so that prediction prepares an image exactly as training did.
#pragma once
#include <string>
#include <vector>

#include "falconet/tensor/tensor_type.h"

namespace falconet {

struct ImageSpec {
  Shape image;                        // C,H,W
  std::vector<float> mean, std;       // per channel, of pixels scaled to 0..1; input = (pixel/255 - mean) / std
  std::vector<std::string> labels;    // names of the classes; their number is the network's number of outputs
  bool operator==(ImageSpec const&) const = default;
};

}  // namespace falconet
