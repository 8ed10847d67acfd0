// Plans for other NVIDIA GPUs than Hopper, from Ampere (compute capability 8.0) on: every operation of every network finds an algorithm, and none
// that needs what only Hopper has. A plan is a pure function of graph and facts, so no GPU is needed; nothing is run.
#include <gtest/gtest.h>

#include <algorithm>

#include "falconet/base/error.h"
#include "falconet/nn/layers.h"
#include "falconet/nn/models.h"
#include "falconet/ops/algorithms.h"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/plan/step.h"

namespace falconet {
namespace {

struct Generation {
  char const* card;
  int compute_capability, multiprocessors;
  std::int64_t shared_memory_bytes, memory;       // a block's; of the card in GiB
};
// As the CUDA programming guide's table of compute capabilities has them.
constexpr Generation generations[] = {{"A100", 80, 108, 166912, 80}, {"RTX 4090", 89, 128, 101376, 24}, {"B200", 100, 148, 232448, 180}, {"RTX 5090", 120, 170, 101376, 32}};

DeviceFacts facts_of(Generation const& g) {
  DeviceFacts f;
  f.device = {DeviceKind::cuda, 0};
  f.name = g.card;
  f.compute_capability = g.compute_capability;
  f.multiprocessors = g.multiprocessors;
  f.shared_memory_bytes = g.shared_memory_bytes;
  f.memory_bytes = g.memory << 30;
  return f;
}
DeviceFacts hopper() { return facts_of({"H200", 90, 132, 232448, 141}); }

// wgmma and the copy engine are sm_90a's alone; clusters came with 9.0 and stayed.
bool hoppers_alone(std::string const& algorithm) { return algorithm.find("wgmma") != std::string::npos || algorithm.find("tma") != std::string::npos; }
bool needs_clusters(Launch const& l) {
  auto const &op = l.op, &algorithm = l.choice.algorithm;
  return (op == "conv" && (algorithm == "direct_filter" || algorithm == "unstaged_clusters" || algorithm == "unstaged_mma")) || (op == "gemm" && algorithm == "small") || (op == "loss" && algorithm == "linear_rows");
}

Model model_of(std::string_view name) {
  auto const& d = models::find(name);
  auto const c = std::size_t(d.image[0]);
  return Model({d.image, std::vector<float>(c, 0.5f), std::vector<float>(c, 0.25f), std::vector<std::string>(std::size_t(d.classes), "class")}, d.make(d.classes),
               {.device = "cpu", .threads = 1});
}

Plan plan_of(Model const& model, bool training, int batch, Precision precision, DeviceFacts const& facts, Plan const* recorded = nullptr) {
  StepOptions o;
  o.batch = batch;
  o.precision = precision;
  Graph graph;
  CompileContext context;
  if (training) trace_training(graph, context, model, o, cross_entropy(), OptimizerOptions{});   // without momentum: no states to allocate
  else trace_inference(graph, context, model, o);
  context.options.facts = facts;
  context.options.recorded = recorded;
  return compile(graph, context);
}

void expect_fit(Plan const& plan, DeviceFacts const& facts) {
  ASSERT_FALSE(plan.step.empty());
  for (auto const* part : {&plan.prepare, &plan.step})
    for (auto const& l : *part) {
      SCOPED_TRACE(l.layer + " " + l.direction + " " + l.choice.text() + " for " + l.problem);
      EXPECT_FALSE(facts.compute_capability != 90 && hoppers_alone(l.choice.algorithm));
      EXPECT_FALSE(facts.compute_capability < 90 && needs_clusters(l));
      auto const candidates = algorithms_of(l.op).candidates(l.problem, facts);
      auto const chosen = std::find_if(candidates.begin(), candidates.end(), [&](Candidate const& c) { return c.algorithm == l.choice.algorithm; });
      ASSERT_NE(chosen, candidates.end());
      EXPECT_EQ(chosen->refusal, "");
      EXPECT_NE(std::find(chosen->configs.begin(), chosen->configs.end(), l.choice.config), chosen->configs.end()) << "this card cannot launch it so";
    }
}

class Generations : public testing::TestWithParam<char const*> {
 protected:
  void SetUp() override {
    if (conv_cuda_algorithms().empty()) GTEST_SKIP() << "built without CUDA: no algorithms to choose from";
  }
};

}  // namespace

TEST_P(Generations, every_launch_of_training_and_inference_has_an_algorithm) {
  Model const model = model_of(GetParam());
  for (auto const& g : generations)
    for (Precision const precision : {Precision(DType::bf16), Precision(DType::f32), tf32, Precision(DType::f64)})
      for (bool const training : {true, false}) {
        SCOPED_TRACE(std::string(g.card) + ", " + std::string(name(precision)) + (training ? ", training" : ", inference"));
        expect_fit(plan_of(model, training, 64, precision, facts_of(g)), facts_of(g));
      }
}

// A run is resumed on another card: what was recorded and cannot run there is chosen anew.
TEST_P(Generations, a_plan_recorded_on_hopper_is_none_for_other_cards) {
  Model const model = model_of(GetParam());
  Plan const recorded = plan_of(model, true, 128, DType::bf16, hopper());
  expect_fit(recorded, hopper());
  for (auto const& g : generations) {
    SCOPED_TRACE(g.card);
    expect_fit(plan_of(model, true, 128, DType::bf16, facts_of(g), &recorded), facts_of(g));
  }
}

INSTANTIATE_TEST_SUITE_P(Networks, Generations, testing::Values("mnist_cnn", "resnet20", "resnet50", "vgg16", "mobilenet_v2"),
                         [](auto const& info) { return std::string(info.param); });

TEST(Ampere, products_in_bf16_of_few_channels_run_by_mma) {
  if (conv_cuda_algorithms().empty()) GTEST_SKIP() << "built without CUDA: no algorithms to choose from";
  Plan const plan = plan_of(model_of("resnet20"), true, 128, DType::bf16, facts_of(generations[0]));
  auto const chosen = [&](std::string const& algorithm) { return std::count_if(plan.step.begin(), plan.step.end(), [&](Launch const& l) { return l.choice.algorithm == algorithm; }); };
  EXPECT_GT(chosen("halo_mma"), 10);
  EXPECT_GT(chosen("halo_mma_filter"), 10);
}

}  // namespace falconet
