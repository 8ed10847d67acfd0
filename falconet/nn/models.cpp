#include "falconet/nn/models.h"

#include <algorithm>
#include <array>
#include <map>

#include "falconet/base/error.h"
#include "falconet/base/settings.h"

namespace falconet::models {
namespace {

Layer conv3x3(std::string name, int out, int stride = 1, Init::Kind init = Init::pytorch) {
  return conv(std::move(name), out, 3, {.stride = stride, .padding = 1, .bias = false, .init = init});
}
Layer conv1x1(std::string name, int out, int stride = 1, Init::Kind init = Init::pytorch) {
  return conv(std::move(name), out, 1, {.stride = stride, .bias = false, .init = init});
}

// The input itself, or projected to the shape of the block's result.
Var skip_of(Var x, Var y, int stride, Init::Kind init) {
  return y.shape() == x.shape() ? x : x | scope("downsample", conv1x1("0", int(y.shape()[1]), stride, init) | batch_norm("1"));
}

// Two 3x3 convolutions and a skip connection (He et al. 2016, figure 2), with batch norm after each convolution.
Layer basic_block(int width, int stride, Init::Kind init = Init::pytorch) {
  return [=](Var x) {
    Var y = x | conv3x3("conv1", width, stride, init) | batch_norm("bn1") | relu | conv3x3("conv2", width, 1, init) | batch_norm("bn2");
    return relu(y + skip_of(x, y, stride, init));
  };
}

// 1x1 to `width`, 3x3, 1x1 to four times as many (He et al. 2016, figure 5), the stride on the 3x3 as in torchvision.
Layer bottleneck(int width, int stride, Init::Kind init) {
  return [=](Var x) {
    Var y = x | conv1x1("conv1", width, 1, init) | batch_norm("bn1") | relu | conv3x3("conv2", width, stride, init) | batch_norm("bn2") | relu |
            conv1x1("conv3", 4 * width, 1, init) | batch_norm("bn3");
    return relu(y + skip_of(x, y, stride, init));
  };
}

// Convolution, batch norm and ReLU6, keyed "NAME.0" and "NAME.1".
Layer conv_norm_relu6(std::string name, int out, int kernel, int stride, int groups) {
  ConvLayerOptions const o{.stride = stride, .padding = kernel / 2, .groups = groups, .bias = false, .init = Init::kaiming_normal_fan_out};
  return scope(std::move(name), conv("0", out, kernel, o) | batch_norm("1")) | relu6;
}

// 1x1 to `expansion` times as many channels, depthwise 3x3, 1x1 without activation (Sandler et al. 2018, figure 4b).
Layer inverted_residual(int out, int stride, int expansion) {
  return scope("conv", [=](Var x) {
    int const in = int(x.shape()[1]), hidden = in * expansion;
    int at = 0;
    auto const next = [&] { return std::to_string(at++); };
    Var y = x;
    if (expansion != 1) y = y | conv_norm_relu6(next(), hidden, 1, 1, 1);
    y = y | conv_norm_relu6(next(), hidden, 3, stride, hidden);
    y = y | conv1x1(next(), out, 1, Init::kaiming_normal_fan_out);
    y = y | batch_norm(next());
    return y.shape() == x.shape() ? x + y : y;
  });
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

Layer resnet(int depth, int classes) {
  static std::map<int, std::array<int, 4>> const depths = {{18, {2, 2, 2, 2}}, {34, {3, 4, 6, 3}}, {50, {3, 4, 6, 3}}};
  auto const blocks = depths.find(depth);
  if (blocks == depths.end()) fail(ErrorKind::usage, "a ResNet for images of 224x224 has depth 18, 34 or 50, not " + std::to_string(depth));
  auto const init = Init::kaiming_normal_fan_out;
  Layer net = conv("conv1", 64, 7, {.stride = 2, .padding = 3, .bias = false, .init = init}) | batch_norm("bn1") | relu |
              max_pool(3, {.stride = 2, .padding = 1});
  for (int s = 0; s < 4; ++s) {
    std::vector<Layer> stack;
    for (int b = 0; b < blocks->second[std::size_t(s)]; ++b) {
      int const stride = s && !b ? 2 : 1;
      stack.push_back(depth < 50 ? basic_block(64 << s, stride, init) : bottleneck(64 << s, stride, init));
    }
    net = net | stage("layer" + std::to_string(s + 1), std::move(stack));
  }
  return net | global_avg_pool | linear("fc", classes);
}

Layer vgg16(int classes, double dropped) {
  ConvLayerOptions const o{.padding = 1, .init = Init::kaiming_normal_fan_out, .bias_init = Init::constant};
  LinearOptions const dense{.init = Init::normal, .init_value = 0.01, .bias_init = Init::constant};
  Layer features;
  int at = 0;
  for (int stage = 0; stage < 5; ++stage) {
    for (int i = 0; i < (stage < 2 ? 2 : 3); ++i, at += 2)
      features = features | conv(std::to_string(at), std::min(64 << stage, 512), 3, o) | relu;
    features = features | max_pool(2);
    ++at;
  }
  return scope("features", features) | adaptive_avg_pool(7) |
         scope("classifier", linear("0", 4096, dense) | relu | dropout(dropped, "2") | linear("3", 4096, dense) | relu | dropout(dropped, "5") |
                                 linear("6", classes, dense));
}

Layer mobilenet_v2(int classes, double dropped) {
  struct Stage {
    int expansion, channels, blocks, stride;
  };
  int at = 0;
  Layer net = conv_norm_relu6(std::to_string(at++), 32, 3, 2, 1);
  for (Stage const s : {Stage{1, 16, 1, 1}, {6, 24, 2, 2}, {6, 32, 3, 2}, {6, 64, 4, 2}, {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1}})
    for (int b = 0; b < s.blocks; ++b) net = net | scope(std::to_string(at++), inverted_residual(s.channels, b ? 1 : s.stride, s.expansion));
  net = net | conv_norm_relu6(std::to_string(at++), 1280, 1, 1, 1);
  return scope("features", net) | global_avg_pool |
         scope("classifier", dropout(dropped, "0") | linear("1", classes, {.init = Init::normal, .init_value = 0.01, .bias_init = Init::constant}));
}

ImageSpec Description::spec(int classes) const {
  ImageSpec out;
  out.image = image;
  if (imagenet) {
    out.mean = {0.485f, 0.456f, 0.406f};
    out.std = {0.229f, 0.224f, 0.225f};
  } else {
    out.mean.assign(std::size_t(image[0]), 0.f);
    out.std.assign(std::size_t(image[0]), 1.f);
  }
  for (int i = 0; i < classes; ++i) out.labels.push_back(std::to_string(i));
  return out;
}

std::vector<Description> const& known() {
  static std::vector<Description> const all = {
      {"mnist_cnn", {1, 28, 28}, 10, mnist_cnn, "two 5x5 convolutions, max-pool, 128 (Garg, Joshi & Sahu)"},
      {"lenet5", {1, 28, 28}, 10, lenet5, "LeNet-5 with ReLU and max-pooling (LeCun et al. 1998)"},
      {"resnet_mini", {3, 32, 32}, 10, resnet_mini, "three plain residual blocks (after Li, Goebel & Fu 2019)"},
      {"resnet20", {3, 32, 32}, 10, [](int n) { return resnet_cifar(20, n); }, "CIFAR ResNet-20 (He et al. 2016)"},
      {"resnet56", {3, 32, 32}, 10, [](int n) { return resnet_cifar(56, n); }, "CIFAR ResNet-56 (He et al. 2016)"},
      {"resnet18", {3, 224, 224}, 1000, [](int n) { return resnet(18, n); }, "ResNet-18 of torchvision (He et al. 2016)", true},
      {"resnet34", {3, 224, 224}, 1000, [](int n) { return resnet(34, n); }, "ResNet-34 of torchvision (He et al. 2016)", true},
      {"resnet50", {3, 224, 224}, 1000, [](int n) { return resnet(50, n); }, "ResNet-50 of torchvision (He et al. 2016)", true},
      {"vgg16", {3, 224, 224}, 1000, [](int n) { return vgg16(n); }, "VGG-16 of torchvision (Simonyan & Zisserman 2015)", true},
      {"mobilenet_v2", {3, 224, 224}, 1000, [](int n) { return mobilenet_v2(n); }, "MobileNetV2 of torchvision (Sandler et al. 2018)", true},
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
