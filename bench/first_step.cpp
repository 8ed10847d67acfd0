// From the start of the program to the end of the first training step of mnist_cnn, with MNIST's training set in memory, normalised
// by its own mean and deviation: what a user waits for. Prints nothing; bench/start_memory_size.py takes the time from outside.
#include <cstdio>

#include "falconet/falconet.h"

int main(int argc, char** argv) try {
  using namespace falconet;
  auto const mnist = data::mnist(argc > 1 ? argv[1] : "data/mnist");
  Model model(mnist.train.spec(), models::mnist_cnn(10));
  TrainerOptions options;
  options.batch = 64;
  FitOptions fit;
  fit.on_step = [](Progress const&) { return false; };
  return Trainer(model, options).fit(mnist.train | data::shuffle(), fit).stopped ? 0 : 1;
} catch (falconet::Error const& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
