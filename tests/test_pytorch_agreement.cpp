// The references against what PyTorch computed in f64: results and gradients of every operation, recorded by
// tools/record_pytorch.py in golden/pytorch_ops.safetensors. Each case is built as a graph, differentiated by the operations'
// own rules and run node by node on the reference algorithms, with images in both layouts.
#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "agreement.h"
#include "falconet/io/safetensors.h"
#include "falconet/nn/layers.h"
#include "falconet/ops/batch_norm/op.h"
#include "falconet/ops/conv/op.h"
#include "falconet/ops/copy/op.h"
#include "falconet/ops/elementwise/op.h"
#include "falconet/ops/gemm/op.h"
#include "falconet/ops/loss/op.h"
#include "falconet/ops/optimizer/op.h"
#include "falconet/ops/pool/op.h"
#include "falconet/ops/problem_text.h"
#include "falconet/ops/softmax/op.h"
#include "hashed_data.h"

using namespace falconet;

namespace {

constexpr double bound = 1e-12;

io::SafeTensors const& recorded() {
  static io::SafeTensors const file = io::read_safetensors(FALCONET_SOURCE_DIR "/tests/golden/pytorch_ops.safetensors");
  return file;
}

// Runs a graph's nodes one after another on the reference algorithms, each value in memory of its own.
class Interpreter {
 public:
  explicit Interpreter(Graph const& graph) : graph_(graph), stream_(agreement::pool(1), Isa::plain) {
    for (auto const& v : graph.values) {
      if (v.alias >= 0) views_.push_back({views_[std::size_t(v.alias)].data, v.type});
      else views_.push_back(memory_.emplace_back(v.type).view());
      if (v.alias < 0) std::memset(views_.back().data, 0xff, v.type.bytes());
    }
  }
  View view(Var v) const { return views_[std::size_t(v.id())]; }
  void run() {
    for (auto const& node : graph_.nodes) {
      std::vector<TensorType> in, out;
      std::vector<View> operands;
      for (ValueId v : node.in) in.push_back(graph_.values[std::size_t(v)].type), operands.push_back(views_[std::size_t(v)]);
      for (ValueId v : node.out) out.push_back(graph_.values[std::size_t(v)].type), operands.push_back(views_[std::size_t(v)]);
      auto const problem = node.op->problem(in, out);
      auto const& table = algorithms_of(node.op->name());
      auto const expected = table.operands(problem);
      ASSERT_EQ(expected.size(), operands.size()) << problem;
      for (std::size_t i = 0; i < operands.size(); ++i) {   // [N,C] and [N,C,1,1] are one to some problems
        ASSERT_EQ(expected[i].type.dtype, operands[i].type.dtype) << problem;
        ASSERT_EQ(expected[i].type.bytes(), operands[i].type.bytes()) << problem;
      }
      Choice const reference{"reference", {}};
      Tensor const scratch({DType::u8, Shape{std::int64_t(table.scratch(problem, reference, DeviceKind::cpu))}, Layout::nchw});
      table.bind(problem, reference, DeviceKind::cpu, operands, scratch.view())(stream_);
    }
  }

