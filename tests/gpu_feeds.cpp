// Batches that a GPU makes for itself, and steps that nobody waits for: the bytes are the CPU loader's, a steady step is one graph launch and
// nothing else, training gives the same bytes whichever way the data come, stopped and resumed or not, and faults name their kernel.
// Exits 77 (skipped) where no GPU can be used. Usage: gpu_feeds [fault|fault_sync|fault_in_a_layer|evaluation|faultless]; evaluation prints times, faultless leaves out
// the faults that are made on purpose, which a sanitizer would report.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <limits>
#include <random>

#include "falconet/base/error.h"
#include "falconet/base/random.h"
#include "falconet/data/loader.h"
#include "falconet/device/cuda/handles.h"
#include "falconet/nn/models.h"
#include "falconet/ops/algorithms.h"
#include "falconet/tensor/element.h"
#include "falconet/train/evaluate.h"
#include "falconet/train/feeds.h"
#include "falconet/train/trainer.h"
#include "gpu_test.h"

namespace falconet {
namespace {

using gpu_test::expect;

data::Pipeline noise(std::int64_t n, Shape image, DType type, int classes = 10) {
  Tensor images({type, {n, image[0], image[1], image[2]}, Layout::nhwc}), labels({DType::i32, {n}});
  RandomKey const key = random_key(9, hash("noise"));
  for (std::int64_t i = 0; i < n * image.elements(); ++i) {
    auto const word = draw(key, 0, std::uint64_t(i)).word[0];
    if (type == DType::u8) images.as<std::uint8_t>()[i] = std::uint8_t(word >> 24);
    else images.as<float>()[i] = uniform(word);
  }
  for (std::int64_t i = 0; i < n; ++i) labels.as<std::int32_t>()[i] = std::int32_t(draw(key, 1, std::uint64_t(i)).word[0] % std::uint32_t(classes));
  for (int c = 0; c < classes && c < n; ++c) labels.as<std::int32_t>()[c] = c;
  return data::in_memory(std::move(images), std::move(labels));
}

// Two epochs, batch by batch, beside data::Loader.
void same_bytes(std::string const& what, data::Pipeline const& pipeline, int batch, bool resident, DType type) {
  auto const image = pipeline.spec().image;
  ThreadPool pool(3);
  Device const device{DeviceKind::cuda, 0};
  FeedOptions const options{batch, 5, 0, 0, 2};
  auto const feed = resident ? resident_feed(pipeline, options, device, pool) : staged_feed(pipeline, options, device);
  data::Loader loader(pipeline, {.batch = batch, .seed = 5, .epochs = 2});
  TensorType const images_type{type, {batch, image[0], image[1], image[2]}, Layout::nhwc}, targets_type{DType::i32, {batch}, Layout::nchw};
  CudaStream stream(0);
  CudaMemory state_memory(0, sizeof(StepState)), images(0, images_type.bytes()), targets(0, targets_type.bytes());
  FeedTarget const target{static_cast<StepState*>(state_memory.data()), {images.data(), images_type}, {targets.data(), targets_type}};
  bool good = true;
  std::int64_t const batches = loader.batches_per_epoch();
  for (std::int64_t epoch = 0; epoch < 2; ++epoch) {
    std::vector<float> rates;
    for (std::int64_t b = 0; b < batches; ++b) rates.push_back(float(epoch * batches + b) * 0.5f);
    feed->start_epoch(epoch, 0, rates);
    for (std::int64_t b = 0; b < batches; ++b) {
      auto const& expected = loader.next();
      StepState state;
      state.sample = expected.sample;
      copy_to_device(target.state, &state, sizeof state, stream);
      fill_bytes(images.data(), 0xff, images.bytes(), stream);
      fill_bytes(targets.data(), 0xff, targets.bytes(), stream);
      Stream s = stream.stream();
      feed->before(stream);
      feed->launch(target, s);
      Tensor got_images(images_type), got_targets(targets_type), wanted(images_type);
      copy_to_host(got_images.as<void>(), images.data(), images.bytes(), stream);
      copy_to_host(got_targets.as<void>(), targets.data(), targets.bytes(), stream);
      copy_to_host(&state, target.state, sizeof state, stream);
      stream.synchronize();
      convert(expected.images, wanted.view());
      good &= std::memcmp(got_images.as<void>(), wanted.as<void>(), images_type.bytes()) == 0;
      good &= std::memcmp(got_targets.as<void>(), expected.labels.data, targets_type.bytes()) == 0;
      good &= state.valid_count == expected.valid_count && state.learning_rate == rates[std::size_t(b)] && state.sample == expected.sample;
    }
  }
  expect(good, what + (resident ? ", resident" : ", staged") + ": the loader's bytes");
}

Model lenet(std::uint64_t seed = 3) {
  auto const& d = models::find("lenet5");
  std::vector<std::string> labels;
  for (int i = 0; i < 10; ++i) labels.push_back(std::to_string(i));
  return Model({d.image, std::vector<float>(std::size_t(d.image[0]), 0.f), std::vector<float>(std::size_t(d.image[0]), 1.f), labels}, d.make(10), {.device = "cuda", .seed = seed});
}

void counts(bool resident) {
  Model model = lenet();
  TrainStep step(model, {.batch = 32}, cross_entropy(), sgd({.momentum = 0.9}).options);
  auto const pipeline = noise(32 * 400, model.spec().image, DType::u8) | data::shuffle() | data::random_crop(2);
  FeedOptions const options{32, 3, 0, 0, 1};
  auto const feed = resident ? resident_feed(pipeline, options, model.device(), *model.threads()) : staged_feed(pipeline, options, model.device());
  auto const steps = step.in_flight(*feed);
  feed->start_epoch(0, 0, std::vector<float>(400, 0.01f));
  steps->start();
  auto const run = [&](int from, int to) {
    for (int i = from; i < to; ++i) {
      while (i - steps->done() >= feed->most_in_flight()) {
      }
      steps->launch();
    }
    while (steps->done() < to) {
    }
  };
  run(0, 20);
  CudaCounts const before = cuda_counts();
  run(20, 320);
  CudaCounts const after = cuda_counts();
  steps->finish();
  std::int64_t const copies = after.copies - before.copies;
  std::printf("300 steps, %s: %lld graph launches, %lld kernel launches, %lld copies, %lld allocations, %lld synchronizations\n", resident ? "resident" : "staged",
              static_cast<long long>(after.graph_launches - before.graph_launches), static_cast<long long>(after.kernel_launches - before.kernel_launches),
              static_cast<long long>(copies), static_cast<long long>(after.allocations - before.allocations),
              static_cast<long long>(after.synchronizations - before.synchronizations));
  expect(after.graph_launches - before.graph_launches == 300 && after.kernel_launches == before.kernel_launches, "a steady step is one graph launch");
  expect(after.allocations == before.allocations, "and allocates nothing");
  expect(after.synchronizations == before.synchronizations, "and waits for nothing");
  expect(copies == (resident ? 0 : 300), resident ? "and copies nothing" : "and one copy beside it");
  expect(step.state().step == 320 && step.state().sample == 320 * 32, "its position advances inside");
}

// Every value that outlives a step, bit for bit: weights, running statistics, optimizer state.
std::vector<std::string> values_of(Model const& model) {
  std::vector<std::string> out;
  for (auto const& e : std::as_const(*model.parameters()).entries()) out.emplace_back(e.tensor.as<char>(), e.tensor.type().bytes());
  return out;
}

struct Trained {
  std::vector<EpochResult> epochs;
  std::vector<std::string> values;
};
Trained train(Feeding feed, std::string const& run = {}, int stop_at = 0, bool resume = false, int epochs = 3) {
  Model model = lenet();
  Trainer trainer(model, {.batch = 48, .optimizer = sgd({.lr = 0.05, .momentum = 0.9}), .schedule = one_cycle()});
  FitOptions o;
  o.epochs = epochs;
  o.feed = feed;
  o.run = run;
  o.resume = resume;
  o.validate = noise(100, model.spec().image, DType::u8);
  int seen = 0;
  o.on_step = [&](Progress const&) { return ++seen != stop_at; };
  auto const result = trainer.fit(noise(1000, model.spec().image, DType::u8) | data::shuffle() | data::random_crop(3) | data::random_flip(), o);
  return {result.epochs, values_of(model)};
}
bool same(Trained const& a, Trained const& b) {
  bool good = a.values == b.values && a.epochs.size() == b.epochs.size();
  for (std::size_t i = 0; good && i < a.epochs.size(); ++i)
    good = a.epochs[i].train_loss == b.epochs[i].train_loss && a.epochs[i].val_loss == b.epochs[i].val_loss && a.epochs[i].train_accuracy == b.epochs[i].train_accuracy &&
           a.epochs[i].learning_rate == b.epochs[i].learning_rate && a.epochs[i].step == b.epochs[i].step;
  return good;
}

void training() {
  auto const whole = train(Feeding::resident);
  expect(same(whole, train(Feeding::resident)), "two runs give the same bytes");
  expect(same(whole, train(Feeding::staged)), "staged data give the same bytes as resident data");
  set_cuda_check(CudaCheck::sync);
  expect(same(whole, train(Feeding::resident)), "kernel by kernel (cuda.check=sync) gives the same bytes as graphs");
  set_cuda_check(CudaCheck::off);
  namespace fs = std::filesystem;
  fs::path const folder = fs::temp_directory_path() / ("falconet_gpu_feeds_" + std::to_string(std::random_device{}()));
  for (Feeding feed : {Feeding::resident, Feeding::staged})
    for (int stop : {1, 17, 21, 40}) {
      auto const run = (folder / (std::to_string(int(feed)) + "_" + std::to_string(stop))).string();
      (void)train(feed, run, stop);
      expect(same(whole, train(feed, run, 0, true)), "stopped after step " + std::to_string(stop) + " and resumed: the same bytes");
    }
  std::error_code ignored;
  fs::remove_all(folder, ignored);
}

void not_finite() {
  Model model = lenet();
  Trainer trainer(model, {.batch = 48, .optimizer = sgd({.lr = 0.01})});
  model.parameters()->find("fc2.weight")->tensor.as<float>()[0] = std::numeric_limits<float>::infinity();
  auto const before = model.parameters()->find("conv1.weight")->tensor.copy();
  std::string message;
  try {
    FitOptions o;
    o.feed = Feeding::resident;
    (void)trainer.fit(noise(1000, model.spec().image, DType::u8) | data::shuffle(), o);
  } catch (Error const& e) {
    message = e.what();
  }
  expect(message.find("step 1:") != std::string::npos && message.find("fc2 (fwd)") != std::string::npos, "a loss that is not finite names step and layer: " + message);
  auto const& after = std::as_const(*model.parameters()).find("conv1.weight")->tensor;
  expect(std::memcmp(before.as<void>(), after.as<void>(), after.type().bytes()) == 0, "and leaves the weights as they were, whatever was on its way");
}

// A NaN among the images of batch 11, with steps on their way behind it: what is left is what ten steps leave.
void not_finite_data(Feeding feed) {
  Tensor images({DType::f32, {1000, 3, 32, 32}, Layout::nhwc}), labels({DType::i32, {1000}});
  RandomKey const key = random_key(4, hash("images"));
  for (std::int64_t i = 0; i < images.shape().elements(); ++i) images.as<float>()[i] = uniform(draw(key, 0, std::uint64_t(i)).word[0]);
  for (std::int64_t i = 0; i < 1000; ++i) labels.as<std::int32_t>()[i] = std::int32_t(i % 10);
  images.as<float>()[500 * 3072 + 77] = std::numeric_limits<float>::quiet_NaN();
  auto const& d = models::find("resnet20");
  auto const spec = d.spec(10);
  auto const all = data::in_memory(std::move(images), std::move(labels), {spec.image, spec.mean, spec.std, spec.labels});
  auto const trained = [&](data::Pipeline const& set, std::string& message) {
    Model model(spec, d.make(10), {.device = "cuda", .seed = 5});
    Trainer trainer(model, {.batch = 48, .optimizer = sgd({.lr = 0.01, .momentum = 0.9})});
    FitOptions o;
    o.feed = feed;
    try {
      (void)trainer.fit(set, o);
    } catch (Error const& e) {
      message = e.what();
    }
    return values_of(model);
  };
  std::string message, none;
  auto const stopped = trained(all, message), ten_steps = trained(all | data::take(480), none);
  std::string const how = feed == Feeding::resident ? ", resident" : ", staged";
  expect(none.empty() && message.find("step 11: the loss is NaN") != std::string::npos, "a NaN in a batch stops the run at its step" + how + ": " + message);
  expect(stopped == ten_steps, "and weights, running statistics and momenta are those of before it" + how);
}

// Evaluation with batches of the CPU's loader, each waited for.
Evaluation by_loader(Model& model, data::Pipeline const& set, int batch, Precision precision) {
  InferenceStep step(model, {.batch = batch, .precision = precision});
  data::Loader loader(set, {.batch = batch, .epochs = 1});
  int const classes = int(model.output_shape()[1]);
  Evaluation out;
  out.classes = classes;
  out.confusion.assign(std::size_t(classes * classes), 0);
  double loss = 0;
  for (std::int64_t b = 0; b < loader.batches_per_epoch(); ++b) {
    auto const& next = loader.next();
    convert(next.images, step.images());
    step.run();
    for (int row = 0; row < next.valid_count; ++row) {
      std::vector<double> v;
      for (int c = 0; c < classes; ++c) v.push_back(load_element(step.output(), std::int64_t(row) * classes + c));
      auto const best = std::max_element(v.begin(), v.end());
      double sum = 0;
      for (double x : v) sum += std::exp(x - *best);
      int const label = next.labels.as<std::int32_t>()[row];
      loss += std::log(sum) + *best - v[std::size_t(label)];
      ++out.confusion[std::size_t(label * classes + (best - v.begin()))];
    }
    out.samples += next.valid_count;
  }
  out.loss = loss / double(out.samples);
  return out;
}

void evaluation() {
  Model model = lenet();
  auto const image = model.spec().image;
  auto const digits = noise(1030, image, DType::u8), floats = noise(333, image, DType::f32) | data::shuffle() | data::random_crop(2), few = noise(11, image, DType::u8);
  auto const same_result = [](Evaluation const& a, Evaluation const& b) { return a.loss == b.loss && a.confusion == b.confusion && a.samples == b.samples; };
  for (Precision precision : {Precision(DType::f32), Precision(DType::bf16)})
    for (Feeding feed : {Feeding::resident, Feeding::staged}) {
      Evaluator evaluator(model, {.batch = 100, .precision = precision, .feed = feed});
      bool good = true;
      for (auto const* set : {&digits, &digits, &floats, &digits, &few}) {
        int const batch = int(std::min<std::int64_t>(set->size(), 100));
        good &= same_result(evaluator(*set), by_loader(model, *set, batch, precision));
      }
      expect(good, "evaluation, " + std::string(feed == Feeding::resident ? "resident" : "staged") + " in " + std::string(name(precision)) + ": the loss and confusion of the loader's batches");
    }
}

// Seconds of evaluating 10000 images with resnet20: by the loader, staged and resident.
void evaluation_times() {
  auto const& d = models::find("resnet20");
  Model model(d.spec(10), d.make(10), {.device = "cuda"});
  auto const set = noise(10000, d.image, DType::u8);
  auto const timed = [](auto const& work) {
    auto const begin = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  InferenceStep step(model, {.batch = 250, .precision = DType::bf16});
  for (int round = 0; round < 4; ++round)
    std::printf("round %d: the CPU's batches, each waited for, results not added up: %.4f s\n", round, timed([&] {
                  data::Loader loader(set, {.batch = 250, .epochs = 1});
                  for (int b = 0; b < 40; ++b) convert(loader.next().images, step.images()), step.run();
                }));
  for (Feeding feed : {Feeding::staged, Feeding::resident}) {
    Evaluator evaluator(model, {.batch = 250, .precision = DType::bf16, .feed = feed});
    (void)evaluator.prepare(set.size());
    for (int round = 0; round < 4; ++round) std::printf("round %d: evaluation, %s %.4f s\n", round, feed == Feeding::resident ? "resident" : "staged", timed([&] { (void)evaluator(set); }));
  }
}

// A kernel that reads where nothing is.
int fault(bool sync) {
  set_cuda_check(sync ? CudaCheck::sync : CudaCheck::off);
  std::string const problem = "result=loss kind=mse x=f32[64x10] target=f32";
  std::string message;
  try {
    CudaStream stream(0);
    CudaMemory memory(0, 1 << 20);
    StepState state;
    state.valid_count = 64;                      // rows that count
    copy_to_device(memory.data(), &state, sizeof state, stream);
    auto const& table = algorithms_of("loss");
    std::vector<View> views;
    for (auto const& o : table.operands(problem)) views.push_back({o.type.dtype == DType::f32 && !o.written ? reinterpret_cast<void*>(256) : static_cast<char*>(memory.data()) + (o.written ? 1024 : 0), o.type});
    Stream s = stream.stream();
    table.bind(problem, {"rows", {}}, DeviceKind::cuda, views, {static_cast<char*>(memory.data()) + (1 << 19), {}})(s);
    stream.synchronize();
  } catch (Error const& e) {
    message = e.what();
  }
  std::printf("%s\n", message.c_str());
  bool const good = sync ? message.find("kernel loss rows") != std::string::npos && message.find("mse") != std::string::npos : message.find("cuda.check=sync") != std::string::npos;
  return good ? 0 : 1;
}

// The same in a plan: a launch of conv2 reads far outside of the plan's memory.
int fault_in_a_layer() {
  set_cuda_check(CudaCheck::sync);
  std::string message, where;
  try {
    auto const& d = models::find("mnist_cnn");
    Model model(d.spec(10), d.make(10), {.device = "cuda"});
    Graph graph;
    CompileContext context;
    trace_inference(graph, context, model, {.batch = 4});
    Plan plan = compile(graph, context);
    model.parameters()->adopt(graph);
    for (auto& launch : plan.step)
      if (launch.layer == "conv2" && launch.op == "conv") launch.operands[0].offset = std::int64_t(1) << 45;
    Session(std::move(plan), model.parameters(), model.threads(), model.options().isa).step();
  } catch (Error const& e) {
    message = e.what();
  }
  std::printf("%s\n", message.c_str());
  for (char const* part : {"conv2 (fwd)", "launching kernel", "problem 'fwd n4 c8"})
    if (message.find(part) == std::string::npos) return 1;
  return 0;
}

}  // namespace
}  // namespace falconet

int main(int argc, char** argv) {
  using namespace falconet;
  if (int const code = gpu_test::skipped()) return code;
  if (argc > 1 && std::string(argv[1]) == "evaluation") return evaluation_times(), 0;
  bool const faultless = argc > 1 && std::string(argv[1]) == "faultless";
  if (argc > 1 && std::string(argv[1]) == "fault_in_a_layer") return fault_in_a_layer();
  if (argc > 1 && !faultless) return fault(std::string(argv[1]) == "fault_sync");
  try {
    for (bool resident : {true, false}) {
      same_bytes("digits", noise(1000, {1, 28, 28}, DType::u8) | data::shuffle(), 64, resident, DType::f32);
      same_bytes("digits in f64", noise(200, {1, 28, 28}, DType::u8) | data::shuffle(), 64, resident, DType::f64);
      same_bytes("cropped and flipped", noise(500, {3, 32, 32}, DType::u8) | data::shuffle() | data::random_crop(4) | data::random_flip(), 128, resident, DType::f32);
      same_bytes("floats, odd sizes, twice cropped", noise(77, {5, 9, 7}, DType::f32) | data::random_flip() | data::random_crop(3) | data::take(50) | data::shuffle() | data::random_crop(20), 16, resident,
                 DType::f32);
      same_bytes("a part of the data set", noise(300, {2, 40, 31}, DType::u8) | data::shuffle() | data::subset(20, 290) | data::shuffle(), 33, resident, DType::f32);
      same_bytes("a batch larger than the data set", noise(20, {1, 5, 5}, DType::u8), 32, resident, DType::f32);
      counts(resident);
    }
    training();
    evaluation();
    not_finite();
    for (Feeding feed : {Feeding::resident, Feeding::staged}) not_finite_data(feed);
    if (faultless) std::printf("left out under a sanitizer: faults of kernels on purpose\n");
    for (auto const& [how, what] : {std::pair{"fault", "reported, with the way to find it"}, {"fault_sync", "named, with its problem"}, {"fault_in_a_layer", "named, with layer, kernel and problem"}})
      if (!faultless) expect(std::system((std::string(argv[0]) + " " + how).c_str()) == 0, std::string("a fault of a kernel is ") + what);
  } catch (Error const& e) {
    expect(false, e.what());
  }
  return gpu_test::failures ? 1 : 0;
}
