// The trainer as a library: callbacks stop it, a run goes on from its folder to the same bytes, and what cannot go on is refused.
#include "falconet/train/trainer.h"

#include <gtest/gtest.h>

#include <cstring>

#include "error_text.h"
#include "falconet/base/random.h"
#include "falconet/io/checkpoint.h"
#include "falconet/train/run_folder.h"
#include "program.h"

using namespace falconet;
using falconet::testing::contents;
using falconet::testing::Folder;
namespace fs = std::filesystem;

namespace {

constexpr int batch = 16, images = 150, batches = 10;   // the last batch of an epoch has 6 images

data::Pipeline noise(int count = images) {
  Tensor pixels({DType::u8, {count, 1, 8, 8}, Layout::nhwc}), labels({DType::i32, {count}});
  RandomKey const key = random_key(9, hash("noise"));
  for (std::int64_t i = 0; i < pixels.shape().elements(); ++i) pixels.as<std::uint8_t>()[i] = std::uint8_t(draw(key, 0, std::uint64_t(i)).word[0] >> 24);
  for (int i = 0; i < count; ++i) labels.as<std::int32_t>()[i] = i % 3;
  return data::in_memory(std::move(pixels), std::move(labels)) | data::shuffle();
}

struct Fitted {
  std::int64_t steps = 0;                        // that on_step was told of
  FitResult result;
};

class TrainerOfALibrary : public ::testing::Test {
 protected:
  // A model and a trainer of their own, as in a new process.
  Fitted fit(std::string const& name, FitOptions options, TrainerOptions trainer = {.batch = batch}, std::uint64_t seed = 3, int count = images) {
    auto const set = noise(count);
    Model model(set.spec(), conv("conv1", 4, 3) | batch_norm("bn1") | relu | max_pool(2) | dropout(0.2) | flatten | linear("fc", 3),
                {.device = "cpu", .seed = seed, .threads = 1});
    trainer.optimizer = sgd({.lr = 0.05, .momentum = 0.9});
    trainer.schedule = cosine({.warmup = 0.1});
    Fitted run;
    options.run = path(name);
    options.validate = set;
    auto const own = options.on_step;
    options.on_step = [&](Progress const& p) { return ++run.steps, !own || own(p); };
    run.result = Trainer(model, trainer).fit(set, options);
    return run;
  }
  // Stops after so many batches of epoch 2.
  FitOptions until(std::int64_t batch_of_epoch_2, int epochs = 3) {
    return {.epochs = epochs, .on_step = [=](Progress const& p) { return !(p.epoch == 2 && p.batch == batch_of_epoch_2); }};
  }
  static FitOptions after(int epoch) { return {.epochs = 3, .on_epoch = [=](EpochResult const& r) { return r.epoch < epoch; }}; }
  std::string path(std::string const& name) const { return (folder.path / name).string(); }
  io::Checkpoint last(std::string const& name) const { return io::read_checkpoint(path(name) + "/last.ckpt"); }
  void expect_same(std::string const& a, std::string const& b) const {
    auto const x = last(a), y = last(b);
    for (auto const& [key, tensor] : x.tensors)
      EXPECT_TRUE(std::memcmp(tensor.as<char>(), y.tensor(key).as<char>(), tensor.type().bytes()) == 0) << key;
    for (char const* key : {"loss_sum", "first_loss", "right", "best_accuracy", "learning_rate", "plan"}) EXPECT_EQ(x.text(key), y.text(key)) << key;
    EXPECT_EQ(x.integers, y.integers);
    EXPECT_TRUE(contents(folder.path / a / "best.safetensors") == contents(folder.path / b / "best.safetensors"));
  }
  Folder folder;
};

}  // namespace

