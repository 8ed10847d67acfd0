// Convolutions in a transformed domain where they take several rounds of tiles, blocks of results and pieces of the depth, which the shrunken
// problems of test_conv_agreement.cpp do not: against `direct`, which those prove.
#include <gtest/gtest.h>

#include "agreement.h"
#include "conv_case.h"

namespace falconet {
namespace {

double root_mean_square(View const& v) {
  double sum = 0;
  for (std::int64_t i = 0; i < v.type.shape.elements(); ++i) sum += std::pow(load_element(v, i), 2);
  return std::sqrt(sum / double(v.type.shape.elements()));
}

void expect_as_direct(std::string const& text, Algorithm<ConvProblem> const& algorithm, Config const& config) {
  ConvProblem const problem = ConvProblem::parse(text);
  Isa const isa = detected_isa();
  ASSERT_EQ(algorithm.reject(problem, facts_of(Device{}, isa)), "") << text;
  ConvCase expected(problem, Filling::normal), got(problem, Filling::normal);
  expected.run(conv_direct, 2, isa);
  got.run(algorithm, 2, isa, config);
  auto const two = got.results();
  got.run(algorithm, 1, isa, config);
  auto const one = got.results(), want = expected.results();
  double const bound = 1e-5 * (1 + agreement::amplification_of({algorithm.name, config})->mean);   // and direct's own error
  for (std::size_t i = 0; i < one.size(); ++i) {
    ASSERT_EQ(std::memcmp(one[i].as<void>(), two[i].as<void>(), one[i].type().bytes()), 0) << text << ": bytes differ between 1 and 2 threads";
    double const scale = root_mean_square(want[i].view());
    for (std::int64_t e = 0; e < want[i].type().shape.elements(); ++e) {
      double const w = load_element(want[i].view(), e), g = load_element(one[i].view(), e);
      ASSERT_LE(std::abs(g - w), bound * (std::abs(w) + scale)) << text << ": " << algorithm.name << " {" << config.text() << "} [" << e << "]";
    }
  }
}

TEST(ConvTiles, TakeSeveralRoundsBlocksAndPieces) {
  for (std::string direction : {"fwd", "bwd_data", "bwd_filter"}) {
    std::string const bias = direction == "bwd_filter" ? " store=bias" : "";
    for (int tile : {2, 4}) {
      Config const config{{"tile", tile}};
      expect_as_direct(direction + " n4 c130 hw30 k260 rs3 p1 f32 nhwc" + bias, conv_winograd, config);
      expect_as_direct(direction + " n2 c530 hw13 k40 rs3 p1 f32 nhwc" + bias, conv_winograd, config);
      expect_as_direct(direction + " n1 c40 hw13 k530 rs3 p2 f32 nhwc" + bias, conv_winograd, config);
      expect_as_direct(direction + " n1 c20 hw120 k33 rs3 f32 nhwc" + bias, conv_winograd, config);
    }
    for (int size : {16, 32}) {
      Config const config{{"size", size}};
      expect_as_direct(direction + " n2 c33 hw70 k40 rs5 p2 f32 nhwc" + bias, conv_fft, config);
      expect_as_direct(direction + " n1 c272 hw20 k20 rs3 p1 f32 nhwc" + bias, conv_fft, config);
      expect_as_direct(direction + " n1 c20 hw20 k272 rs7 p3 f32 nhwc" + bias, conv_fft, config);
    }
  }
}

}  // namespace
}  // namespace falconet
