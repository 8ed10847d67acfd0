// The networks that falconet knows by name, under torchvision-like keys.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "falconet/nn/layers.h"
#include "falconet/tensor/image_spec.h"

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

// The following five are those of torchvision for images of 3x224x224, with its keys and its initial weights: files of its weights load
// strictly.
// He et al. 2016, table 1: depth 18 and 34 of basic blocks, 50 of bottlenecks (the stride on the 3x3 convolution).
Layer resnet(int depth, int classes);
// Simonyan & Zisserman 2015, configuration D. Height and width are multiples of 224, or such that the last map is one of 7x7.
// dropout: the probability with which each of the classifier's two drops an element while training.
Layer vgg16(int classes, double dropout = 0.5);
// Sandler et al. 2018, table 2: inverted residuals with depthwise 3x3 convolutions and ReLU6. dropout: before the last layer.
Layer mobilenet_v2(int classes, double dropout = 0.2);

struct Description {
  std::string_view name;
  Shape image;                       // of the input it was made for, C,H,W
  int classes;
  Layer (*make)(int classes);
  std::string_view what;             // one line for help
  bool imagenet = false;             // trained weights of it expect images normalised by ImageNet's mean and std
  // What it is fed where no data set says so: images of its size (ImageNet's normalisation, or pixels of 0..1) and classes "0", "1" ...
  ImageSpec spec(int classes) const;
};
std::vector<Description> const& known();
Description const& find(std::string_view name);   // throws a usage error that offers the nearest name

}  // namespace falconet::models
