// What tracing a network gives: keys, shapes, errors that name the layer and the user's line.
#include <gtest/gtest.h>

#include "falconet/base/error.h"
#include "falconet/nn/layers.h"
#include "falconet/nn/models.h"
#include "falconet/ops/gradients.h"

namespace falconet {
namespace {

std::string error_of(std::function<void()> const& f, ErrorKind kind = ErrorKind::shape) {
  try {
    f();
  } catch (Error const& e) {
    EXPECT_EQ(int(e.kind), int(kind)) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

struct Traced {
  Graph graph;
  Var x, y;
  Traced(Layer const& net, Shape shape) {
    graph.training = true;
    x = graph.input("images", {DType::f32, shape, Layout::nchw});
    y = net(x);
  }
  std::vector<std::string> keys() const {
    std::vector<std::string> out;
    for (auto const& v : graph.values)
      if (v.from < 0 && (v.role == Role::parameter || v.role == Role::state)) out.push_back(v.name);
    return out;
  }
};

TEST(Graph, keys_are_scopes_and_pytorch_suffixes) {
  Traced t(stage("layer1", {conv("conv1", 4, 3, {.bias = false}) | batch_norm("bn1"), scope("inner", conv("c", 2, 1))}) | linear("fc", 3), {2, 3, 8, 8});
  EXPECT_EQ(t.keys(), (std::vector<std::string>{"layer1.0.conv1.weight", "layer1.0.bn1.weight", "layer1.0.bn1.bias", "layer1.0.bn1.running_mean",
                                               "layer1.0.bn1.running_var", "layer1.1.inner.c.weight", "layer1.1.inner.c.bias", "fc.weight", "fc.bias"}));
  t.graph.verify();
}

TEST(Graph, a_key_used_twice_is_an_error_that_names_it) {
  EXPECT_NE(error_of([] { Traced(conv("a", 4, 1) | conv("a", 4, 1), {1, 3, 8, 8}); }).find("a.weight: this key is already taken"), std::string::npos);
}

TEST(Graph, shape_errors_name_the_layer_the_cause_and_this_line) {
  auto const groups = error_of([] { Traced(conv("c1", 16, 1) | stage("layer2", {conv("conv1", 6, 3, {.groups = 3})}), {1, 3, 8, 8}); });
  EXPECT_NE(groups.find("layer2.0.conv1: 3 groups do not divide 16 input channels"), std::string::npos) << groups;
  EXPECT_NE(groups.find("test_graph.cpp:" + std::to_string(__LINE__ - 2)), std::string::npos) << groups;
  auto const large = error_of([] { Traced(conv("big", 4, 9), {1, 3, 8, 8}); });
  EXPECT_NE(large.find("big: "), std::string::npos) << large;
  auto const sum = error_of([] { Traced([](Var x) { return (x | conv("a", 4, 1)) + (x | conv("b", 5, 1)); }, {1, 3, 8, 8}); });
  EXPECT_NE(sum.find("4x8x8"), std::string::npos) << sum;
}

TEST(Graph, padding_words_give_the_expected_sizes) {
  EXPECT_EQ(Traced(conv("c", 4, 5, {.padding = "same"}), {1, 1, 9, 9}).y.shape(), (Shape{1, 4, 9, 9}));
  EXPECT_EQ(Traced(conv("c", 4, 4, {.padding = "same", .dilation = 2}), {1, 1, 9, 9}).y.shape(), (Shape{1, 4, 9, 9}));
  EXPECT_EQ(Traced(conv("c", 4, 5, {.padding = "full"}), {1, 1, 9, 9}).y.shape(), (Shape{1, 4, 13, 13}));
  EXPECT_EQ(Traced(conv("c", 4, 5, {.padding = "valid"}), {1, 1, 9, 9}).y.shape(), (Shape{1, 4, 5, 5}));
  EXPECT_EQ(Traced(conv("c", 4, 5, {.padding = {1, 2}}), {1, 1, 9, 9}).y.shape(), (Shape{1, 4, 7, 9}));
  EXPECT_NE(error_of([] { Padding("sam"); }, ErrorKind::usage).find("unknown padding 'sam'"), std::string::npos);
}

TEST(Graph, models_have_the_parameters_that_the_literature_counts) {
  auto count = [](std::string_view name) {
    auto const& d = models::find(name);
    Traced t(d.make(d.classes), {1, d.image[0], d.image[1], d.image[2]});
    std::int64_t n = 0;
    for (auto const& v : t.graph.values)
      if (v.from < 0 && v.role == Role::parameter) n += v.type.shape.elements();
    return n;
  };
  EXPECT_EQ(count("mnist_cnn"), 105634);
  EXPECT_EQ(count("lenet5"), 61706);
  EXPECT_EQ(count("resnet20"), 272474);     // PyTorch's count with projections
  EXPECT_EQ(count("resnet56"), 855770);
  EXPECT_NE(error_of([] { models::find("resnet2"); }, ErrorKind::usage).find("resnet20"), std::string::npos);
}

TEST(Graph, gradients_start_from_one_element) {
  Traced t(conv("c", 4, 3), {1, 3, 8, 8});
  Var w = t.graph.find("c.weight");
  EXPECT_NE(error_of([&] { gradients(t.y, std::span(&w, 1)); }).find("a loss of one element"), std::string::npos);
}

TEST(Graph, its_text_lists_every_node_with_layer_and_direction) {
  Traced t(conv("c", 4, 3) | relu, {1, 3, 8, 8});
  auto const text = t.graph.text();
  EXPECT_NE(text.find("parameter %1:c.weight f32[4x3x3x3]"), std::string::npos) << text;
  EXPECT_NE(text.find("# c fwd"), std::string::npos) << text;
}

}  // namespace
}  // namespace falconet
