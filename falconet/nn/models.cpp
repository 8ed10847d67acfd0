#include "falconet/nn/models.h"

#include "falconet/base/error.h"
#include "falconet/base/settings.h"

namespace falconet::models {
namespace {

Layer conv3x3(std::string name, int out, int stride = 1) { return conv(std::move(name), out, 3, {.stride = stride, .padding = 1, .bias = false}); }

// Two 3x3 convolutions and a skip connection (He et al. 2016, figure 2), with batch norm after each convolution.
Layer basic_block(int width, int stride) {
  return [=](Var x) {
    Var y = x | conv3x3("conv1", width, stride) | batch_norm("bn1") | relu | conv3x3("conv2", width) | batch_norm("bn2");
    Var skip = y.shape() == x.shape() ? x : x | scope("downsample", conv("0", width, 1, {.stride = stride, .bias = false}) | batch_norm("1"));
    return relu(y + skip);
  };
}

Layer plain_block(int width) {
  ConvLayerOptions const o{.padding = 1, .init = Init::kaiming_normal};
  return [=](Var x) { return relu((x | conv("conv1", width, 3, o) | relu | conv("conv2", width, 3, o)) + x); };
}

}  // namespace

Layer mnist_cnn(int classes) {
  return conv("conv1", 8, 5) | relu | conv("conv2", 8, 5) | relu | max_pool(2) | flatten | linear("fc1", 128) | relu | linear("fc2", classes);
}

Layer lenet5(int classes) {
  return conv("conv1", 6, 5, {.padding = 2}) | relu | max_pool(2) | conv("conv2", 16, 5) | relu | max_pool(2) | flatten | linear("fc1", 120) | relu |
         linear("fc2", 84) | relu | linear("fc3", classes);
}

Layer resnet_mini(int classes) {
  ConvLayerOptions const stem{.padding = 1, .init = Init::kaiming_normal}, down{.stride = 2, .padding = 1, .init = Init::kaiming_normal};
  return conv("conv1", 16, 3, stem) | relu | scope("layer1", plain_block(16)) | conv("down2", 32, 3, down) | relu | scope("layer2", plain_block(32)) |
         conv("down3", 64, 3, down) | relu | scope("layer3", plain_block(64)) | global_avg_pool | linear("fc", classes, {.init = Init::kaiming_uniform});
}

Layer resnet_cifar(int depth, int classes) {
  int const blocks = (depth - 2) / 6;
  if (depth < 8 || blocks * 6 + 2 != depth) fail(ErrorKind::usage, "a CIFAR ResNet has 6n + 2 layers (8, 14, 20, 56 ...), not " + std::to_string(depth));
  Layer net = conv3x3("conv1", 16) | batch_norm("bn1") | relu;
  for (int s = 0; s < 3; ++s) {
    std::vector<Layer> stack;
    for (int b = 0; b < blocks; ++b) stack.push_back(basic_block(16 << s, s && !b ? 2 : 1));
    net = net | stage("layer" + std::to_string(s + 1), std::move(stack));
  }
  return net | global_avg_pool | linear("fc", classes);
}

std::vector<Description> const& known() {
  static std::vector<Description> const all = {
      {"mnist_cnn", {1, 28, 28}, 10, mnist_cnn, "two 5x5 convolutions, max-pool, 128 (Garg, Joshi & Sahu)"},
      {"lenet5", {1, 28, 28}, 10, lenet5, "LeNet-5 with ReLU and max-pooling (LeCun et al. 1998)"},
      {"resnet_mini", {3, 32, 32}, 10, resnet_mini, "three plain residual blocks (after Li, Goebel & Fu 2019)"},
      {"resnet20", {3, 32, 32}, 10, [](int n) { return resnet_cifar(20, n); }, "CIFAR ResNet-20 (He et al. 2016)"},
      {"resnet56", {3, 32, 32}, 10, [](int n) { return resnet_cifar(56, n); }, "CIFAR ResNet-56 (He et al. 2016)"},
  };
  return all;
}

Description const& find(std::string_view name) {
  std::vector<std::string> names;
  for (auto const& d : known()) {
    if (d.name == name) return d;
    names.emplace_back(d.name);
  }
  fail(ErrorKind::usage, "unknown model '" + std::string(name) + "'" + did_you_mean(name, names));
}

}  // namespace falconet::models
