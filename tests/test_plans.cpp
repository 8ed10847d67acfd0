// Plans: data without pointers that print and parse, golden texts, memory that is never shared by two values alive at once, the
// order of choice, and a step that allocates nothing.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <new>
#include <sstream>

#include "falconet/base/error.h"
#include "falconet/base/random.h"
#include "falconet/nn/layers.h"
#include "falconet/nn/models.h"
#include "falconet/ops/algorithms.h"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/plan/step.h"
#include "error_text.h"
#include "fixed_plans.h"

// Every allocation of this program, on all threads, is counted.
static std::atomic<long> allocations{0};
__attribute__((noinline)) void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* p = std::malloc(bytes ? bytes : 1)) return p;
  throw std::bad_alloc();
}
__attribute__((noinline)) void* operator new(std::size_t bytes, std::align_val_t alignment) {
  ++allocations;
  auto const a = std::size_t(alignment);
  if (void* p = std::aligned_alloc(a, (bytes + a - 1) / a * a)) return p;
  throw std::bad_alloc();
}
__attribute__((noinline)) void* operator new(std::size_t bytes, std::nothrow_t const&) noexcept {   // std::stable_sort's
  ++allocations;
  return std::malloc(bytes ? bytes : 1);
}
__attribute__((noinline)) void operator delete(void* p) noexcept { std::free(p); }
__attribute__((noinline)) void operator delete(void* p, std::size_t) noexcept { std::free(p); }
__attribute__((noinline)) void operator delete(void* p, std::nothrow_t const&) noexcept { std::free(p); }
__attribute__((noinline)) void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
__attribute__((noinline)) void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

