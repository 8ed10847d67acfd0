// Trains and predicts through the public header alone: a bright upper half is class 0, a bright lower half class 1.
#include <cstdio>

#include "falconet/falconet.h"

class Halves : public falconet::data::Dataset {
 public:
  std::int64_t size() const override { return 64; }
  falconet::data::DataSpec const& spec() const override { return spec_; }
  void sample(std::int64_t index, falconet::data::Sample& out) const override {
    auto pixels = out.bytes(8 * 8);
    for (std::size_t i = 0; i < 64; ++i) pixels[i] = std::uint8_t((i < 32) == (index % 2 == 0) ? 200 + index % 50 : index % 50);
    out.label = int(index % 2);
  }

 private:
  falconet::data::DataSpec spec_{{1, 8, 8}, {0.5f}, {0.4f}, {"upper", "lower"}};
};

int main() try {
  using namespace falconet;
  data::Pipeline const train = data::Pipeline(Halves()) | data::shuffle();
  Model model(train.spec(), conv("conv1", 4, 3) | relu | max_pool(2) | linear("fc", 2), {.device = "cpu", .seed = 1});
  TrainerOptions options;
  options.batch = 16;
  options.optimizer = adam({.lr = 0.01});
  FitOptions fit;
  fit.epochs = 5;
  fit.validate = data::Pipeline(Halves());
  double const accuracy = Trainer(model, options).fit(train, fit).best_accuracy;
  std::printf("accuracy %.2f\n", accuracy);
  return accuracy == 1 ? 0 : 1;
} catch (falconet::Error const& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
