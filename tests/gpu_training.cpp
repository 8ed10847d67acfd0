// Whole plans on an NVIDIA GPU: 100 losses of mnist_cnn and resnet20 beside PyTorch's (tests/golden/pytorch_losses.json), of torchvision's networks at
// 224x224 (pytorch_losses_224.json), and a session's promises: the same bytes twice, host and device values in step, a loss that is not finite leaves the
// weights alone; and torchvision's networks' logits beside PyTorch's.
// Exits 77 (skipped) where no GPU is seen. Usage: gpu_training [small] [MODEL:PRECISION...] [logits:MODEL...] [at224=FILE]: small, which a sanitizer asks
// for, leaves torchvision's networks out; "step" is one mnist_cnn step, plain and captured; at224 reads their curves
// there, and print, with a network at 224x224, prints its losses and compares them with nothing.
#include <cmath>
#include <cstdio>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "falconet/base/error.h"
#include "falconet/device/cuda/handles.h"
#include "falconet/nn/models.h"
#include "falconet/plan/step.h"
#include "gpu_test.h"
#include "hashed_data.h"

namespace falconet {
namespace {

using gpu_test::expect;

nlohmann::json const& recorded() {
  static nlohmann::json const json = nlohmann::json::parse(std::ifstream(std::string(FALCONET_SOURCE_DIR) + "/tests/golden/pytorch_losses.json"));
  return json;
}

struct Run {
  Run(std::string const& name, DType precision, int batch, std::int64_t memory = 0)
      : d(models::find(name)),
        model({d.image, std::vector<float>(std::size_t(d.image[0]), 0.f), std::vector<float>(std::size_t(d.image[0]), 1.f), std::vector<std::string>(10, "class")}, d.make(10), {.device = "cuda"}),
        step(model, {.batch = batch, .precision = precision, .memory = memory}, cross_entropy(), sgd()) {
    hashed::fill(*model.parameters());
    step.state().learning_rate = recorded().at("learning_rate").get<float>();
  }
  static OptimizerOptions sgd() {
    OptimizerOptions o;
    o.momentum = recorded().at("momentum").get<double>();
    return o;
  }
  double next() {
    hashed::fill_batch(step.images(), step.targets(), seen++, 10);
    return step.run();
  }
  models::Description const& d;
  Model model;
  TrainStep step;
  std::uint64_t seen = 0;
};

std::vector<double> train(std::string const& name, DType precision) {
  Run run(name, precision, recorded().at(name).at("batch").get<int>());
  std::vector<double> losses;
  for (int s = 0; s < 100; ++s) losses.push_back(run.next());
  return losses;
}

double tail_mean(std::vector<double> const& a) {
  double sum = 0;
  for (std::size_t i = 80; i < 100; ++i) sum += a[i];
  return sum / 20;
}

// Losses in f32 beside PyTorch's in f64 and f32: the bounds of tests/test_training.cpp.
void expect_as_near_to_f64(std::string const& who, std::vector<double> const& ours, std::vector<double> const& truth, std::vector<double> const& single) {
  double farthest = 0, worst = 0, theirs = 0, early = 0;
  bool good = true;
  for (std::size_t i = 0; i < 100; ++i) {
    for (std::size_t k = i; k < (i < 10 ? i + 1 : 100); ++k) farthest = std::max(farthest, std::abs(single[k] - truth[k]));
    double const off = std::abs(ours[i] - truth[i]);
    worst = std::max(worst, off), theirs = std::max(theirs, std::abs(single[i] - truth[i]));
    if (i < 10) early = std::max(early, off);
    if (!(off <= std::max(1e-5, 2 * farthest))) good = false;
  }
  std::printf("%s: farthest from f64 %.3g (first ten %.3g), PyTorch's f32 %.3g\n", who.c_str(), worst, early, theirs);
  expect(good, who + ": every loss within 1e-5 or twice PyTorch's own distance from f64");
}

void beside_pytorch(std::string const& name, DType precision) {
  auto of = [&](char const* p) { return recorded().at(name).at(p).get<std::vector<double>>(); };
  auto const truth = of("f64"), single = of("f32"), ours = train(name, precision);
  std::string const who = name + " " + std::string(falconet::name(precision));
  if (precision == DType::f64) {
    double worst = 0;
    for (std::size_t i = 0; i < 100; ++i) worst = std::max(worst, std::abs(ours[i] - truth[i]));
    std::printf("%s: farthest from PyTorch's f64 in 100 steps: %.3g\n", who.c_str(), worst);
    expect(worst <= 1e-8, who + ": 100 losses within 1e-8 of PyTorch's");
  } else if (precision == DType::f32) {
    expect_as_near_to_f64(who, ours, truth, single);
  } else {
    double const off = std::abs(tail_mean(ours) - tail_mean(single)), theirs = std::abs(tail_mean(of("bf16")) - tail_mean(single));
    std::printf("%s: mean of losses 81-100 %.5f, off f32 by %.3g, PyTorch's bf16 by %.3g\n", who.c_str(), tail_mean(ours), off, theirs);
    expect(off <= 2 * theirs, who + ": ends as near to f32 as PyTorch does");
  }
}

// ---- torchvision's networks at 224x224, without dropout (tools/record_curves_224.py) ----
using Curves = std::vector<std::vector<double>>;

// Run r sees the batches of steps 100 r to 100 r + 99.
std::vector<double> train_at_224(nlohmann::json const& all, std::string const& name, DType precision, std::uint64_t run) {
  auto const& entry = all.at(name);
  int const classes = all.at("classes").get<int>(), batch = entry.at("batch").get<int>();
  Layer const network = name == "vgg16" ? models::vgg16(classes, 0) : name == "mobilenet_v2" ? models::mobilenet_v2(classes, 0) : models::find(name).make(classes);
  Model model({{3, 224, 224}, {0, 0, 0}, {1, 1, 1}, std::vector<std::string>(std::size_t(classes), "class")}, network, {.device = "cuda"});
  OptimizerOptions sgd;
  sgd.momentum = all.at("momentum").get<double>();
  TrainStep step(model, {.batch = batch, .precision = precision}, cross_entropy(), sgd);
  hashed::fill(*model.parameters(), entry.at("gain").get<double>());
  step.state().learning_rate = entry.at("learning_rate").get<float>();
  std::vector<double> losses;
  for (std::uint64_t s = 0; s < 100; ++s) {
    hashed::fill_batch(step.images(), step.targets(), 100 * run + s, classes);
    losses.push_back(step.run());
  }
  return losses;
}

// The mean distance from PyTorch's f32 over all runs: one run's alone is as much chance as rounding.
void beside_pytorch_at_224(nlohmann::json const& all, std::string const& name, DType precision) {
  auto of = [&](char const* p) { return all.at(name).at(p).get<Curves>(); };
  std::string const who = name + " 224x224 " + std::string(falconet::name(precision));
  if (precision == DType::f32) return expect_as_near_to_f64(who, train_at_224(all, name, precision, 0), of("f64").front(), of("f32").front());
  auto const single = of("f32"), half = of("bf16");
  double off = 0, theirs = 0;
  for (std::size_t r = 0; r < half.size(); ++r) {
    double const truth = tail_mean(single.at(r)), a = tail_mean(train_at_224(all, name, precision, r)) - truth, b = tail_mean(half[r]) - truth;
    std::printf("%s: run %zu, mean of losses 81-100 %.5f, off f32 by %.3g, PyTorch's bf16 by %.3g\n", who.c_str(), r, truth + a, a, b);
    off += std::abs(a) / double(half.size()), theirs += std::abs(b) / double(half.size());
  }
  std::printf("%s: off f32 by %.3g in the mean, PyTorch's bf16 by %.3g\n", who.c_str(), off, theirs);
  expect(off <= 2 * theirs, who + ": ends as near to f32 as PyTorch does");
}

void promises() {
  expect(train("mnist_cnn", DType::f32) == train("mnist_cnn", DType::f32), "the same seed gives the same 100 losses");
  Run run("mnist_cnn", DType::f32, 8);
  for (int i = 0; i < 3; ++i) run.next();
  auto* fc1 = run.model.parameters()->find("fc1.weight");          // the graph's values come back, and what is written goes there
  fc1->tensor.as<float>()[0] = std::numeric_limits<float>::infinity();
  auto const before = run.model.parameters()->find("conv1.weight")->tensor.copy();
  std::string message;
  try {
    run.next();
  } catch (Error const& e) {
    message = e.what();
  }
  expect(message.find("step 4") != std::string::npos && message.find("fc1 (fwd)") != std::string::npos, "a loss that is not finite names step and layer: " + message);
  auto const& after = run.model.parameters()->find("conv1.weight")->tensor;
  bool same = true, moved = false;
  for (int i = 0; i < 200; ++i) same &= before.as<float>()[i] == after.as<float>()[i];
  expect(same, "and leaves the weights as they were");
  run.model.parameters()->find("fc1.weight")->tensor.as<float>()[0] = 0;
  run.next();
  for (int i = 0; i < 200; ++i) moved |= before.as<float>()[i] != std::as_const(*run.model.parameters()).find("conv1.weight")->tensor.as<float>()[i];
  expect(moved, "a repaired weight trains on");
}

std::vector<std::string> values_of(Model const& model) {
  std::vector<std::string> out;
  for (auto const& e : std::as_const(*model.parameters()).entries()) out.emplace_back(e.tensor.as<char>(), e.tensor.type().bytes());
  return out;
}
// A step within two thirds of the memory that it would like forgets results and makes them again.
void within_memory() {
  for (DType precision : {DType::f32, DType::bf16}) {
    Run kept("resnet20", precision, 64);
    std::int64_t all = kept.step.session().memory_bytes();
    for (auto const& e : std::as_const(*kept.model.parameters()).entries()) all += std::int64_t(e.tensor.type().bytes());
    Run again("resnet20", precision, 64, all * 2 / 3);
    int made = 0;
    for (auto const& l : again.step.session().plan().step) made += l.direction == "recompute";
    expect(made > 0 && again.step.session().memory_bytes() < all * 2 / 3, "two thirds of the memory are enough, " + std::to_string(made) + " results are made again, " + std::string(name(precision)));
    bool same = true;
    for (int i = 0; i < 4; ++i) same &= kept.next() == again.next();
    expect(same && values_of(kept.model) == values_of(again.model), "and losses, weights and running statistics are the same bytes");
  }
}

// Two inverted residual blocks, as mobilenet_v2 has them, on images of 56x56.
Layer inverted_residuals() {
  auto const part = [](std::string const& name, int width, int side, int stride, int groups) {
    return conv(name, width, side, {.stride = stride, .padding = side / 2, .groups = groups, .bias = false}) | batch_norm(name + "_bn");
  };
  auto const block = [part](int width, int out, int stride) -> Layer {
    return part("expand", width, 1, 1, 1) | relu6 | part("depthwise", width, 3, stride, width) | relu6 | part("project", out, 1, 1, 1);
  };
  Layer const same = [inside = block(144, 24, 1)](Var x) { return x + (x | inside); };
  return part("stem", 16, 3, 2, 1) | relu6 | scope("block1", block(96, 24, 2)) | scope("block2", same) | scope("block3", block(144, 32, 2)) | global_avg_pool | linear("fc", 10);
}

// Momenta after two steps, fused in bf16: about as near to f32's as the same without fusion. A batch with padding. Gradients that are 0 but for rounding, of scales
// in front of another batch norm, are compared, too.
void fused_step() {
  auto const momenta = [](DType precision, bool fuse) {
    Model model({{3, 56, 56}, {0, 0, 0}, {1, 1, 1}, std::vector<std::string>(10, "class")}, inverted_residuals(), {.device = "cuda"});
    TrainStep step(model, {.batch = 32, .precision = precision, .fuse = fuse}, cross_entropy(), Run::sgd());
    hashed::fill(*model.parameters());
    step.state().learning_rate = 0.01f;
    step.state().valid_count = 27;
    for (std::uint64_t i = 0; i < 2; ++i) hashed::fill_batch(step.images(), step.targets(), i, 10), (void)step.run();
    std::map<std::string, std::vector<double>> out;
    for (auto const& e : std::as_const(*model.parameters()).entries())
      if (e.name.starts_with("optimizer.momentum.")) out[e.name].assign(e.tensor.as<float>(), e.tensor.as<float>() + e.tensor.type().shape.elements());
    return out;
  };
  auto const truth = momenta(DType::f32, false), parts = momenta(DType::bf16, false), fused = momenta(DType::bf16, true);
  bool good = truth.size() > 20;
  double all = 0, of_parts = 0, of_fused = 0;
  for (auto const& [key, t] : truth) {
    double size = 0, a = 0, b = 0;
    for (std::size_t i = 0; i < t.size(); ++i) {
      size += t[i] * t[i];
      a += (parts.at(key)[i] - t[i]) * (parts.at(key)[i] - t[i]), b += (fused.at(key)[i] - t[i]) * (fused.at(key)[i] - t[i]);
    }
    all += size, of_parts += a, of_fused += b;
    if (!(std::sqrt(b) <= 2 * std::sqrt(a) + 0.01 * std::sqrt(size)))
      good = false, std::printf("  %s of size %.4g: off by %.4g fused, %.4g in parts\n", key.c_str(), std::sqrt(size), std::sqrt(b), std::sqrt(a));
  }
  good &= of_fused <= 2 * of_parts;
  std::printf("inverted residuals bf16: momenta off f32's by %.4f fused, %.4f in parts\n", std::sqrt(of_fused / all), std::sqrt(of_parts / all));
  expect(good, "inverted residuals: fused as near to f32 as in parts");
}

// A NaN in the batch of a step that runs kernel by kernel (the first), and of one that is a graph.
void nan_in_a_batch() {
  for (int steps : {0, 4}) {
    Run run("resnet20", DType::f32, 8), untouched("resnet20", DType::f32, 8);
    for (int i = 0; i < steps; ++i) run.next(), untouched.next();
    auto const before = values_of(run.model);
    std::string message;
    try {
      hashed::fill_batch(run.step.images(), run.step.targets(), run.seen, 10);
      run.step.images().as<float>()[123] = std::numeric_limits<float>::quiet_NaN();
      (void)run.step.run();
    } catch (Error const& e) {
      message = e.what();
    }
    std::string const when = " at step " + std::to_string(steps + 1);
    expect(message.find("the loss is NaN") != std::string::npos && values_of(run.model) == before, "a NaN in a batch" + when + " leaves weights, running statistics and momenta: " + message);
    bool same = true;
    for (int i = 0; i < 3; ++i) same &= run.next() == untouched.next();
    expect(same && values_of(run.model) == values_of(untouched.model), "and training goes on as if it had not been" + when);
  }
}

// torchvision's networks with weights as of trained ones: the logits that PyTorch gives in f64 (tests/golden/torchvision.json).
void logits(std::string const& name) {
  auto const r = nlohmann::json::parse(std::ifstream(std::string(FALCONET_SOURCE_DIR) + "/tests/golden/torchvision.json")).at(name);
  auto const truth = r.at("logits").get<std::vector<double>>();
  ImageSpec spec = models::find(name).spec(10);
  spec.image = Shape{3, r.at("image").get<int>(), r.at("image").get<int>()};
  Model model(spec, models::find(name).make(10), {.device = "cuda"});
  hashed::fill_trained(*model.parameters());
  InferenceStep step(model, {.batch = r.at("batch").get<int>()});
  hashed::fill(step.images(), "images", std::sqrt(3.0));
  step.run();
  double largest = 0, worst = 0;
  for (std::size_t i = 0; i < truth.size(); ++i) {
    double const off = std::abs(load_element(step.output(), position(step.output().type, std::int64_t(i))) - truth[i]);
    largest = std::max(largest, std::abs(truth[i])), worst = off <= worst ? worst : off;
  }
  std::printf("%s: logits off PyTorch's by %.3g of the largest\n", name.c_str(), worst / largest);
  expect(worst <= 1e-4 * largest, name + ": the logits of PyTorch within 1e-4 of the largest");
}

}  // namespace
}  // namespace falconet

