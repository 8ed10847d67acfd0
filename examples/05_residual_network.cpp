// A residual network with several kinds of skips: identity, projection, and a dense one that concatenates (Huang et al. 2017).
#include <cstdio>

#include "falconet/falconet.h"

using namespace falconet;

Layer conv3x3(std::string name, int out, int stride = 1) { return conv(name, out, 3, {.stride = stride, .padding = 1, .bias = false}); }

Layer block(int width, int stride) {                 // keys as in torchvision: conv1, bn1, downsample.0 ...
  return [=](Var x) {
    Var y = x | conv3x3("conv1", width, stride) | batch_norm("bn1") | relu | conv3x3("conv2", width) | batch_norm("bn2");
    Var skip = y.shape() == x.shape() ? x : x | scope("downsample", conv("0", width, 1, {.stride = stride, .bias = false}) | batch_norm("1"));
    return relu(y + skip);
  };
}

Layer dense(int growth) {
  return [=](Var x) { return concat({x, x | batch_norm("bn") | relu | conv3x3("conv", growth)}); };
}

int main() try {
  Layer const net = conv3x3("conv1", 16) | batch_norm("bn1") | relu | stage("layer1", {block(16, 1), block(16, 1)}) | stage("layer2", {block(32, 2), dense(16), dense(16)}) |
                    global_avg_pool | linear("fc", 10);
  ImageSpec const spec{{3, 32, 32}, {0.5f, 0.5f, 0.5f}, {0.25f, 0.25f, 0.25f}, std::vector<std::string>(10, "class")};
  Model model(spec, net, {.seed = 1});
  std::printf("%lld parameters\n", static_cast<long long>(model.parameters()->trained_elements()));

  TrainStep step(model, {.batch = 8}, cross_entropy(), sgd({.momentum = 0.9}).options);
  for (std::int64_t i = 0; i < step.images().type.shape.elements(); ++i) step.images().as<float>()[i] = float((i * 2654435761u >> 8) % 1000) / 1000;
  for (int n = 0; n < 8; ++n) step.targets().as<std::int32_t>()[n] = n;
  step.state().learning_rate = 0.05f;
  double first = step.run(), last = first;
  for (int i = 0; i < 20; ++i) last = step.run();    // the same batch again and again: it must learn it by heart
  std::printf("loss %.3f -> %.3f\n", first, last);
  return last < first / 2 ? 0 : 1;
} catch (Error const& e) {
  std::fprintf(stderr, "error: %s\n", e.what());
  return 1;
}
