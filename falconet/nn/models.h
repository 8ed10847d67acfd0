// The networks that falconet knows by name, under torchvision-like keys.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "falconet/nn/layers.h"

namespace falconet::models {

// Garg, Joshi & Sahu: conv 5x5x8, ReLU, conv 5x5x8, ReLU, max-pool 2, 128, ReLU, classes. 105,634 parameters at 1x28x28, 10 classes.
Layer mnist_cnn(int classes);
// LeCun et al. 1998 in its usual modern form: conv 5x5x6 (padding 2), conv 5x5x16, max-pools, 120, 84, classes; ReLU.
Layer lenet5(int classes);
// After Li, Goebel & Fu 2019, whose figure is not in the text, so the details are ours: conv3x3 16, ReLU; one residual block (conv,
// ReLU, conv, + x, ReLU; no batch norm) at each of 16, 32 and 64 channels, a strided conv3x3 with ReLU between; global average
// pool; linear. Kaiming uniform for linear, Kaiming normal for convolutions.
Layer resnet_mini(int classes);
// He et al. 2016, section 4.2: CIFAR ResNets of depth 6n + 2 with 16, 32 and 64 channels; projections (1x1, stride 2) where the
// shape changes.
Layer resnet_cifar(int depth, int classes);

struct Description {
  std::string_view name;
  Shape image;                       // of the input it was made for, C,H,W
  int classes;
  Layer (*make)(int classes);
  std::string_view what;             // one line for help
};
std::vector<Description> const& known();
Description const& find(std::string_view name);   // throws a usage error that offers the nearest name

}  // namespace falconet::models