TEST_F(TrainerOfALibrary, is_stopped_by_on_step_within_an_epoch_and_goes_on_to_the_same_bytes) {
  auto const whole = fit("whole", {.epochs = 3});
  EXPECT_EQ(whole.steps, 3 * batches);
  EXPECT_FALSE(whole.result.stopped);
  for (std::int64_t at : {1, 4, 9}) {
    auto const name = "stopped" + std::to_string(at);
    auto const first = fit(name, until(at));
    EXPECT_TRUE(first.result.stopped);
    EXPECT_EQ(first.steps, batches + at);
    EXPECT_EQ(first.result.epochs.size(), 1u);
    EXPECT_EQ(last(name).integer("epoch"), 1);
    EXPECT_EQ(last(name).integer("batch"), at);
    auto const second = fit(name, {.epochs = 3, .resume = true});
    EXPECT_EQ(second.steps, 2 * batches - at);
    EXPECT_EQ(second.result.epochs.size(), 3u);
    EXPECT_FALSE(second.result.stopped);
    expect_same("whole", name);
  }
}

TEST_F(TrainerOfALibrary, is_stopped_by_on_epoch_and_goes_on_to_the_same_bytes) {
  fit("whole", {.epochs = 3});
  auto const first = fit("stopped", {.epochs = 3, .on_epoch = [](EpochResult const& r) { return r.epoch < 2; }});
  EXPECT_TRUE(first.result.stopped);
  EXPECT_EQ(first.steps, 2 * batches);
  EXPECT_EQ(fit("stopped", {.epochs = 3, .resume = true}).steps, batches);
  expect_same("whole", "stopped");
  auto const finished = fit("stopped", {.epochs = 3, .resume = true});
  EXPECT_TRUE(finished.result.was_finished);
  EXPECT_EQ(finished.steps, 0);
  EXPECT_EQ(finished.result.best_accuracy, finished.result.epochs[std::size_t(finished.result.best_epoch - 1)].val_accuracy);
}

TEST_F(TrainerOfALibrary, refuses_to_end_an_epoch_with_other_batches_than_it_began_with) {
  fit("r", until(4));
  auto const before = contents(folder.path / "r/last.ckpt");
  auto const refusal = [&](TrainerOptions trainer, std::uint64_t seed, int count) {
    return text_of_error([&] { fit("r", {.epochs = 3, .resume = true}, trainer, seed, count); }, ErrorKind::usage);
  };
  std::string const start = path("r") + " stopped within epoch 2 and goes on with that epoch's own batches: ";
  EXPECT_EQ(refusal({.batch = 8}, 3, images), start + "batch should be 16 as before, not 8; it may change between epochs");
  EXPECT_EQ(refusal({.batch = batch}, 4, images), start + "seed should be 3 as before, not 4; it may change between epochs");
  EXPECT_EQ(refusal({.batch = batch}, 3, 120), start + "the number of training images should be 150 as before, not 120; it may change between epochs");
  EXPECT_EQ(contents(folder.path / "r/last.ckpt"), before);
  EXPECT_FALSE(fit("r", {.epochs = 2, .resume = true}).result.stopped);
  EXPECT_EQ(fit("r", {.epochs = 3, .resume = true}, {.batch = 8}, 4, 120).steps, 15);   // between epochs
}

TEST_F(TrainerOfALibrary, keeps_plan_and_settings_of_the_run_that_goes_on) {
  fit("r", {.epochs = 1, .settings = "of the first"});
  EXPECT_EQ(last("r").text("settings"), "of the first");
  auto const plan = last("r").text("plan");
  fit("r", {.epochs = 2, .resume = true, .settings = "of the second"}, {.batch = 8});
  EXPECT_EQ(last("r").text("settings"), "of the second");
  EXPECT_EQ(last("r").text("plan"), contents(folder.path / "r/plan.tsv"));
  EXPECT_NE(last("r").text("plan"), plan);
}