 private:
  Graph const& graph_;
  Stream stream_;
  std::deque<Tensor> memory_;
  std::vector<View> views_;
};

// The gradients of y with respect to each of `wrt` where `dy` arrives at y (ops/gradients.h starts from a scalar 1 instead).
std::vector<Var> pulled_back(Graph& g, Var y, Var dy, std::vector<Var> const& wrt) {
  std::vector<Var> d(g.values.size());
  d[std::size_t(y.id())] = dy;
  for (std::size_t n = g.nodes.size(); n-- > 0;) {
    Node const node = g.nodes[n];
    std::vector<Var> dys;
    bool any = false;
    for (ValueId out : node.out) dys.push_back(d[std::size_t(out)]), any |= bool(dys.back());
    if (!any) continue;
    auto const dx = node.op->gradient(g, node, dys);
    for (std::size_t i = 0; i < node.in.size(); ++i) {
      if (!dx[i]) continue;
      Var& sum = d[std::size_t(node.in[i])];
      sum = sum ? add(sum, dx[i]) : dx[i];
    }
  }
  std::vector<Var> out;
  for (Var const& v : wrt) out.push_back(d[std::size_t(v.id())]);
  return out;
}

using Inputs = std::map<std::string, Var>;

template <std::size_t N>
std::array<int, N> numbers(ProblemText& fields, std::string_view key) {
  auto const text = fields.take(key);
  auto const parts = split(text, '.');
  std::array<int, N> out{};
  EXPECT_EQ(parts.size(), N) << key;
  for (std::size_t i = 0; i < N; ++i) out[i] = int(parse_int(parts[i], key));
  return out;
}

// What the layer `conv` makes of a padding given by name.
ConvOptions options_of_layer(Shape const& x, Shape const& weight, ConvOptions const& o, std::string const& mode) {
  Graph g;
  conv("conv", int(weight[0]), {int(weight[2]), int(weight[3])},
       {.stride = {o.stride[0], o.stride[1]}, .padding = Padding(mode), .dilation = {o.dilation[0], o.dilation[1]}, .groups = o.groups, .bias = false})(
      g.input("x", {DType::f32, x, Layout::nchw}));
  return dynamic_cast<ConvOp const&>(*g.nodes.back().op).options();
}

// Builds the case's operation and returns its first output.
Var build(std::string const& op, ProblemText& fields, Inputs const& in, Var step) {
  auto at = [&](char const* name) { auto const found = in.find(name); return found == in.end() ? Var{} : found->second; };
  if (op == "conv2d") {
    ConvOptions o;
    o.stride = numbers<2>(fields, "stride");
    o.dilation = numbers<2>(fields, "dilation");
    o.groups = int(fields.take_int("groups"));
    if (auto const mode = fields.take("mode", ""); !mode.empty()) o = options_of_layer(at("x").shape(), at("weight").shape(), o, mode);
    else o.padding = numbers<4>(fields, "pad");
    return conv2d(at("x"), at("weight"), at("bias"), o, "conv");
  }
  if (op == "linear") return linear(at("x"), at("weight"), at("bias"));
  if (op == "max_pool" || op == "average_pool") {
    PoolOptions o;
    o.window = numbers<2>(fields, "window");
    o.stride = numbers<2>(fields, "stride");
    auto const pad = numbers<2>(fields, "pad");
    o.padding = {pad[0], pad[1], pad[0], pad[1]};
    o.ceil_mode = fields.take_int("ceil") != 0;
    o.count_include_pad = fields.take_int("include_pad") != 0;
    return op == "max_pool" ? max_pool(at("x"), o) : avg_pool(at("x"), o);
  }
  if (op == "global_avg_pool") return global_average(at("x"));
  if (op == "batch_norm") {
    bool const training = fields.take_int("training") != 0;
    return batch_norm(at("x"), at("weight"), at("bias"), at("running_mean"), at("running_var"), training ? step : Var{}, training);
  }
  if (op == "activation") {
    auto const act = fields.take("act");
    for (Activation a : {Activation::relu, Activation::leaky_relu, Activation::relu6, Activation::gelu, Activation::silu, Activation::sigmoid, Activation::tanh})
      if (act == std::array{"none", "relu", "leaky_relu", "relu6", "gelu", "silu", "sigmoid", "tanh"}[std::size_t(a)])
        return activation(a, at("x"), fields.take_double("alpha", 0.01));
  }
  if (op == "add") return add(at("a"), at("b"));
  if (op == "multiply") return multiply(at("a"), at("b"));
  if (op == "concat") {
    std::vector<Var> parts;
    for (auto const& [name, v] : in) parts.push_back(v);   // a, b, c
    return concat(std::span<Var const>(parts));
  }
  if (op == "flatten") return flatten_rows(at("x"));
  if (op == "softmax") return channel_softmax(at("x"));
  if (op == "log_softmax") return channel_log_softmax(at("x"));
  if (op == "cross_entropy") return cross_entropy(at("x"), at("labels"), step, fields.take_double("smoothing", 0)).loss;
  if (op == "mse") return mse(at("x"), at("target"), step);
  if (op == "bce_with_logits") return binary_cross_entropy_with_logits(at("x"), at("target"), step);
  ADD_FAILURE() << "no way to build '" << op << "'";
  return {};
}

Tensor const& tensor(std::string const& name) { return recorded().tensors.at(name); }

// The largest |got - expected| / (|expected| + root mean square of the expected tensor).
double worst_difference(View got, Tensor const& expected) {
  EXPECT_EQ(got.type.shape.text(), expected.shape().text());
  auto const count = expected.shape().elements();
  double square = 0, worst = 0;
  for (std::int64_t i = 0; i < count; ++i) square += std::pow(load_element(expected.view(), i), 2);
  double const scale = std::sqrt(square / double(count));
  for (std::int64_t i = 0; i < count; ++i) {
    double const e = load_element(expected.view(), i), g = load_element(got, position(got.type, i));
    double const d = std::abs(g - e) / (std::abs(e) + scale + 1e-300);
    worst = d <= worst ? worst : std::isnan(d) ? HUGE_VAL : d;   // also where got is NaN
  }
  return worst;
}

void expect_case(std::string const& name, std::string const& description, Layout layout) {
  SCOPED_TRACE(name + " " + std::string(falconet::name(layout)) + ": " + description);
  ProblemText fields(description);
  auto const op = fields.take("op"), in_names = fields.take("in"), out_names = fields.take("out"), grad_names = fields.take("grad", "");
  Graph g;
  g.training = true;
  auto leaf = [&](std::string const& key) {
    TensorType type = tensor(name + "." + key).type();
    if (type.shape.rank() == 4) type.layout = layout;
    return g.input(key, type);
  };
  Inputs in;
  for (auto key : split(in_names, ',')) in[std::string(key)] = leaf(std::string(key));
  Var const step = g.step(), first_input = in.begin()->second;
  Var const y = build(op, fields, in, step);
  fields.finish();
  std::string const first(split(out_names, ',').front());
  std::vector<Var> wrt;
  for (auto key : split(grad_names, ',')) wrt.push_back(in.at(std::string(key)));
  Var const dy = leaf("d_" + first);
  auto const gradients = pulled_back(g, y, dy, wrt);

  Interpreter run(g);
  for (auto const& [key, v] : in) convert(tensor(name + "." + key).view(), run.view(v));
  convert(tensor(name + ".d_" + first).view(), run.view(dy));
  Var const x = in.contains("x") ? in.at("x") : first_input;
  *run.view(step).as<StepState>() = StepState{.valid_count = std::int32_t(x.shape()[0])};
  run.run();

  EXPECT_LE(worst_difference(run.view(y), tensor(name + "." + first)), bound) << first;
  if (out_names.find("new_mean") != std::string::npos) {   // updated in place
    EXPECT_LE(worst_difference(run.view(in.at("running_mean")), tensor(name + ".new_mean")), bound);
    EXPECT_LE(worst_difference(run.view(in.at("running_var")), tensor(name + ".new_var")), bound);
  }
  std::size_t i = 0;
  for (auto key : split(grad_names, ',')) {
    ASSERT_TRUE(gradients[i]) << "no gradient of " << key;
    EXPECT_LE(worst_difference(run.view(gradients[i]), tensor(name + ".d_" + std::string(key))), bound) << "gradient of " << key;
    ++i;
  }
}

void expect_optimizer(std::string const& name, std::string const& description, double learning_rate) {
  SCOPED_TRACE(name + ": " + description);
  ProblemText fields(description);
  fields.take("op");
  OptimizerOptions o;
  auto const kind = fields.take("kind");
  o.kind = kind == "sgd" ? OptimizerOptions::sgd : kind == "adam" ? OptimizerOptions::adam : OptimizerOptions::adamw;
  o.momentum = fields.take_double("momentum", 0);
  o.nesterov = fields.take_int("nesterov", 0) != 0;
  o.weight_decay = fields.take_double("weight_decay", 0);
  o.beta1 = fields.take_double("beta1", 0.9);
  o.beta2 = fields.take_double("beta2", 0.999);
  o.eps = fields.take_double("eps", 1e-8);
  fields.finish();
  auto const& gradients = tensor(name + ".gradients");
  auto const& after = tensor(name + ".parameters");
  TensorType const type = tensor(name + ".parameter").type();
  auto const elements = type.shape.elements();

  Graph g;
  Var const step = g.step(), parameter[] = {g.keyed("p", Role::parameter, type, {})}, gradient[] = {g.input("g", type)};
  std::vector<Var> states;
  for (auto const& state : optimizer_states(o)) states.push_back(g.keyed(state, Role::state, type, {}));
  optimizer_update(o, step, parameter, gradient, states);
  Interpreter run(g);
  convert(tensor(name + ".parameter").view(), run.view(parameter[0]));
  for (Var const& s : states) std::memset(run.view(s).data, 0, type.bytes());
  for (std::int64_t t = 0; t < after.shape()[0]; ++t) {
    *run.view(step).as<StepState>() = StepState{.step = t, .learning_rate = float(learning_rate), .valid_count = 1};
    std::memcpy(run.view(gradient[0]).data, gradients.as<double>() + t * elements, type.bytes());
    run.run();
    Tensor expected(type);
    std::memcpy(expected.as<void>(), after.as<double>() + t * elements, type.bytes());
    EXPECT_LE(worst_difference(run.view(parameter[0]), expected), bound) << "after step " << t + 1;
  }
}

}  // namespace

