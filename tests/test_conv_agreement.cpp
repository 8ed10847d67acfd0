// Every convolution algorithm of the CPU against the reference: all lists of problems, three directions, every instruction
// set of this machine, one to three threads, by the harness for all operations (agreement.h); and, for ugly shapes and the slots,
// within a bound relative to the sum of absolute products.
#include <gtest/gtest.h>
#include <pthread.h>

#include "agreement.h"
#include "conv_case.h"
#include "sanitized.h"

namespace falconet {
namespace {

// Terms that are added up in one element of the result.
double terms_of(ConvProblem const& p) {
  switch (p.direction) {
    case Direction::fwd: return double(p.c / p.groups) * p.r * p.s;
    case Direction::bwd_data: return double(p.k / p.groups) * p.r * p.s;
    case Direction::bwd_filter: return double(p.n) * p.p() * p.q();
    case Direction::bwd: break;                                 // no algorithm of the CPU has it
  }
  return 1;
}

// An element may differ by (8 + 2 sqrt(terms)) roundings of the sum of the absolute products (of the absolute operands of
// every slot, too), as rounding errors of random sign add up; for bf16 results, by one rounding of the result more. Where errors spread
// and are amplified (agreement.h), the largest sum among the results counts, so many times.
void expect_near(ConvCase const& got, ConvCase const& exact, ConvCase const& magnitude, agreement::Amplified const* spread, std::string const& who) {
  double const roundings = 8 + 2 * std::sqrt(terms_of(got.problem));
  for (std::size_t i = 0; i < got.operands.size(); ++i) {
    auto const& o = got.operands[i];
    if (!o.written || o.type.dtype == DType::u8) continue;             // winners: see the exact tests
    bool const f64 = o.type.dtype == DType::f64;
    double const unit = f64 ? 0x1p-53 : 0x1p-24;
    double largest = 0;
    for (std::int64_t e = 0; spread && e < o.type.shape.elements(); ++e) largest = std::max(largest, std::abs(load_element(magnitude.tensors[i].view(), e)));
    for (std::int64_t e = 0; e < o.type.shape.elements(); ++e) {
      double const want = load_element(exact.tensors[i].view(), e), have = load_element(got.tensors[i].view(), e);
      double const products = spread ? spread->worst * largest : std::abs(load_element(magnitude.tensors[i].view(), e));
      double bound = roundings * unit * products + 1e-30;
      if (o.type.dtype == DType::bf16) bound += 0x1p-7 * std::abs(want);
      ASSERT_LE(std::abs(have - want), bound) << who << ": " << o.name << "[" << e << "] is " << have << ", should be " << want;
    }
  }
}
void expect_equal(ConvCase const& got, ConvCase const& exact, std::string const& who) {
  for (std::size_t i = 0; i < got.operands.size(); ++i) {
    auto const& o = got.operands[i];
    if (!o.written) continue;
    for (std::int64_t e = 0; e < o.type.shape.elements(); ++e)
      ASSERT_EQ(load_element(got.tensors[i].view(), e), load_element(exact.tensors[i].view(), e)) << who << ": " << o.name << "[" << e << "]";
  }
}

void check(ConvProblem const& problem) {
  SCOPED_TRACE(problem.text());
  ConvCase exact(problem, Filling::normal), magnitude(problem, Filling::magnitude), whole(problem, Filling::integer);
  for (ConvCase* c : {&exact, &magnitude, &whole}) c->run(conv_reference, 2, Isa::plain);
  for (auto const& algorithm : conv_algorithms().algorithms()) {
    if (algorithm.target != DeviceKind::cpu || algorithm.rival || algorithm.run == conv_reference.run) continue;
    for (Isa isa : isas_here()) {
      if (algorithm.baseline && isa != Isa::plain) continue;            // the same code under each
      DeviceFacts const facts = facts_of(Device{}, isa);
      if (!algorithm.reject(problem, facts).empty()) continue;
      auto configs = algorithm.configs ? algorithm.configs(problem, facts) : std::vector<Config>{Config{}};
      if (std::find(configs.begin(), configs.end(), Config{}) == configs.end()) configs.push_back(Config{});
      for (Config const& config : configs) {
        std::string const who = std::string(algorithm.name) + " {" + config.text() + "} on " + std::string(name(isa));
        ConvCase got(problem, Filling::normal), got_whole(problem, Filling::integer);
        got_whole.run(algorithm, 2, isa, config);
        auto const* const spread = agreement::amplification_of({algorithm.name, config});
        if (!spread || spread->exact_integers) expect_equal(got_whole, whole, who + ", whole numbers");
        got.run(algorithm, 2, isa, config);
        expect_near(got, exact, magnitude, spread, who);
        auto const two = got.results();
        got.run(algorithm, 1, isa, config);
        auto const one = got.results();
        for (std::size_t i = 0; i < one.size(); ++i)
          EXPECT_EQ(std::memcmp(one[i].as<void>(), two[i].as<void>(), one[i].type().bytes()), 0) << who << ": bytes differ between 1 and 2 threads";
        if (testing::Test::HasFailure()) return;
      }
    }
  }
}

class ConvAgreement : public testing::TestWithParam<std::tuple<std::string, Direction>> {};

TEST_P(ConvAgreement, EveryAlgorithmComputesWhatTheReferenceComputes) {
  auto const& [list, direction] = GetParam();
  int number = 0;
  for (auto const& line : read_problem_list(list)) {
    bool const suite = list.find("/benchdnn_") != list.npos || list.find("/deepbench_") != list.npos;   // long lists of much the same shapes
    if ((sanitized || suite) && !list.ends_with("ugly.txt") && number++ % (sanitized && suite ? 16 : 4)) continue;
    auto problem = within_reach(ConvProblem::parse(line));
    problem.direction = direction;
    agreement::expect_agreement("conv", problem.text());
    if (HasFailure()) return;
  }
}
INSTANTIATE_TEST_SUITE_P(Lists, ConvAgreement,
                         testing::Combine(testing::ValuesIn(agreement::lists_of("conv")), testing::Values(Direction::fwd, Direction::bwd_data, Direction::bwd_filter)),
                         [](auto const& info) {
                           return std::filesystem::path(std::get<0>(info.param)).stem().string() + "_" + std::string(name(std::get<1>(info.param)));
                         });

class ConvSlots : public testing::TestWithParam<char const*> {};

TEST_P(ConvSlots, AgreeWithTheReference) {
  std::string const slots = GetParam();
  char const* const shapes[] = {
      "n2 c1 hw28 k8 rs5 f32 nhwc",          "n3 c8 hw24 k8 rs5 f32 nhwc",     "n2 c1 hw28 k6 rs5 p2 f32 nhwc", "n2 c6 hw14 k16 rs5 f32 nhwc",
      "n2 c16 hw32 k16 rs3 p1 f32 nhwc",     "n2 c16 hw9 k32 rs3 p1 st2 f32 nhwc", "n1 c3 hw13 k33 rs3 p1 f32 nhwc", "n2 c7 h9 w17 k3 r3 s5 p0.1.2.3 f32 nhwc",
      "n1 c33 hw7 k20 rs1 f32 nhwc",         "n3 c16 hw8 k64 rs1 st2 f32 nhwc", "n2 c64 hw8 k64 rs3 p1 f32 nhwc", "n2 c5 hw11 k12 rs3 p2 d2 f32 nhwc",
      "n1 c24 h5 w21 k40 rs3 p1 f32 nhwc",   "n2 c8 hw7 k8 rs3 p1 g2 f32 nhwc", "n2 c3 hw10 k5 rs3 p1 f32 nchw",
      "n1 c256 hw14 k64 rs3 p1 f32 nhwc"};   // weights in several passes, the last of them beyond the last row
  for (auto shape : shapes) {
    if (ConvProblem::parse(shape).q() < 3) continue;
    auto const problem = ConvProblem::parse(std::string(shape) + " " + slots);
    check(problem);                                                     // with windows that no one wins
    agreement::expect_agreement("conv", problem.text());                // with guard zones
    if (HasFailure()) return;
  }
}
INSTANTIATE_TEST_SUITE_P(Combinations, ConvSlots,
                         testing::Values("fwd store=bias", "fwd store=relu", "fwd store=bias+relu", "fwd store=bias+relu+max_pool2", "fwd store=max_pool2",
                                         "fwd store=relu+max_pool3", "bwd_data store=mask", "bwd_data store=residual", "bwd_data store=residual+mask",
                                         "bwd_data load_dy=max_unpool2", "bwd_data load_dy=max_unpool3 store=mask", "bwd_data load_dy=max_unpool2 store=residual+mask",
                                         "bwd_filter store=bias", "bwd_filter load_dy=max_unpool2", "bwd_filter load_dy=max_unpool2 store=bias",
                                         "bwd_filter load_dy=max_unpool3 store=bias"));

// NaN and infinities strewn over what is read along the image: where the reference has one of them, or a number, or a winner of a window,
// so does every algorithm: none is lost.
void strew(ConvCase const& c) {
  View const image = c.operand(c.problem.direction == Direction::bwd_data ? "dy" : "x");
  double const inf = HUGE_VAL, values[] = {NAN, inf, -inf};
  for (std::int64_t i = 0; i < image.type.shape.elements(); ++i)
    if (auto const bits = agreement::bits(3, std::uint64_t(i)); bits % 97 < 3) store_element(image, i, values[bits % 97]);
}

class ConvSpecialValues : public testing::TestWithParam<char const*> {};

TEST_P(ConvSpecialValues, ArePassedOn) {
  for (char const* shape : {"n2 c1 hw28 k8 rs5 f32 nhwc", "n3 c8 hw16 k8 rs5 f32 nhwc", "n2 c6 hw14 k16 rs5 p2 f32 nhwc", "n2 c16 hw9 k33 rs3 p1 st2 f32 nhwc",
                            "n1 c3 hw13 k5 rs3 p1 f32 nhwc", "n2 c8 hw7 k8 rs3 p1 g2 f32 nhwc", "n2 c3 hw10 k5 rs3 p1 f32 nchw", "n1 c256 hw8 k16 rs3 p1 f32 nhwc"}) {
    auto const problem = ConvProblem::parse(std::string(shape) + " " + GetParam());
    ConvCase exact(problem, Filling::normal);
    strew(exact);
    exact.run(conv_reference, 2, Isa::plain);
    int special = 0;
    for (auto const& algorithm : conv_algorithms().algorithms())
      for (Isa isa : isas_here()) {
        DeviceFacts const facts = facts_of(Device{}, isa);
        if (algorithm.target != DeviceKind::cpu || algorithm.rival || (algorithm.baseline && isa != Isa::plain) || !algorithm.reject(problem, facts).empty()) continue;
        for (Config const& config : algorithm.configs ? algorithm.configs(problem, facts) : std::vector<Config>{Config{}}) {
          ConvCase got(problem, Filling::normal);
          strew(got);
          got.run(algorithm, 1, isa, config);
          // `direct` multiplies the gradient of a window's maximum by all of the filter, zeros around it included: NaN may reach further
          // there; and the neighbours of a NaN or an infinity where results are made of transforms.
          bool const transforms = agreement::amplification_of({algorithm.name, config});
          bool const spreads = transforms || problem.load_dy.unpool.kind != PoolSlot::none;
          for (std::size_t i = 0; i < got.operands.size(); ++i)
            for (std::int64_t e = 0; got.operands[i].written && e < got.operands[i].type.shape.elements(); ++e) {
              double const want = load_element(exact.tensors[i].view(), e), have = load_element(got.tensors[i].view(), e);
              special += !std::isfinite(want);
              if (spreads && std::isnan(have)) continue;
              bool const same = std::isnan(want) ? std::isnan(have) : std::isinf(want) || got.operands[i].type.dtype == DType::u8 ? have == want : std::abs(have - want) <= 1e-3;
              ASSERT_TRUE(same) << problem.text() << ": " << algorithm.name << " {" << config.text() << "} on " << name(isa) << ": " << got.operands[i].name << "[" << e
                                << "] is " << have << ", should be " << want;
            }
        }
      }
    EXPECT_GT(special, 0) << problem.text();
  }
}
INSTANTIATE_TEST_SUITE_P(Combinations, ConvSpecialValues,
                         testing::Values("fwd", "fwd store=bias+relu", "fwd store=max_pool2", "fwd store=bias+relu+max_pool2", "fwd store=relu+max_pool3", "bwd_data",
                                         "bwd_data store=residual+mask", "bwd_data load_dy=max_unpool2", "bwd_data load_dy=max_unpool2 store=mask"));

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)   // whose frames are larger
// A caller's thread does its share of the tasks: 512 KiB of stack are promised to be enough (README.md).
TEST(ConvStack, OfACallerNeeds512KiBAtMost) {
  auto const body = [](void*) -> void* {
    for (char const* text : {"fwd n2 c6 hw14 k16 rs5 p2 f32 nhwc store=bias+relu+max_pool2", "fwd n2 c16 hw9 k33 rs3 p1 f32 nhwc", "bwd_data n2 c16 hw9 k33 rs3 p1 f32 nhwc",
                             "bwd_data n2 c8 hw24 k8 rs5 f32 nhwc load_dy=max_unpool2", "bwd_filter n2 c16 hw9 k33 rs3 p1 f32 nhwc store=bias", "fwd n2 c6 hw14 k16 rs5 f32 nchw"}) {
      auto const problem = ConvProblem::parse(text);
      for (auto const& algorithm : conv_algorithms().algorithms())
        for (Isa isa : isas_here())
          if (algorithm.target == DeviceKind::cpu && !algorithm.rival && algorithm.reject(problem, facts_of(Device{}, isa)).empty())
            ConvCase(problem, Filling::normal).run(algorithm, 1, isa);
    }
    return nullptr;
  };
  pthread_attr_t attributes;
  ASSERT_EQ(pthread_attr_init(&attributes), 0);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, 512 << 10), 0);
  pthread_t thread;
  ASSERT_EQ(pthread_create(&thread, &attributes, body, nullptr), 0);
  ASSERT_EQ(pthread_join(thread, nullptr), 0);
  pthread_attr_destroy(&attributes);
}
#endif

TEST(ConvBounds, HoldForUglyShapes) {
  for (auto const& line : read_problem_list(FALCONET_SOURCE_DIR "/problems/conv/ugly.txt"))
    for (auto direction : {"fwd ", "bwd_data ", "bwd_filter "}) {
      check(ConvProblem::parse(direction + line));
      if (HasFailure()) return;
    }
}

TEST(ConvBounds, HoldForOtherElementTypes) {
  for (auto types : {"f64", "bf16", "bf16,f32,bf16"})
    for (auto direction : {"fwd", "bwd_data", "bwd_filter"}) {
      check(ConvProblem::parse(std::string(direction) + " n2 c6 h9 w7 k4 r3 s5 p0.1.2.3 st2.1 d1.2 g2 " + types + " nhwc"));
      check(ConvProblem::parse(std::string(direction) + " n2 c16 hw9 k16 rs3 p1 " + types + " nchw"));
    }
}

}  // namespace
}  // namespace falconet
