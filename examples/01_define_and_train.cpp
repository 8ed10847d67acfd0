// Define a network, train it on MNIST, keep its weights.
// Usage: 01_define_and_train [data/mnist] [samples] [epochs]
#include <cstdio>
#include <cstdlib>

#include "falconet/falconet.h"

using namespace falconet;

int main(int argc, char** argv) try {
  auto [train, test] = data::mnist(argc > 1 ? argv[1] : "data/mnist");
  std::int64_t const samples = argc > 2 ? std::atoll(argv[2]) : 60000;

  Layer const net = conv("conv1", 8, 5) | relu | conv("conv2", 8, 5) | relu | max_pool(2) | linear("fc1", 128) | relu | linear("fc2", 10);
  Model model(train.spec(), net, {.seed = 1});
  model.name = "mnist_cnn";                          // the same network under the same keys: `falconet predict` can read the file

  TrainerOptions options;
  options.batch = 64;
  options.optimizer = adam({.lr = 2e-3});
  options.schedule = cosine({.warmup = 0.05});
  Trainer trainer(model, options);

  FitOptions fit;
  fit.epochs = argc > 3 ? std::atoi(argv[3]) : 1;
  fit.validate = test;
  fit.on_epoch = [](EpochResult const& r) {
    std::printf("epoch %d: loss %.4f, validation accuracy %.4f, %.1f s\n", r.epoch, r.train_loss, r.val_accuracy, r.seconds);
    return true;                                     // false would stop the training
  };
  auto const result = trainer.fit(train | data::take(samples) | data::shuffle(), fit);
  save_model(model, "mnist_cnn.safetensors");
  std::printf("best validation accuracy %.4f, weights in mnist_cnn.safetensors\n", result.best_accuracy);
} catch (Error const& e) {
  std::fprintf(stderr, "error: %s\n", e.what());
  return 1;
}