TEST(pytorch_agreement, operations_and_their_gradients_within_1e_12) {
  std::map<std::string, int> cases;
  for (auto const& [name, description] : recorded().metadata) {
    auto const op = name.substr(0, name.find('.'));
    ++cases[op];
    if (op == "optimizer") expect_optimizer(name, description, 0.01f);
    else
      for (Layout layout : {Layout::nchw, Layout::nhwc}) expect_case(name, description, layout);
  }
  for (char const* op : {"conv2d", "linear", "max_pool", "average_pool", "global_avg_pool", "batch_norm", "activation", "add", "multiply", "concat", "flatten",
                         "softmax", "log_softmax", "cross_entropy", "mse", "bce_with_logits", "optimizer"})
    EXPECT_GT(cases[op], 0) << op << " was not recorded";
}

TEST(pytorch_agreement, hashed_weights_and_batches_are_those_of_the_recording) {
  std::ifstream file(FALCONET_SOURCE_DIR "/tests/golden/pytorch_losses.json");
  auto const json = nlohmann::json::parse(file);
  auto const& generator = json.at("generator");
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(hashed::value("conv1.weight", i, 0.2), generator.at("conv1.weight").at(i).get<double>());
    EXPECT_EQ(hashed::value("images", 12544 + i, std::sqrt(3.0)), generator.at("images").at(i).get<double>());
  }
  Tensor images({DType::f32, Shape{8, 1, 2, 2}, Layout::nhwc}), labels({DType::i32, Shape{8}, Layout::nchw});
  hashed::fill_batch(images.view(), labels.view(), 20, 10);
  for (std::size_t n = 0; n < 8; ++n) EXPECT_EQ(labels.as<std::int32_t>()[n], generator.at("labels").at(n).get<int>());
}
