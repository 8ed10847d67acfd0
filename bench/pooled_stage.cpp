// VGG-16's first stage as a network of its own (two 3x3 convolutions of 64 filters, 2x2 pooling, a classifier) trained on random images, with the pool in the
// convolution's launches and by itself (a pin keeps it there): launches, memory and time of a step.   bench_pooled_stage [BATCH [DEVICE]]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "falconet/falconet.h"

using namespace falconet;

static void measure(bool average, bool alone, int batch, char const* device) {
  Layer const pool = average ? avg_pool(2) : max_pool(2);
  Layer const net = conv("conv1", 64, 3, {.padding = 1}) | relu | conv("conv2", 64, 3, {.padding = 1}) | relu | pool | global_avg_pool | linear("fc", 10);
  Model model({{3, 224, 224}, {0.5f, 0.5f, 0.5f}, {0.25f, 0.25f, 0.25f}, std::vector<std::string>(10, "class")}, net, {.device = device, .seed = 1});
  StepOptions options{.batch = batch};
  if (alone) options.pins[average ? "avg_pool" : "max_pool"] = "gather";
  TrainStep step(model, options, cross_entropy(), sgd({.momentum = 0.9}).options);
  View const images = step.images();
  for (std::int64_t i = 0; i < images.type.shape.elements(); ++i) images.as<float>()[i] = float(std::uint32_t(i) * 2654435761u >> 8) / float(1 << 23) - 1;
  for (int n = 0; n < batch; ++n) step.targets().as<std::int32_t>()[n] = n % 10;
  step.state().learning_rate = 0.01f;
  std::vector<double> ms;
  double loss = 0;
  for (int i = 0; i < 23; ++i) {
    auto const start = std::chrono::steady_clock::now();
    loss = step.run();
    ms.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() * 1e3);
  }
  std::sort(ms.begin() + 3, ms.end());
  std::printf("%s pool, %s: %zu launches, %.1f MiB, %.3f ms a step (least %.3f), loss %.6f\n", average ? "average" : "max", alone ? "by itself" : "in the convolution",
              step.session().plan().step.size(), double(step.session().memory_bytes()) / (1 << 20), ms[13], ms[3], loss);
  for (auto const& l : step.session().plan().step)
    if (l.op == "conv" || l.op == "pool") std::printf("    %-8s %-12s %s\n", l.layer.c_str(), l.choice.algorithm.c_str(), l.problem.c_str());
}

int main(int argc, char** argv) try {
  int const batch = argc > 1 ? std::max(1, std::atoi(argv[1])) : 16;
  for (bool const average : {false, true})
    for (bool const alone : {false, true}) measure(average, alone, batch, argc > 2 ? argv[2] : "cuda");
  return 0;
} catch (Error const& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
