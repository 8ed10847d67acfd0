// From the start of the program to the end of the first training step of mnist_cnn, with MNIST's training set in memory, normalised
// by its own mean and deviation: what a user waits for. Prints nothing; bench/start_memory_size.py takes the time from outside.
#include "falconet/falconet.h"

using namespace falconet;

int main(int argc, char** argv) {
  auto [train, test] = data::mnist(argc > 1 ? argv[1] : "data/mnist");
  Model model(train.spec(), models::mnist_cnn(10));
  Trainer trainer(model, {.batch = 64});
  FitResult const result = trainer.fit(train | data::shuffle(), {.epochs = 1, .on_step = [](Progress const&) { return false; }});
  return result.stopped ? 0 : 1;
}
