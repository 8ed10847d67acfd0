// The tuner: measures what accepts, remembers it in a file, and stands between recorded plans and estimates.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "falconet/base/error.h"
#include "falconet/nn/layers.h"
#include "falconet/ops/algorithms.h"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/plan/step.h"
#include "program.h"

namespace falconet {
namespace {

using testing::contents;
using testing::Folder;
using testing::write;

Model small_model(int threads = 2) {
  ImageSpec const spec{Shape{3, 12, 12}, {0.5f, 0.5f, 0.5f}, {0.25f, 0.25f, 0.25f}, {"a", "b"}};
  Layer const net = conv("first", 16, 3, {.padding = 1, .bias = false}) | batch_norm("norm") | relu | conv("second", 16, 1) | relu | global_avg_pool | linear("fc", 2);
  return Model(spec, net, {.device = "cpu", .threads = threads});
}

Plan plan_of(Model const& model, std::shared_ptr<Tuner> tuner, std::map<std::string, std::string> pins = {}, Plan const* recorded = nullptr, bool training = true) {
  Graph graph;
  CompileContext context;
  StepOptions const options{.batch = 4, .pins = std::move(pins), .recorded = recorded, .tuner = std::move(tuner)};
  if (training) trace_training(graph, context, model, options, cross_entropy(), OptimizerOptions{});
  else trace_inference(graph, context, model, options);
  return compile(graph, context);
}

Launch const& launch_of(Plan const& plan, std::string const& layer, std::string const& direction) {
  for (auto const& l : plan.step)
    if (l.layer == layer && l.direction == direction && l.op == "conv") return l;
  throw std::runtime_error("no such launch");
}

// The rows of a file with another choice made the fastest of a problem, by far.
std::string with_favourite(std::string const& rows, std::string const& problem, std::string const& favourite) {
  std::string out;
  std::istringstream lines(rows);
  for (std::string line; std::getline(lines, line);) {
    auto const choice = line.find("\t" + problem + "\t" + favourite + "\t");
    if (choice != std::string::npos) line = line.substr(0, line.rfind('\t')) + "\t0.001";
    out += line + '\n';
  }
  EXPECT_NE(out, rows) << problem << " " << favourite;
  return out;
}
// Some other choice that a file has for the problem.
std::string another(std::string const& rows, Launch const& launch) {
  std::istringstream lines(rows);
  for (std::string line; std::getline(lines, line);)
    if (auto const at = line.find("\t" + launch.problem + "\t"); at != std::string::npos) {
      auto const begin = at + launch.problem.size() + 2;
      auto const choice = line.substr(begin, line.find('\t', begin) - begin);
      if (choice != launch.choice.text()) return choice;
    }
  return "";
}

TEST(Tune, full_measures_all_that_accept_and_the_file_remembers) {
  Folder const folder;
  std::string const file = (folder.path / "below/tune.tsv").string();
  Model const model = small_model();
  auto const full = std::make_shared<Tuner>(TuneMode::full, file);
  Plan const measured = plan_of(model, full);
  EXPECT_GT(full->count().measured, 3);
  EXPECT_EQ(full->count().out_of_time, 0);
  std::string const rows = contents(file);
  EXPECT_EQ(rows.find("device\tisa\tthreads\tkernels\toperation\tproblem\tchoice\tus\n"), 0u);
  for (auto const& l : measured.step) {
    if (l.op != "conv") continue;
    int accepted = 0;
    double least = 1e30;
    for (auto const& c : algorithms_of("conv").candidates(l.problem, model.facts())) {
      accepted += c.refusal.empty() && !c.baseline && !c.rival;
      for (auto const& config : c.configs) {
        double const s = full->measured("conv", l.problem, false, {c.algorithm, config}, model.facts(), 2);
        EXPECT_FALSE(s <= 0);
        if (s < least) least = s;
        if (c.baseline) {
          EXPECT_TRUE(std::isnan(s)) << c.algorithm;
        }
      }
    }
    if (accepted > 1) {
      EXPECT_EQ(full->measured("conv", l.problem, false, l.choice, model.facts(), 2), least) << l.problem;
    }
  }

  auto const again = std::make_shared<Tuner>(TuneMode::cache, file);
  Plan const remembered = plan_of(model, again);
  EXPECT_EQ(again->count().measured, 0);
  EXPECT_EQ(again->count().remembered, full->count().measured + full->count().remembered);
  EXPECT_EQ(remembered.text(), measured.text());
  EXPECT_EQ(contents(file), rows);
}

TEST(Tune, choices_go_by_pin_then_recorded_plan_then_measurement_then_estimate) {
  Folder const folder;
  std::string const file = (folder.path / "tune.tsv").string();
  Model const model = small_model();
  Plan const estimated = plan_of(model, nullptr);
  plan_of(model, std::make_shared<Tuner>(TuneMode::full, file));
  auto const& launch = launch_of(estimated, "first", "bwd_filter");
  std::string const favourite = another(contents(file), launch);
  ASSERT_NE(favourite, "");
  write(file, with_favourite(contents(file), launch.problem, favourite));
  auto const chosen = [&](Plan const& plan) { return launch_of(plan, "first", "bwd_filter").choice.text(); };
  auto const cache = [&] { return std::make_shared<Tuner>(TuneMode::cache, file); };
  EXPECT_EQ(chosen(plan_of(model, cache())), favourite);
  EXPECT_EQ(chosen(plan_of(model, nullptr)), launch.choice.text());
  EXPECT_EQ(chosen(plan_of(model, std::make_shared<Tuner>(TuneMode::off, file))), launch.choice.text());
  EXPECT_EQ(chosen(plan_of(model, cache(), {}, &estimated)), launch.choice.text());
  EXPECT_EQ(chosen(plan_of(model, cache(), {{"first:bwd_filter", "naive"}}, &estimated)), "naive");
  EXPECT_EQ(chosen(plan_of(small_model(1), cache())), launch.choice.text()) << "measured with other threads";
}

TEST(Tune, rows_of_other_kernels_and_lines_that_are_no_rows_are_passed_over) {
  Folder const folder;
  std::string const file = (folder.path / "tune.tsv").string();
  Model const model = small_model();
  Plan const estimated = plan_of(model, nullptr);
  plan_of(model, std::make_shared<Tuner>(TuneMode::full, file));
  auto const& launch = launch_of(estimated, "first", "bwd_filter");
  std::string rows = with_favourite(contents(file), launch.problem, another(contents(file), launch));
  auto const begin = rows.find("\t2\t", rows.find('\n')) + 3;
  std::string const kernels = rows.substr(begin, rows.find('\t', begin) - begin);
  for (auto at = rows.find(kernels); at != std::string::npos; at = rows.find(kernels, at + 1)) rows.replace(at, 4, "aged");
  rows += "a line\n\t\t\t\t\t\t\t\n" + rows.substr(0, 40) + "\nx\tx\tx\tx\tx\tx\tdirect\tnan\n";
  write(file, rows);
  auto const cache = std::make_shared<Tuner>(TuneMode::cache, file);
  EXPECT_EQ(plan_of(model, cache).text(), estimated.text());
  EXPECT_EQ(cache->count().remembered, 0);
  auto const full = std::make_shared<Tuner>(TuneMode::full, file);   // keeps the old rows, and adds its own
  plan_of(model, full);
  EXPECT_GT(full->count().measured, 3);
  EXPECT_NE(contents(file).find("aged"), std::string::npos);
}

TEST(Tune, stops_measuring_when_its_time_is_over) {
  Folder const folder;
  std::string const file = (folder.path / "tune.tsv").string();
  Model const model = small_model();
  auto const none = std::make_shared<Tuner>(TuneMode::full, file, 0);
  EXPECT_EQ(plan_of(model, none).text(), plan_of(model, nullptr).text());
  EXPECT_EQ(none->count().measured, 0);
  EXPECT_GT(none->count().out_of_time, 3);
  EXPECT_FALSE(std::filesystem::exists(file));
}

TEST(Tune, measures_packed_filters_of_inference_apart) {
  Folder const folder;
  std::string const file = (folder.path / "tune.tsv").string();
  Model model = small_model();
  auto const full = std::make_shared<Tuner>(TuneMode::full, file);
  plan_of(model, full, {}, nullptr, false);
  EXPECT_NE(contents(file).find("\tconv prepared\tfwd "), std::string::npos) << contents(file);
  InferenceStep step(model, {.batch = 4, .tuner = full});
  step.run();
  EXPECT_EQ(full->count().out_of_time, 0);
}

TEST(Tune, of_a_step_that_trains_changes_no_weights_before_it) {
  Folder const folder;
  Model a = small_model(), b = small_model();
  TrainStep measured(a, {.batch = 4, .tuner = std::make_shared<Tuner>(TuneMode::full, (folder.path / "tune.tsv").string())}, cross_entropy(), OptimizerOptions{});
  TrainStep estimated(b, {.batch = 4}, cross_entropy(), OptimizerOptions{});
  auto const &x = a.parameters()->entries(), &y = b.parameters()->entries();
  ASSERT_EQ(x.size(), y.size());
  for (std::size_t i = 0; i < x.size(); ++i)
    EXPECT_EQ(std::memcmp(x[i].tensor.as<void>(), y[i].tensor.as<void>(), x[i].tensor.type().bytes()), 0) << x[i].name;
}

// On a GPU the cache is read without one: a plan is a pure function of graph, facts and rows.
TEST(Tune, a_gpu_s_plan_goes_by_what_was_remembered_of_such_a_gpu) {
  if (conv_cuda_algorithms().empty()) GTEST_SKIP() << "built without CUDA: no algorithms to choose from";
  Folder const folder;
  std::string const file = (folder.path / "tune.tsv").string();
  DeviceFacts hopper;
  hopper.device = {DeviceKind::cuda, 0};
  hopper.name = "NVIDIA H200";
  hopper.compute_capability = 90, hopper.multiprocessors = 132, hopper.shared_memory_bytes = 232448, hopper.memory_bytes = std::int64_t(141) << 30;
  Model const model = small_model();
  auto const plan = [&](DeviceFacts const& facts, Tuner* tuner) {
    Graph graph;
    CompileContext context;
    trace_training(graph, context, model, {.batch = 4}, cross_entropy(), OptimizerOptions{});
    context.options.facts = facts;
    context.options.tuner = tuner;
    return compile(graph, context);
  };
  Plan const estimated = plan(hopper, nullptr);
  auto const& launch = launch_of(estimated, "first", "bwd_filter");
  Tuner writing(TuneMode::cache, file);
  writing.remember("conv", launch.problem, {{launch.choice.text(), 5.0}, {"im2col_v2:threads:256,blocks:0", 4.0}, {"im2col_v1:threads:64,blocks:512", 3.0}, {"naive", 2.0}, {"im2col_v2:warps:3", 1.0},
                                            {"cudnn:algo_1:1", 0.7}, {"im2col_atomic:threads:256,blocks:0,deterministic:0", 0.5}, {"no choice:at:all", 0.1}},
                   hopper, 0);
  writing.save();
  EXPECT_NE(contents(file).find("NVIDIA H200\tsm_90\t0\t"), std::string::npos) << contents(file);
  Tuner cache(TuneMode::cache, file);
  EXPECT_EQ(launch_of(plan(hopper, &cache), "first", "bwd_filter").choice.text(), "im2col_v1:threads:64,blocks:512") << "a baseline, other parameters, rivals and what has no fixed order are no choices";
  EXPECT_EQ(launch_of(plan(hopper, &cache), "first", "fwd").choice.text(), launch_of(estimated, "first", "fwd").choice.text());
  EXPECT_EQ(cache.count().measured, 0);
  DeviceFacts other = hopper;
  other.name = "NVIDIA H100";
  EXPECT_EQ(launch_of(plan(other, &cache), "first", "bwd_filter").choice.text(), launch.choice.text());
}

TEST(Tune, a_search_over_launch_parameters_is_remembered) {
  Folder const folder;
  setenv("FALCONET_CACHE", folder.path.c_str(), 1);
  auto const falconet = [&](std::vector<std::string> const& words) { return testing::Process(words, folder.path).wait(); };
  auto const tuned = falconet({"tune", "model=lenet5", "batch=2", "threads=2", "plot=heat.svg"});
  ASSERT_EQ(tuned.code, 0) << tuned.err;
  EXPECT_NE(tuned.out.find(" 0 left for the next time"), std::string::npos) << tuned.out;
  EXPECT_NE(contents(folder.path / "heat.svg").find("percent of the fastest"), std::string::npos);
  std::string problem;                                     // a convolution of the step
  std::istringstream lines(contents(folder.path / "tune.tsv"));
  for (std::string line; std::getline(lines, line);)
    if (auto const at = line.find("\tconv\tbwd_data"); at != std::string::npos) problem = line.substr(at + 6, line.find('\t', at + 6) - at - 6);
  ASSERT_NE(problem, "");
  std::filesystem::remove(folder.path / "tune.tsv");
  auto const searched = falconet({"bench", "conv", "problems=" + problem, "search=true", "threads=2", "budget=0.05", "repetitions=2", "rivals=off"});
  ASSERT_EQ(searched.code, 0) << searched.err;
  EXPECT_NE(searched.out.find("remembered for tune=cache in " + (folder.path / "tune.tsv").string()), std::string::npos) << searched.out;
  auto const cache = falconet({"summary", "model=lenet5", "batch=2", "threads=2", "tune=cache"});
  EXPECT_NE(cache.out.find("tune: 1 problems as remembered, 0 measured"), std::string::npos) << problem << cache.out;
  std::filesystem::remove(folder.path / "tune.tsv");
  EXPECT_EQ(falconet({"bench", "conv", "problems=" + problem, "search=true", "algorithms=im2col_gemm", "budget=0.05", "repetitions=2", "rivals=off"}).code, 0);
  EXPECT_FALSE(std::filesystem::exists(folder.path / "tune.tsv")) << "a part of the algorithms says nothing of the others";
  unsetenv("FALCONET_CACHE");
}

TEST(Tune, the_program_says_what_was_measured) {
  Folder const folder;
  setenv("FALCONET_CACHE", folder.path.c_str(), 1);
  auto const falconet = [&](std::vector<std::string> const& words) { return testing::Process(words, folder.path).wait(); };
  auto const full = falconet({"summary", "model=lenet5", "batch=2", "tune=full", "why=true"});
  EXPECT_EQ(full.code, 0) << full.err;
  EXPECT_NE(full.out.find("measured us"), std::string::npos);
  EXPECT_NE(full.out.find(" 0 left for the next time; in " + (folder.path / "tune.tsv").string()), std::string::npos) << full.out;
  auto const cache = falconet({"bench", "train", "model=lenet5", "batch=2", "tune=cache", "steps=2"});
  EXPECT_EQ(cache.code, 0) << cache.err;
  auto const wrong = falconet({"summary", "model=lenet5", "tune=on"});
  EXPECT_EQ(wrong.code, 2);
  EXPECT_NE(wrong.err.find("off, cache, full"), std::string::npos) << wrong.err;
  write(folder.path / "file", "");
  setenv("FALCONET_CACHE", (folder.path / "file").c_str(), 1);     // cannot hold a file
  auto const unwritable = falconet({"summary", "model=lenet5", "batch=2", "tune=full"});
  EXPECT_EQ(unwritable.code, 1);
  EXPECT_NE(unwritable.err.find("error:"), std::string::npos);
  unsetenv("FALCONET_CACHE");
}

}  // namespace
}  // namespace falconet