// As a process leaves the folder that is killed between the renames, or before the first.
TEST_F(TrainerOfALibrary, goes_on_from_a_complete_checkpoint_that_was_not_yet_renamed) {
  fit("whole", {.epochs = 3});
  fit("between", after(2));
  fs::rename(folder.path / "between/last.ckpt", folder.path / "between/next.ckpt");
  EXPECT_EQ(text_of_error([&] { fit("between", {.epochs = 3}); }, ErrorKind::file), path("between") + " holds a run already; resume it, or name another folder");
  EXPECT_EQ(fit("between", {.epochs = 3, .resume = true}).steps, batches);
  EXPECT_FALSE(fs::exists(folder.path / "between/next.ckpt"));
  expect_same("whole", "between");

  fit("before", after(2));
  fs::rename(folder.path / "before/last.ckpt", folder.path / "before/next.ckpt");
  fs::rename(folder.path / "before/previous.ckpt", folder.path / "before/last.ckpt");
  EXPECT_EQ(record_of_run(path("before"), [](std::string const&) {}).settings, "");
  EXPECT_EQ(fit("before", {.epochs = 3, .resume = true}).steps, batches);
  expect_same("whole", "before");

  fit("alone", after(1));
  fs::rename(folder.path / "alone/last.ckpt", folder.path / "alone/next.ckpt");
  EXPECT_EQ(fit("alone", {.epochs = 3, .resume = true}).steps, 2 * batches);
  expect_same("whole", "alone");

  fit("cut", after(2));
  falconet::testing::write(folder.path / "cut/next.ckpt", contents(folder.path / "cut/last.ckpt").substr(0, 500));
  std::string said;
  EXPECT_EQ(fit("cut", {.epochs = 3, .resume = true, .on_message = [&](std::string const& text) { said += text; }}).steps, batches);
  EXPECT_NE(said.find("next.ckpt: is cut off"), std::string::npos) << said;
  expect_same("whole", "cut");
}

TEST_F(TrainerOfALibrary, refuses_numbers_of_a_checkpoint_that_are_none) {
  fit("r", {.epochs = 1});
  auto const c = last("r");
  auto const refusal = [&](char const* key, std::string const& text) {
    io::CheckpointParts parts{{}, c.texts, c.integers};
    for (auto const& [name, tensor] : c.tensors) parts.tensors.push_back({name, tensor.view()});
    parts.texts[key] = text;
    io::write_checkpoint(path("r") + "/last.ckpt", parts);
    return text_of_error([&] { fit("r", {.epochs = 2, .resume = true}); }, ErrorKind::data);
  };
  for (char const* number : {"abc", "", "0,5", "1.5x"})
    EXPECT_EQ(refusal("best_accuracy", number), path("r") + "/last.ckpt: its best_accuracy should be a number, not '" + std::string(number) + "'");
  auto const results = c.text("results");
  auto const wrong = results.substr(0, results.find('\n') + 1) + "1,10,one,1,1,1,1,1\n";
  EXPECT_EQ(refusal("results", wrong), path("r") + "/last.ckpt: its results should be a number, not 'one'");
}

TEST_F(TrainerOfALibrary, refuses_a_loss_that_is_not_over_labels) {
  for (auto const& loss : {mse(), binary_cross_entropy_with_logits()}) {
    EXPECT_EQ(text_of_error([&] { fit("r", {}, {.batch = batch, .loss = loss}); }, ErrorKind::usage),
              "a Trainer hands labels to its loss, such as cross_entropy(); " + loss.name +
                  " wants targets shaped as the output: use TrainStep with a loop of your own");
    EXPECT_FALSE(fs::exists(path("r")));
  }
}

TEST_F(TrainerOfALibrary, evaluates_a_small_set_in_a_batch_of_its_size) {
  auto const set = noise(10), larger = noise(40);
  Model model(set.spec(), conv("conv1", 4, 3) | relu | flatten | linear("fc", 3), {.device = "cpu", .threads = 1});
  Evaluator evaluator(model, {.batch = 32});
  EXPECT_EQ(evaluator.prepare(10), 10);
  EXPECT_EQ(evaluator.prepare(0), 1);
  EXPECT_EQ(evaluator.prepare(40), 32);
  auto const a = evaluator(set), again = Evaluator(model, {.batch = 10})(set);
  EXPECT_EQ(a.samples, 10);
  EXPECT_EQ(a.loss, again.loss);
  EXPECT_EQ(evaluator(larger).samples, 40);
  EXPECT_EQ(text_of_error([&] { Evaluator(model, {.batch = 0}); }, ErrorKind::usage), "batch should be at least 1, not 0");
}
