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

// The line that an error names, of this file; 0 if it is of another.
int line_of(std::function<void()> const& f) {
  try {
    f();
  } catch (Error const& e) {
    return std::string_view(e.where.file_name()).ends_with("test_graph.cpp") ? int(e.where.line()) : 0;
  }
  ADD_FAILURE() << "no error";
  return -1;
}

TEST(Graph, errors_of_operators_and_of_layers_without_options_name_this_line) {
  auto const in = [](Layer const& net) { Traced(net, {1, 3, 8, 8}); };
  EXPECT_EQ(line_of([&] { in([](Var x) { return (x | conv("a", 4, 1)) + (x | conv("b", 5, 1)); }); }), __LINE__);
  EXPECT_EQ(line_of([&] { in([](Var x) { return (x | conv("a", 4, 1)) * (x | conv("b", 5, 1)); }); }), __LINE__);
  EXPECT_EQ(line_of([&] { in([](Var x) { return relu(x + (x | conv("b", 5, 1))); }); }), __LINE__);
  EXPECT_EQ(line_of([&] { in(flatten | global_avg_pool); }), __LINE__);
  EXPECT_EQ(line_of([&] { in([](Var x) { return global_avg_pool(flatten(x)); }); }), __LINE__);
  EXPECT_EQ(line_of([&] { in([](Var x) { return flatten(x) | global_avg_pool; }); }), __LINE__);
  Traced t(conv("c", 4, 3) | relu |
               softmax | flatten, {1, 3, 8, 8});
  for (auto const& node : t.graph.nodes) EXPECT_TRUE(std::string_view(node.at.file_name()).ends_with("test_graph.cpp")) << node.layer;
}

// Built while this file's globals are, which may be before those of the library.
Layer const global_net = conv("c", 4, 3) | relu | global_avg_pool | flatten | softmax;

TEST(Graph, a_global_may_hold_layers_without_options) {
  Traced t(global_net, {1, 3, 8, 8});
  std::vector<std::string> operations;
  for (auto const& node : t.graph.nodes) operations.emplace_back(node.op->name());
  EXPECT_EQ(operations, (std::vector<std::string>{"conv", "elementwise", "pool", "copy", "softmax"}));
  constexpr PlainLayer copy = relu;   // a constant: nothing has to run before it can be used
  EXPECT_EQ(Traced(copy, {1, 3}).graph.nodes.size(), 1u);
}

TEST(Graph, sizes_beyond_an_int_are_refused) {
  auto const of = [](Size2 kernel, ConvLayerOptions o, Shape shape = {1, 3, 8, 8}) { return error_of([&] { Traced(conv("c", 4, kernel, o), shape); }); };
  EXPECT_NE(of(3, {.dilation = 1 << 30}).find("stride, padding or dilation of 1073741824 is out of range"), std::string::npos);
  EXPECT_NE(of(3, {.padding = 2147483647}).find("2147483647 is out of range"), std::string::npos);
  EXPECT_NE(of(3, {.padding = "full", .dilation = 1 << 30}).find("spans 2147483649 pixels; expected at most 16777216"), std::string::npos);
  EXPECT_NE(of({1, 1 << 30}, {.padding = "same", .dilation = 2}).find("spans 2147483647 pixels"), std::string::npos);
  EXPECT_NE(of({257, 1}, {.dilation = 1 << 23}).find("a filter of 2147483649x1 does not fit into the padded input of 8x8"), std::string::npos);
  EXPECT_NE(of(1, {}, {1, 3, std::int64_t(1) << 33, 8}).find("1x3x8589934592x8 is too large for a convolution"), std::string::npos);
}

TEST(Graph, gradients_of_weights_and_biases_have_one_direction) {   // pins and tables speak of "fc:bwd_filter"
  Traced t(conv("c", 4, 3) | flatten | linear("fc", 1), {1, 3, 8, 8});
  Var const loss = mse().apply(t.y, t.graph.input("targets", t.y.type())).loss;
  std::vector<Var> wanted;
  for (auto key : {"c.weight", "c.bias", "fc.weight", "fc.bias"}) wanted.push_back(t.graph.find(key));
  for (Var const& gradient : gradients(loss, wanted)) {
    auto const& node = t.graph.nodes[std::size_t(t.graph.values[std::size_t(gradient.id())].from)];
    EXPECT_EQ(node.direction, "bwd_filter") << node.layer << " " << node.op->name();
  }
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
