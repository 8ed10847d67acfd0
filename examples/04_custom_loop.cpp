// A training loop of one's own: TrainStep is forward, loss, backward and update in one call; the loop decides what it sees and
// at which rate. The data are made up: is the upper or the lower half of the image brighter?
#include <cstdio>

#include "falconet/base/random.h"
#include "falconet/falconet.h"

using namespace falconet;

int main() try {
  ImageSpec const spec{{1, 16, 16}, {0.f}, {1.f}, {"upper", "lower"}};
  Model model(spec, conv("conv1", 8, 3, {.stride = 2}) | relu | linear("fc", 2), {.seed = 3});
  TrainStep step(model, {.batch = 32}, cross_entropy(), sgd({.momentum = 0.9}).options);

  double loss = 0, right = 0;
  for (int i = 0; i < 200; ++i) {
    float* pixels = step.images().as<float>();       // [32,1,16,16] nhwc
    auto* labels = step.targets().as<std::int32_t>();
    for (int n = 0; n < 32; ++n) {
      RandomBits const bits = draw(random_key(1, 0), std::uint64_t(i), std::uint64_t(n));
      labels[n] = int(bits.word[0] & 1);
      for (int p = 0; p < 256; ++p)
        pixels[n * 256 + p] = uniform(draw(random_key(2, 0), std::uint64_t(i), std::uint64_t(n * 256 + p)).word[0]) + (p / 128 == labels[n] ? 0.2f : 0.f);
    }
    step.state().learning_rate = 0.05f * float(200 - i) / 200;
    loss = step.run();
    right = step.correct();
  }
  std::printf("last loss %.4f, %d of 32 right\n", loss, int(right));
  return right >= 30 ? 0 : 1;
} catch (Error const& e) {
  std::fprintf(stderr, "error: %s\n", e.what());
  return 1;
}