int main(int argc, char** argv) {
  using namespace falconet;
  if (int const code = gpu_test::skipped()) return code;
  std::vector<std::string> wishes;
  std::string at_224 = std::string(FALCONET_SOURCE_DIR) + "/tests/golden/pytorch_losses_224.json";
  bool small = false, print = false;
  for (int i = 1; i < argc; ++i) {
    std::string const word = argv[i];
    if (word == "small") small = true;
    else if (word == "print") print = true;
    else if (word.starts_with("at224=")) at_224 = word.substr(6);
    else wishes.push_back(word);
  }
  if (wishes.empty()) {
    wishes = {"promises", "mnist_cnn:f32", "mnist_cnn:f64", "mnist_cnn:bf16", "resnet20:f32", "resnet20:bf16", "resnet20:f64", "fused"};
    if (small) {
      std::printf("left out under a sanitizer, where it takes long: torchvision's networks\n");
    } else {
      for (char const* name : {"resnet18", "resnet34", "resnet50", "vgg16", "mobilenet_v2"}) wishes.push_back(std::string("logits:") + name);
      auto const all = nlohmann::json::parse(std::ifstream(at_224));
      for (auto const& [name, entry] : all.items())             // what is recorded of them
        for (auto const& [precision, beside] : {std::pair{"f32", "f64"}, {"bf16", "f32"}})
          if (entry.is_object() && entry.contains(precision) && entry.contains(beside)) wishes.push_back(name + ":" + precision);
    }
  }
  for (auto const& wish : wishes) {
    try {
      if (wish == "promises") promises(), nan_in_a_batch(), within_memory();
      else if (wish == "fused") fused_step();
      else if (wish == "step") {
        Run run("mnist_cnn", DType::f32, 64);
        for (int i = 0; i < 3; ++i) std::printf("loss %.6f\n", run.next());
      } else {
        auto const colon = wish.find(':');
        auto const name = wish.substr(0, colon), text = wish.substr(colon + 1);
        if (name == "logits") {
          logits(text);
          continue;
        }
        DType const precision = text == "f64" ? DType::f64 : text == "bf16" ? DType::bf16 : DType::f32;
        if (print) {
          for (double loss : train_at_224(nlohmann::json::parse(std::ifstream(at_224)), name, precision, 0)) std::printf("%.9g ", loss);
          std::printf(": %s\n", wish.c_str());
        } else if (models::find(name).image[1] == 224) beside_pytorch_at_224(nlohmann::json::parse(std::ifstream(at_224)), name, precision);
        else beside_pytorch(name, precision);
      }
    } catch (Error const& e) {
      expect(false, wish + ": " + e.what());
    }
  }
  return gpu_test::failures ? 1 : 0;
}
