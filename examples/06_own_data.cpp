// Data of one's own: a Dataset says its size, its spec and one sample. Here: horizontal or vertical stripes with noise.
#include <cstdio>

#include "falconet/base/random.h"
#include "falconet/falconet.h"

using namespace falconet;

class Stripes : public data::Dataset {
 public:
  explicit Stripes(std::uint64_t seed) : seed_(seed) {}
  std::int64_t size() const override { return 512; }
  data::DataSpec const& spec() const override { return spec_; }
  void sample(std::int64_t index, data::Sample& out) const override {
    auto pixels = out.bytes(16 * 16);                // H, W, C order
    for (std::uint64_t i = 0; i < 256; ++i) {
      int const stripe = int(index % 2 ? i % 16 : i / 16) / 2 % 2 * 128;
      pixels[i] = std::uint8_t(stripe + int(draw(random_key(seed_, 0), std::uint64_t(index), i).word[0] % 128));
    }
    out.label = int(index % 2);
  }

 private:
  std::uint64_t seed_;
  data::DataSpec spec_{{1, 16, 16}, {0.5f}, {0.3f}, {"horizontal", "vertical"}};
};

int main() try {
  data::Pipeline const train = data::Pipeline(Stripes(1)) | data::shuffle() | data::random_crop(2);
  Model model(train.spec(), conv("conv1", 4, 5) | relu | max_pool(2) | linear("fc", 2), {.seed = 1});
  TrainerOptions options;
  options.batch = 32;
  options.optimizer = adam({.lr = 3e-3});
  Trainer trainer(model, options);
  FitOptions fit;
  fit.epochs = 5;
  fit.validate = data::Pipeline(Stripes(2));
  auto const result = trainer.fit(train, fit);
  std::printf("accuracy on stripes never seen: %.3f\n", result.best_accuracy);
  return result.best_accuracy > 0.95 ? 0 : 1;
} catch (Error const& e) {
  std::fprintf(stderr, "error: %s\n", e.what());
  return 1;
}
