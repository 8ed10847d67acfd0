// Predict with trained weights, also from several threads: predictors share the weights and copy nothing.
// Usage: 02_predict MODEL.safetensors IMAGE.png ...
#include <cstdio>
#include <thread>

#include "falconet/falconet.h"

using namespace falconet;

int main(int argc, char** argv) try {
  if (argc < 3) return std::fprintf(stderr, "usage: %s MODEL.safetensors IMAGE ...\n", argv[0]), 2;
  auto model = load_model(argv[1], {.device = "cpu"});

  Predictor predict(*model);
  for (int i = 2; i < argc; ++i) {
    auto const p = predict(data::read_image(argv[i]));   // resized and normalised as the model file says
    std::printf("%s: %s (%.1f %%)\n", argv[i], p.label.c_str(), 100 * p.probability);
  }

  auto const image = data::read_image(argv[2]);
  std::vector<Predictor> predictors;
  for (int t = 0; t < 4; ++t) predictors.emplace_back(*model, PredictorOptions{.threads = 1});   // one per thread
  std::vector<Prediction> answers(4);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) threads.emplace_back([&, t] { answers[std::size_t(t)] = predictors[std::size_t(t)](image); });
  for (auto& t : threads) t.join();
  for (auto const& a : answers)
    if (a.index != answers[0].index || a.probability != answers[0].probability) return std::puts("the threads disagree"), 1;
  std::puts("four threads agree");
} catch (Error const& e) {
  std::fprintf(stderr, "error: %s\n", e.what());
  return 1;
}
