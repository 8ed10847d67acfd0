// Where weights start: mean, variance, bounds and shape of each initialisation's distribution, as the papers and PyTorch give them, through
// the layers, so that what they count as fan is looked at too.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "falconet/graph/parameters.h"
#include "falconet/nn/layers.h"
#include "falconet/tensor/element.h"

namespace falconet {
namespace {

// What is expected: a bound of a uniform distribution, or the standard deviation of a normal one.
struct Expected {
  bool normal;
  double scale;
};

std::vector<double> values_of(Tensor const& t) {
  std::vector<double> out;
  for (std::int64_t i = 0; i < t.shape().elements(); ++i) out.push_back(load_element(t.view(), i));
  return out;
}

// Every moment lies within five of its own standard deviations, of as many independent values.
void expect_distribution(std::vector<double> const& values, Expected const& e, std::string const& who) {
  double const n = double(values.size()), deviation = e.normal ? e.scale : e.scale / std::sqrt(3.0);
  double sum = 0, square = 0, fourth = 0, most = 0, neighbours = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    double const v = values[i] / deviation;
    sum += v, square += v * v, fourth += v * v * v * v, most = std::max(most, std::abs(v));
    if (i) neighbours += v * values[i - 1] / deviation;
  }
  double const kurtosis = e.normal ? 3 : 1.8, eighth = e.normal ? 105 : 9;   // E v^4 and E v^8 of unit variance
  EXPECT_NEAR(sum / n, 0, 5 / std::sqrt(n)) << who << ": mean";
  EXPECT_NEAR(square / n, 1, 5 * std::sqrt((kurtosis - 1) / n)) << who << ": variance";
  EXPECT_NEAR(fourth / n, kurtosis, 5 * std::sqrt((eighth - kurtosis * kurtosis) / n)) << who << ": fourth moment";
  EXPECT_NEAR(neighbours / n, 0, 5 / std::sqrt(n)) << who << ": neighbours depend on each other";
  if (e.normal) {
    EXPECT_GT(most, 3.5) << who;
  } else {
    EXPECT_LE(most * deviation, e.scale * (1 + 1e-6)) << who << ": bound";
    EXPECT_GT(most * deviation, e.scale * 0.999) << who << ": bound";
  }
}

std::unique_ptr<Parameters> traced(Layer const& net, Shape shape, std::uint64_t seed = 3) {
  Graph graph;
  net(graph.input("images", {DType::f32, shape, Layout::nchw}));
  auto out = std::make_unique<Parameters>(seed);
  out->adopt(graph);
  return out;
}
std::vector<double> weight_of(Layer const& net, Shape shape, char const* key) { return values_of(traced(net, shape)->find(key)->tensor); }

struct Row {
  char const* name;
  Init::Kind kind;
  // The variance is gain / fan; fan: number of inputs, of outputs, or both.
  bool normal;
  double gain;
  bool in, out;
};
void PrintTo(Row const& r, std::ostream* out) { *out << r.name; }

class InitialWeights : public testing::TestWithParam<Row> {};

TEST_P(InitialWeights, HaveTheVarianceAndTheShapeOfTheirDistribution) {
  Row const& r = GetParam();
  auto const expected = [&](double in, double out) {
    double const variance = r.gain / ((r.in ? in : 0) + (r.out ? out : 0));
    return Expected{r.normal, std::sqrt(r.normal ? variance : 3 * variance)};   // U(-b, b) has the variance b^2 / 3
  };
  std::string const who = r.name;
  // 32 channels to 64 by 5x3: 32*15 inputs of an output, 64*15 outputs.
  expect_distribution(weight_of(conv("c", 64, {5, 3}, {.init = r.kind}), {1, 32, 8, 8}, "c.weight"), expected(480, 960), who + " of a convolution");
  // In 4 groups: 8*15 inputs; PyTorch counts the outputs of all groups.
  expect_distribution(weight_of(conv("c", 64, {5, 3}, {.groups = 4, .init = r.kind}), {1, 32, 8, 8}, "c.weight"), expected(120, 960), who + " of a grouped convolution");
  expect_distribution(weight_of(linear("fc", 300, {.init = r.kind}), {1, 200}, "fc.weight"), expected(200, 300), who + " of a linear layer");
}

INSTANTIATE_TEST_SUITE_P(Of, InitialWeights,
                         testing::Values(Row{"kaiming_uniform", Init::kaiming_uniform, false, 2, true, false}, Row{"kaiming_normal", Init::kaiming_normal, true, 2, true, false},
                                         Row{"kaiming_normal_fan_out", Init::kaiming_normal_fan_out, true, 2, false, true},
                                         Row{"xavier_uniform", Init::xavier_uniform, false, 2, true, true}, Row{"xavier_normal", Init::xavier_normal, true, 2, true, true},
                                         Row{"pytorch", Init::pytorch, false, 1.0 / 3, true, false}),
                         [](auto const& info) { return std::string(info.param.name); });

TEST(InitialWeights, KnownBoundsOfPyTorch) {   // kaiming_uniform_(a=sqrt(5)): 1/sqrt(fan_in); LeNet's first layer 0.2, of 25 inputs
  auto const most = [](std::vector<double> const& v) { return std::max(*std::max_element(v.begin(), v.end()), -*std::min_element(v.begin(), v.end())); };
  EXPECT_NEAR(most(weight_of(conv("c", 400, 5), {1, 1, 8, 8}, "c.weight")), 0.2, 0.0005);
  EXPECT_NEAR(most(weight_of(conv("c", 4000, 5), {1, 1, 8, 8}, "c.bias")), 0.2, 0.0005);
  EXPECT_NEAR(most(weight_of(linear("fc", 5000), {1, 4}, "fc.bias")), 0.5, 0.001);
}

TEST(InitialWeights, ConstantUniformAndNormalTakeTheirValue) {
  expect_distribution(weight_of(linear("fc", 300, {.init = Init::uniform, .init_value = 0.25}), {1, 200}, "fc.weight"), {false, 0.25}, "uniform");
  expect_distribution(weight_of(linear("fc", 300, {.init = Init::normal, .init_value = 0.01}), {1, 200}, "fc.weight"), {true, 0.01}, "normal");
  for (double v : weight_of(linear("fc", 30, {.init = Init::constant, .init_value = 0.5}), {1, 20}, "fc.weight")) EXPECT_EQ(v, 0.5);
  for (double v : weight_of(linear("fc", 30, {.bias_init = Init::constant}), {1, 20}, "fc.bias")) EXPECT_EQ(v, 0);
  auto const norm = traced(batch_norm("bn"), {2, 5, 4, 4});
  for (auto [key, value] : {std::pair{"bn.weight", 1.0}, {"bn.bias", 0.0}, {"bn.running_mean", 0.0}, {"bn.running_var", 1.0}})
    EXPECT_EQ(values_of(norm->find(key)->tensor), std::vector<double>(5, value)) << key;
}

TEST(InitialWeights, DependOnSeedAndKeyAndNotOnLayoutTypeOrOtherLayers) {
  Layer const one = conv("a", 8, 3), two = conv("z", 3, 1) | conv("a", 8, 3);
  auto const a = values_of(traced(one, {1, 3, 8, 8})->find("a.weight")->tensor);
  EXPECT_EQ(a, values_of(traced(two, {1, 3, 8, 8})->find("a.weight")->tensor));
  EXPECT_NE(a, values_of(traced(one, {1, 3, 8, 8}, 4)->find("a.weight")->tensor));
  EXPECT_NE(a, values_of(traced(conv("b", 8, 3), {1, 3, 8, 8})->find("b.weight")->tensor));
  Shape const shape{8, 3, 3, 3};
  Tensor nchw({DType::f32, shape, Layout::nchw}), nhwc({DType::f32, shape, Layout::nhwc}), wide({DType::f64, shape, Layout::nhwc});
  for (Tensor* t : {&nchw, &nhwc, &wide}) initialise(*t, {Init::kaiming_normal, 0, 27, 72}, 3, "a.weight");
  for (std::int64_t i = 0; i < shape.elements(); ++i) {
    double const v = load_element(nchw.view(), i);
    EXPECT_EQ(load_element(nhwc.view(), position(nhwc.type(), i)), v);
    EXPECT_EQ(load_element(wide.view(), position(wide.type(), i)), v);
  }
}

}  // namespace
}  // namespace falconet