namespace falconet {
namespace {

bool built_with_cuda() { return !conv_cuda_algorithms().empty(); }

// Two bottleneck blocks of ResNet-50's third stage (He et al. 2016, figure 5) behind a stem: 1x1, 3x3, 1x1, each with batch norm.
Layer bottlenecks() {
  auto const part = [](char const* name, char const* norm, int out, int side, int stride) {
    return conv(name, out, side, {.stride = stride, .padding = side / 2, .bias = false}) | batch_norm(norm);
  };
  auto const block = [part](int width, int stride) -> Layer {
    return [=](Var x) {
      Var y = x | part("conv1", "bn1", width, 1, 1) | relu | part("conv2", "bn2", width, 3, stride) | relu | part("conv3", "bn3", 4 * width, 1, 1);
      Var skip = y.shape() == x.shape() ? x : x | scope("downsample", part("0", "1", 4 * width, 1, stride));
      return relu(y + skip);
    };
  };
  return conv("conv1", 256, 3, {.stride = 2, .padding = 1, .bias = false}) | batch_norm("bn1") | relu |
         stage("layer2", {block(128, 2), block(128, 1)}) | global_avg_pool | linear("fc", 10);
}

void expect_golden(std::string const& name, std::string const& text) {
  auto const path = std::string(FALCONET_SOURCE_DIR) + "/tests/golden/" + name;
  if (std::getenv("FALCONET_UPDATE_GOLDEN")) std::ofstream(path) << text;
  std::stringstream golden;
  golden << std::ifstream(path).rdbuf();
  if (text == golden.str()) return;
  std::istringstream a(text), b(golden.str());
  std::string now, then;
  int line = 0;
  do ++line; while (std::getline(a, now) && std::getline(b, then) && now == then);
  ADD_FAILURE() << name << ", line " << line << "\n  now:    " << now << "\n  golden: " << then << "\nif the change is meant: FALCONET_UPDATE_GOLDEN=1 build/tests/test_plans";
}

TEST(Plan, of_mnist_cnn_is_the_golden_text) { expect_golden("mnist_cnn_b64.plan", training_plan("mnist_cnn", 64).text()); }
TEST(Plan, of_a_residual_network_is_the_golden_text) { expect_golden("resnet_mini_b8.plan", training_plan("resnet_mini", 8).text()); }

// The fusions on tensor cores: statistics, mask and sums as store slots of convolutions, batch norm's application in one pass.
TEST(Plan, of_resnet20_in_bf16_on_a_gpu_is_the_golden_text) {
  if (!built_with_cuda()) GTEST_SKIP() << "built without CUDA: no algorithms to choose from";
  auto const& d = models::find("resnet20");
  Model const model(spec_of(d.image, d.classes), d.make(d.classes), {.device = "cpu", .threads = 1});
  expect_golden("resnet20_b128_bf16_cuda.plan", plan_of(model, 128, DType::bf16, hopper_facts()).text());
}
TEST(Plan, of_bottleneck_blocks_in_bf16_on_a_gpu_is_the_golden_text) {
  if (!built_with_cuda()) GTEST_SKIP() << "built without CUDA: no algorithms to choose from";
  Model const model(spec_of({3, 112, 112}, 10), bottlenecks(), {.device = "cpu", .threads = 1});
  expect_golden("bottleneck_b32_bf16_cuda.plan", plan_of(model, 32, DType::bf16, hopper_facts()).text());
}

// The whole of ResNet-50's step: who runs what, without addresses.
TEST(Plan, of_resnet50_in_bf16_on_a_gpu_has_the_golden_launches) {
  if (!built_with_cuda()) GTEST_SKIP() << "built without CUDA: no algorithms to choose from";
  auto const& d = models::find("resnet50");
  Model const model(spec_of(d.image, 1000), d.make(1000), {.device = "cpu", .threads = 1});
  auto const plan = plan_of(model, 256, DType::bf16, hopper_facts());
  std::string text;
  int with_sums = 0, in_one_pass = 0, gradients_with_sums = 0;
  for (auto const& l : plan.step) {
    text += l.layer + "\t" + l.direction + "\t" + l.op + "\t" + l.problem + "\t" + l.choice.algorithm + "\n";
    with_sums += l.op == "conv" && l.direction == "fwd" && l.problem.find("squares") != std::string::npos;
    in_one_pass += l.op == "batch_norm" && l.choice.algorithm == "one_pass";
    gradients_with_sums += l.op == "conv" && l.direction == "bwd_data" && l.problem.find("dot") != std::string::npos;
  }
  EXPECT_EQ(with_sums, 53);                      // every convolution gives its batch norm's sums,
  EXPECT_EQ(in_one_pass, 2 * (53 - 4 - 1));      // which is applied in one pass, forwards and backwards, two at once at the end of a halving block, the first by the max-pool,
  EXPECT_GE(gradients_with_sums, 45);            // and has its gradient's sums from the data gradient before it
  expect_golden("resnet50_b256_bf16_cuda.launches", text);
}

// Sums by atomicAdd have no order: such a config runs in bench alone, and a plan says why it refuses it. A rival is asked only if it is named or let in.
TEST(Plan, on_a_gpu_refuses_an_algorithm_without_a_fixed_order_of_sums) {
  if (!built_with_cuda()) GTEST_SKIP() << "built without CUDA: no algorithms to choose from";
  Layer const net = conv("a", 8, 3, {.padding = 1}) | conv("b", 8, 3, {.padding = 1}) | global_avg_pool | linear("fc", 10);
  Model const model(spec_of({4, 8, 8}, 10), net, {.device = "cpu", .threads = 1});
  std::string const problem = "bwd_data n8 c8 hw8 k8 rs3 p1 f32 nhwc";
  for (auto const& c : algorithms_of("conv").candidates(problem, hopper_facts())) {
    if (c.rival) {
      EXPECT_EQ(c.refusal, not_asked) << c.algorithm;
    }
    if (c.algorithm == std::string("im2col_atomic")) {
      EXPECT_EQ(c.refusal, "");
      EXPECT_FALSE(is_deterministic(c.configs.front()));
    }
  }
  for (auto const& l : plan_of(model, 8, DType::f32, hopper_facts()).step) EXPECT_TRUE(is_deterministic(l.choice.config)) << l.choice.text();
  EXPECT_NO_THROW((void)plan_of(model, 8, DType::f32, hopper_facts(), nullptr, {{"b:bwd_data", "im2col_v2"}}));
  try {
    (void)plan_of(model, 8, DType::f32, hopper_facts(), nullptr, {{"b:bwd_data", "im2col_atomic"}});
    ADD_FAILURE() << "no error";
  } catch (Error const& e) {
    EXPECT_EQ(int(e.kind), int(ErrorKind::usage));
    EXPECT_NE(e.message.find("runs in bench alone"), std::string::npos) << e.message;
  }
}

// f32 storage and convolutions that may round their factors; nothing else changes, and no text where it is off.
TEST(Plan, of_precision_tf32_says_so_of_each_convolution_and_is_for_gpus) {
  auto const& d = models::find("resnet_mini");
  Model const model(spec_of(d.image, d.classes), d.make(d.classes), {.device = "cpu", .threads = 1});
  try {
    (void)plan_of(model, 8, tf32, fixed_facts());
    ADD_FAILURE() << "no error";
  } catch (Error const& e) {
    EXPECT_EQ(int(e.kind), int(ErrorKind::usage));
    EXPECT_NE(e.message.find("precision=tf32 is arithmetic of NVIDIA GPUs"), std::string::npos) << e.message;
  }
  EXPECT_THROW((void)plan_of(model, 8, Precision(DType::bf16, Math::tf32), hopper_facts()), Error);
  if (!built_with_cuda()) GTEST_SKIP() << "built without CUDA: no algorithms to choose from";
  auto const exact = plan_of(model, 8, DType::f32, hopper_facts());
  EXPECT_EQ(exact.text().find("math=tf32"), std::string::npos);
  auto const allowed = plan_of(model, 8, tf32, hopper_facts());
  EXPECT_EQ(Plan::parse(allowed.text()).text(), allowed.text());
  int convolutions = 0, rounded = 0;
  for (auto const& l : allowed.step) {
    EXPECT_EQ(l.problem.find("math=tf32") != std::string::npos, l.op == "conv") << l.problem;
    EXPECT_EQ(l.problem.find("bf16"), std::string::npos) << l.problem;
    convolutions += l.op == "conv", rounded += l.choice.algorithm == "implicit_gemm_tf32";
  }
  EXPECT_GT(convolutions, 0);
  auto const large = plan_of(Model(spec_of({3, 112, 112}, 10), bottlenecks(), {.device = "cpu", .threads = 1}), 32, tf32, hopper_facts());
  for (auto const& l : large.step) rounded += l.choice.algorithm == "implicit_gemm_tf32";
  EXPECT_GT(rounded, 0);
}

// Inference: batch norm folded, filters packed, a convolution with bias, skip and ReLU one launch.
TEST(Plan, of_resnet20_in_inference_is_the_golden_text) { expect_golden("resnet20_b1_inference.plan", inference_plan("resnet20", 1).text()); }
TEST(Plan, of_bottleneck_blocks_in_inference_is_the_golden_text) {
  Model const model(spec_of({3, 112, 112}, 10), bottlenecks(), {.device = "cpu", .threads = 1});
  expect_golden("bottleneck_b1_inference.plan", inference_plan(model, 1, DType::f32, fixed_facts()).text());
}
TEST(Plan, of_bottleneck_blocks_in_bf16_inference_on_a_gpu_has_one_launch_a_convolution) {
  if (!built_with_cuda()) GTEST_SKIP() << "built without CUDA: no algorithms to choose from";
  Model const model(spec_of({3, 112, 112}, 10), bottlenecks(), {.device = "cpu", .threads = 1});
  auto const plan = inference_plan(model, 32, DType::bf16, hopper_facts());
  for (auto const& l : plan.step) {
    EXPECT_NE(l.op, "batch_norm") << l.layer;
    EXPECT_NE(l.op, "elementwise") << l.layer;
  }
  for (auto const& l : plan.prepare) EXPECT_TRUE(l.op == "batch_norm" || l.op == "copy") << l.layer << " " << l.op;
}

// A pool behind a convolution and its ReLU is part of the convolution, both ways, where an algorithm takes it; a pin of the pool keeps it by itself.
TEST(Plan, of_a_small_network_on_a_gpu_has_no_launch_for_its_pools) {
  if (!built_with_cuda()) GTEST_SKIP() << "built without CUDA: no algorithms to choose from";
  for (std::string const kind : {"max", "average"}) {
    Layer const pool = kind == "max" ? max_pool(2) : avg_pool(2);
    Layer const net = conv("conv1", 64, 3, {.padding = 1}) | relu | conv("conv2", 64, 3, {.padding = 1}) | relu | pool | global_avg_pool | linear("fc", 4);
    Model const model(spec_of({3, 64, 64}, 4), net, {.device = "cpu", .threads = 1});
    for (bool const pinned : {false, true}) {
      std::map<std::string, std::string> pins;
      if (pinned) pins[kind == "max" ? "max_pool" : "avg_pool"] = "gather";
      int fused = 0, alone = 0;
      for (auto const& l : plan_of(model, 16, DType::f32, hopper_facts(), nullptr, pins).step) {
        fused += l.op == "conv" && l.problem.find(kind + (l.problem.starts_with("fwd") ? "_pool2" : "_unpool2")) != l.problem.npos;
        alone += l.op == "pool" && l.layer != "global_avg_pool";
      }
      EXPECT_EQ(fused, pinned ? 0 : 3) << kind;
      EXPECT_EQ(alone, pinned ? 2 : 0) << kind;
    }
  }
}

// Depthwise convolutions take the batch norm before them as they read, and both gradients the gradient of the one behind: the map between is not written.
TEST(Plan, of_inverted_residual_blocks_in_bf16_on_a_gpu_fuses_into_depthwise_convolutions) {
  if (!built_with_cuda()) GTEST_SKIP() << "built without CUDA: no algorithms to choose from";
  auto const part = [](std::string const& name, int width, int side, int stride, int groups) {
    return conv(name, width, side, {.stride = stride, .padding = side / 2, .groups = groups, .bias = false}) | batch_norm(name + "_bn");
  };
  auto const block = [part](int width, int out, int stride) -> Layer {
    return part("expand", width, 1, 1, 1) | relu6 | part("depthwise", width, 3, stride, width) | relu6 | part("project", out, 1, 1, 1);
  };
  Layer const same = [inside = block(144, 24, 1)](Var x) { return x + (x | inside); };
  Layer const net = part("stem", 24, 3, 2, 1) | relu6 | scope("block1", block(144, 24, 2)) | scope("block2", same) | global_avg_pool | linear("fc", 10);
  Model const model(spec_of({3, 112, 112}, 10), net, {.device = "cpu", .threads = 1});
  int forward = 0, gradients = 0;
  for (auto const& l : plan_of(model, 32, DType::bf16, hopper_facts()).step) {
    if (l.op != "conv" || l.problem.find(" g144 ") == l.problem.npos) continue;
    EXPECT_EQ(l.choice.algorithm, "depthwise_tma") << l.problem;
    forward += l.problem.ends_with("load_x=scale_shift+relu6 store=squares");
    gradients += l.problem.starts_with("bwd n") && l.problem.ends_with("load_x=scale_shift+relu6 load_dy=two_operand store=mask_x+dot_x");
  }
  EXPECT_EQ(forward, 2);
  EXPECT_EQ(gradients, 2);
  // A stem of other channels than pointwise_mma has: its normalised map is written, and a data gradient takes its mask from it.
  Layer const narrow = part("stem", 16, 3, 2, 1) | relu6 | scope("block1", block(96, 24, 2)) | scope("block2", same) | scope("block3", block(144, 32, 2)) | global_avg_pool | linear("fc", 10);
  Model const other(spec_of({3, 56, 56}, 10), narrow, {.device = "cpu", .threads = 1});
  EXPECT_NO_THROW((void)plan_of(other, 32, DType::bf16, hopper_facts()));
}

// A fusion that moves an update in place must not leave it behind as well.
TEST(Plan, no_parameter_or_state_is_written_twice_in_a_step) {
  auto const& d = models::find("resnet20");
  Model const model(spec_of(d.image, d.classes), d.make(d.classes), {.device = "cpu", .threads = 1});
  std::vector<Plan> plans = {training_plan("resnet20", 4)};
  if (built_with_cuda()) plans.push_back(plan_of(model, 128, DType::bf16, hopper_facts()));
  StepOptions o;
  o.batch = 4;
  o.fuse_baselines = true;                 // every rule
  Graph graph;
  CompileContext context;
  trace_training(graph, context, model, o, cross_entropy(), OptimizerOptions{});
  context.options.facts = fixed_facts();
  plans.push_back(compile(graph, context));
  for (auto const& plan : plans) {
    std::map<std::string, int> writes;
    for (auto const& l : plan.step) {
      auto const operands = algorithms_of(l.op).operands(l.problem);
      for (std::size_t i = 0; i < operands.size(); ++i)
        if (operands[i].written && l.operands[i].kind == Slot::parameter) ++writes[l.operands[i].name];
    }
    EXPECT_GT(writes.size(), 60u);
    for (auto const& [name, count] : writes) EXPECT_EQ(count, 1) << name;
  }
}

TEST(Plan, parse_of_text_is_the_plan) {
  for (auto name : {"mnist_cnn", "resnet20"})
    for (auto precision : {DType::f32, DType::f64, DType::bf16}) {
      auto const plan = training_plan(name, 4, precision);
      EXPECT_EQ(Plan::parse(plan.text()), plan) << name;
    }
}

TEST(Plan, a_pin_says_the_lane_of_a_launch_on_a_gpu) {
  if (!built_with_cuda()) GTEST_SKIP() << "this build has no algorithms for GPUs";
  auto const& d = models::find("mnist_cnn");
  Model const model(spec_of(d.image, d.classes), d.make(d.classes), {.device = "cpu", .threads = 1});
  auto const pinned = [&](Plan const* recorded, std::map<std::string, std::string> pins) { return plan_of(model, 64, DType::f32, hopper_facts(), recorded, std::move(pins)); };
  auto const of_conv2 = [](Plan const& plan) {
    for (auto const& l : plan.step)
      if (l.layer == "conv2" && l.direction == "bwd_filter") return l;
    return Launch{};
  };
  for (int lane : {0, 3, 7}) {
    Plan const plan = pinned(nullptr, {{"conv2:bwd_filter", "naive:lane=" + std::to_string(lane) + ",threads=128"}});
    EXPECT_EQ(of_conv2(plan).choice.text(), "naive:threads:128,lane:" + std::to_string(lane));
    EXPECT_EQ(of_conv2(plan).lane, lane);
    EXPECT_EQ(of_conv2(pinned(&plan, {})).lane, lane) << "a recorded plan says it, too";
  }
  EXPECT_NE(text_of_error([&] { (void)pinned(nullptr, {{"conv2:bwd_filter", "naive:lane=8"}}); }, ErrorKind::usage).find("lane cannot be 8, only 0..7"), std::string::npos);
  auto const& large = models::find("resnet18");
  Model const resnet(spec_of(large.image, large.classes), large.make(large.classes), {.device = "cpu", .threads = 1});
  EXPECT_NE(text_of_error([&] { (void)plan_of(resnet, 256, DType::bf16, hopper_facts(), nullptr, {{"layer1.0.conv1:fwd", "implicit_gemm_wgmma:lane=1"}}); }, ErrorKind::usage)
                .find("the launches of this step run one after another"), std::string::npos);
}

TEST(Plan, a_damaged_text_is_an_error_that_names_the_line) {
  auto text = training_plan("lenet5", 2).text();
  for (std::size_t cut = 0; cut < text.size(); cut += 97) {
    try {
      Plan::parse(text.substr(0, cut));
    } catch (Error const& e) {
      EXPECT_NE(std::string(e.what()).find("plan"), std::string::npos) << e.what();
    }
  }
  text.replace(text.find("\nstep\t") + 1, 4, "stop");
  EXPECT_THROW(Plan::parse(text), Error);
}

TEST(Plan, values_alive_at_once_never_share_memory) {
  for (auto name : {"mnist_cnn", "resnet20", "resnet_mini"}) {
    auto const plan = training_plan(name, 8);
    struct Range {
      std::int64_t begin, end;
      int first, last;
    };
    // A write ends what lay there; between a write and the last read that follows it nothing else may write into the range.
    int const launches = int(plan.step.size());
    for (int i = 0; i < launches; ++i) {
      auto const& l = plan.step[std::size_t(i)];
      auto const operands = algorithms_of(l.op).operands(l.problem);
      ASSERT_EQ(operands.size(), l.operands.size());
      for (std::size_t o = 0; o < operands.size(); ++o) {
        auto const& slot = l.operands[o];
        EXPECT_EQ(operands[o].type.bytes(), slot.type.bytes()) << l.layer << " " << l.problem << " operand " << operands[o].name;
        if (slot.kind != Slot::memory) continue;
        EXPECT_LE(slot.offset + std::int64_t(slot.type.bytes()), plan.memory_bytes);
        if (operands[o].written) continue;
        // Walk back to the writer of what is read here: no launch in between may have written into the range.
        auto const begin = slot.offset, end = slot.offset + std::int64_t(slot.type.bytes());
        bool found = false;
        for (int w = i - 1; w >= 0 && !found; --w) {
          auto const& writer = plan.step[std::size_t(w)];
          auto const written = algorithms_of(writer.op).operands(writer.problem);
          for (std::size_t p = 0; p < written.size(); ++p) {
            auto const& s = writer.operands[p];
            if (!written[p].written || s.kind != Slot::memory) continue;
            auto const b = s.offset, e = s.offset + std::int64_t(s.type.bytes());
            if (b == begin && e == end) found = true;
            else EXPECT_TRUE(e <= begin || b >= end) << writer.layer << " overwrites what " << l.layer << " reads";
          }
          EXPECT_TRUE(writer.scratch_bytes == 0 || found || writer.scratch_offset + writer.scratch_bytes <= begin || writer.scratch_offset >= end)
              << "scratch of " << writer.layer << " overwrites what " << l.layer << " reads";
        }
      }
    }
  }
}

// What reaches a pixel through a max-pool comes from windows that it won: ReLU's gradient is taken there, and the map before is not read again.
TEST(Plan, takes_the_gradient_of_relu_at_the_pooled_size) {
  Model const model(spec_of({3, 10, 10}, 4),
                    conv("conv1", 8, 3, {.bias = false}) | batch_norm("bn1") | relu | max_pool(3, {.stride = 2, .padding = 1}) | global_avg_pool | linear("fc", 4),
                    {.device = "cpu", .threads = 1});
  Plan const plan = plan_of(model, 4, DType::f32, fixed_facts());
  int pooled = 0;
  for (auto const& l : plan.step) {
    bool const gradient = l.problem.find("function=activation_gradient") != std::string::npos;
    EXPECT_FALSE(gradient && l.problem.find("hw=64") != std::string::npos) << l.problem;
    EXPECT_EQ(l.problem.find("mask=1"), std::string::npos) << l.problem;
    pooled += gradient && l.problem.find("hw=16") != std::string::npos;
  }
  EXPECT_EQ(pooled, 1);
}

// Inference: what runs once, then two steps. What a launch reads was written by the launch that it means, and nothing has written there since.
TEST(Plan, steps_leave_what_was_prepared_alone) {
  for (auto name : {"mnist_cnn", "resnet20", "mobilenet_v2"})
    for (auto precision : {DType::f32, DType::bf16}) {
      auto const plan = inference_plan(name, 2, precision);
      std::vector<int> writer(std::size_t(plan.memory_bytes / 64 + 1), -1);      // who wrote each 64 bytes last
      int launch = 0;
      auto const blocks = [&](std::int64_t offset, std::int64_t bytes, auto const& visit) {
        EXPECT_EQ(offset % 64, 0);
        EXPECT_LE(offset + bytes, plan.memory_bytes);
        for (std::int64_t b = offset / 64; b < (offset + bytes + 63) / 64; ++b) visit(writer[std::size_t(b)]);
      };
      std::map<std::string, std::map<std::int64_t, int>> made;                   // by type, bytes and offset: the launch that wrote it
      auto const write = [&](std::string const& what, std::int64_t offset, std::int64_t bytes) {
        blocks(offset, bytes, [&](int& w) { w = launch; });
        made[what][offset] = launch;
      };
      auto const read = [&](std::string const& who, std::string const& what, std::int64_t offset, std::int64_t bytes) {
        auto const found = made[what].find(offset);
        ASSERT_NE(found, made[what].end()) << who << " reads " << what << " that nobody wrote";
        bool whole = true;
        blocks(offset, bytes, [&](int& w) { whole &= w == found->second; });
        EXPECT_TRUE(whole) << name << ": " << who << " reads " << what << " at " << offset << ", where others have written since";
      };
      auto const kind = [](TensorType const& t) { return std::string(falconet::name(t.dtype)) + " " + std::to_string(t.bytes()); };   // a view has another shape
      for (auto const& i : plan.inputs) write(kind(i.slot.type), i.slot.offset, std::int64_t(i.slot.type.bytes()));
      auto const run = [&](Launch const& l) {
        ++launch;
        auto const& table = algorithms_of(l.op);
        auto const operands = table.operands(l.problem);
        int const prepared = l.prepared_bytes ? table.preparation(l.problem, l.choice, plan.device.kind).operand : -1;
        auto const form = "prepared for " + l.layer;
        for (std::size_t i = 0; i < operands.size(); ++i) {
          auto const& s = l.operands[i];
          if (operands[i].written || s.kind != Slot::memory || (l.packs ? int(i) != prepared : int(i) == prepared)) continue;
          read(l.layer, kind(s.type), s.offset, std::int64_t(s.type.bytes()));
        }
        if (l.packs) return write(form, l.prepared_offset, l.prepared_bytes);
        if (l.prepared_bytes) read(l.layer, form, l.prepared_offset, l.prepared_bytes);
        if (l.scratch_bytes) blocks(l.scratch_offset, l.scratch_bytes, [&](int& w) { w = launch; });
        for (std::size_t i = 0; i < operands.size(); ++i)
          if (operands[i].written && l.operands[i].kind == Slot::memory) write(kind(l.operands[i].type), l.operands[i].offset, std::int64_t(l.operands[i].type.bytes()));
      };
      for (auto const& l : plan.prepare) run(l);
      for (int step = 0; step < 2; ++step)
        for (auto const& l : plan.step) run(l);
    }
}

TEST(Plan, a_pin_comes_first_then_the_recorded_plan) {
  auto const free_choice = training_plan("mnist_cnn", 4);
  auto choice = [](Plan const& plan, std::string_view layer, std::string_view direction) {
    for (auto const& l : plan.step)
      if (l.layer == layer && l.direction == direction) return l.choice.algorithm;
    return std::string("none");
  };
  auto const pinned = training_plan("resnet_mini", 4, DType::f32, nullptr, {{"layer1.conv1:bwd_data", "reference"}});
  EXPECT_EQ(choice(pinned, "layer1.conv1", "bwd_data"), "reference");
  EXPECT_NE(choice(pinned, "layer1.conv1", "bwd_filter"), "reference");
  EXPECT_EQ(training_plan("resnet_mini", 4, DType::f32, &pinned), pinned);
  // A pin counts for more than a fusion: im2col_gemm takes no pooling, so conv2 is not fused with its pooling.
  auto const apart = training_plan("mnist_cnn", 4, DType::f32, nullptr, {{"conv2:fwd", "im2col_gemm"}});
  EXPECT_EQ(choice(apart, "conv2", "fwd"), "im2col_gemm");
  EXPECT_GT(apart.step.size(), free_choice.step.size());
}

TEST(Plan, pins_that_match_nothing_are_errors_with_the_nearest_name) {
  auto message = [](std::string key, std::string value) {
    try {
      training_plan("mnist_cnn", 4, DType::f32, nullptr, {{key, value}});
    } catch (Error const& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  EXPECT_NE(message("conv3", "reference").find("did you mean 'conv"), std::string::npos) << message("conv3", "reference");
  EXPECT_NE(message("conv1", "referense").find("did you mean 'reference'"), std::string::npos) << message("conv1", "referense");
}

void fill(TrainStep& step, std::uint64_t seed) {
  View x = step.images(), t = step.targets();
  for (std::int64_t i = 0; i < x.type.shape.elements(); ++i) x.as<float>()[i] = normals(draw(random_key(seed, 1), 0, std::uint64_t(i)))[0];
  for (std::int64_t i = 0; i < t.type.shape.elements(); ++i) t.as<std::int32_t>()[i] = int(draw(random_key(seed, 2), 0, std::uint64_t(i)).word[0] % 10);
  step.state().learning_rate = 0.01f;
}

TEST(Session, a_steady_step_allocates_nothing_on_any_thread) {
  for (auto name : {"mnist_cnn", "resnet20"}) {
    auto const& d = models::find(name);
    Model model(spec_of(d.image, d.classes), d.make(d.classes), {.device = "cpu", .threads = 2});
    OptimizerOptions sgd;
    sgd.momentum = 0.9;
    StepOptions o;
    o.batch = 4;
    TrainStep step(model, o, cross_entropy(), sgd);
    fill(step, 1);
    step.run();
    long const before = allocations;
    for (int i = 0; i < 100; ++i) step.run();
    EXPECT_EQ(allocations - before, 0) << name;
  }
}

TEST(Session, a_steady_prediction_allocates_nothing_on_any_thread) {
  for (auto name : {"mnist_cnn", "resnet20"}) {
    auto const& d = models::find(name);
    Model model(spec_of(d.image, d.classes), d.make(d.classes), {.device = "cpu", .threads = 2});
    InferenceStep step(model, {.batch = 4});
    step.run();
    long const before = allocations;
    for (int i = 0; i < 100; ++i) step.run();
    model.parameters()->changed();                          // and neither does renewing what is folded and packed
    step.run();
    EXPECT_EQ(allocations - before, 0) << name;
  }
}

TEST(Session, results_do_not_depend_on_the_number_of_threads) {
  for (auto name : {"mnist_cnn", "lenet5", "resnet_mini", "resnet20"}) {
    std::vector<std::vector<double>> losses;
    for (int threads : {1, 2, 3}) {
      auto const& d = models::find(name);
      Model model(spec_of(d.image, d.classes), d.make(d.classes), {.device = "cpu", .seed = 3, .threads = threads});
      StepOptions o;
      o.batch = 6;
      TrainStep step(model, o, cross_entropy(), OptimizerOptions{});
      losses.emplace_back();
      for (int i = 0; i < 5; ++i) {
        fill(step, std::uint64_t(i));
        losses.back().push_back(step.run());
      }
    }
    EXPECT_EQ(losses[0], losses[1]) << name;
    EXPECT_EQ(losses[0], losses[2]) << name;
  }
}

TEST(Session, a_loss_that_is_not_finite_stops_before_the_update_and_names_the_layer) {
  auto const& d = models::find("mnist_cnn");
  Model model(spec_of(d.image, d.classes), d.make(d.classes), {.device = "cpu", .threads = 1});
  StepOptions o;
  o.batch = 2;
  TrainStep step(model, o, cross_entropy(), OptimizerOptions{});
  fill(step, 1);
  step.run();
  auto* fc1 = model.parameters()->find("fc1.weight");
  fc1->tensor.as<float>()[0] = std::numeric_limits<float>::infinity();
  auto const conv1 = model.parameters()->find("conv1.weight")->tensor.copy();
  try {
    step.run();
    FAIL() << "no error";
  } catch (Error const& e) {
    EXPECT_EQ(int(e.kind), int(ErrorKind::numeric));
    EXPECT_NE(std::string(e.what()).find("step 2"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("fc1 (fwd)"), std::string::npos) << e.what();
  }
  for (int i = 0; i < 200; ++i) EXPECT_EQ(conv1.as<float>()[i], model.parameters()->find("conv1.weight")->tensor.as<float>()[i]);
}

// Converting the weights moves them: another step that is bound to them must not go on reading where they were.
TEST(Session, a_step_of_another_precision_does_not_move_weights_in_use) {
  auto const& d = models::find("lenet5");
  for (bool f64_first : {false, true}) {
    Model model(spec_of(d.image, d.classes), d.make(d.classes), {.device = "cpu", .threads = 1});
    StepOptions first{.batch = 2, .precision = f64_first ? DType::f64 : DType::f32}, second{.batch = 2, .precision = f64_first ? DType::f32 : DType::f64};
    {
      TrainStep step(model, first, cross_entropy(), OptimizerOptions{});
      auto const* const weights = model.parameters()->find("fc1.weight")->tensor.as<void>();
      for (bool training : {true, false}) try {
          if (training) TrainStep(model, second, cross_entropy(), OptimizerOptions{});
          else InferenceStep(model, second);
          ADD_FAILURE() << "no error";
        } catch (Error const& e) {
          EXPECT_EQ(int(e.kind), int(ErrorKind::usage));
          EXPECT_NE(e.message.find("in use by another step"), std::string::npos) << e.message;
          EXPECT_NE(e.message.find(std::string("precision ") + (f64_first ? "f32" : "f64")), std::string::npos) << e.message;
        }
      EXPECT_EQ(model.parameters()->find("fc1.weight")->tensor.as<void>(), weights);
      InferenceStep same(model, first);                      // the same precision shares them
      fill(step, 1);
      EXPECT_TRUE(std::isfinite(step.run()));
    }
    TrainStep after(model, second, cross_entropy(), OptimizerOptions{});   // nobody reads them any more
    fill(after, 1);
    EXPECT_TRUE(std::isfinite(after.run()));
  }
}

}  // namespace
}  // namespace falconet
