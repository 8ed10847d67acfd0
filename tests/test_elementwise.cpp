// Elementwise functions, reductions, batch norm's vectors, dropout and the optimizer: every algorithm against its reference, and the
// references' formulas against finite differences, definitions and PyTorch's recorded values.
#include <functional>

#include "agreement.h"
#include "falconet/base/error.h"
#include "falconet/base/random.h"
#include "falconet/ops/batch_norm/algorithms.h"
#include "falconet/ops/batch_norm/op.h"
#include "falconet/ops/dropout/algorithms.h"
#include "falconet/ops/dropout/op.h"
#include "falconet/ops/elementwise/algorithms.h"
#include "falconet/ops/elementwise/op.h"
#include "falconet/ops/optimizer/algorithms.h"
#include "falconet/ops/optimizer/op.h"
#include "falconet/ops/reduce/algorithms.h"
#include "falconet/ops/reduce/op.h"

namespace {
using namespace falconet;
using namespace falconet::agreement;

template <class Problem>
void expect_all(std::string_view operation, double f32, bool exact_integers = false) {
  Bounds bounds;
  bounds.f32 = f32;
  bounds.exact_integers = exact_integers;
  auto const problems = problems_of(operation);
  ASSERT_FALSE(problems.empty());
  for (auto const& p : problems) {
    expect_round_trip<Problem>(p);
    expect_agreement(operation, p, bounds);
  }
}
TEST(elementwise, every_algorithm_agrees_with_the_reference) { expect_all<ElementwiseProblem>("elementwise", 1e-6); }
TEST(reduce, every_algorithm_agrees_with_the_reference) { expect_all<ReduceProblem>("reduce", 1e-6, true); }
TEST(batch_norm, every_algorithm_agrees_with_the_reference) { expect_all<BatchNormProblem>("batch_norm", 1e-6); }
TEST(dropout, every_algorithm_agrees_with_the_reference) { expect_all<DropoutProblem>("dropout", 2e-7); }
TEST(optimizer, every_algorithm_agrees_with_the_reference) { expect_all<OptimizerProblem>("optimizer", 1e-6); }

using Numbers = std::vector<double>;

// Runs a problem on given inputs (all but the step, in order) and returns its outputs; an output in place starts as its input.
std::vector<Numbers> run(std::string_view operation, std::string const& problem, std::vector<Numbers> const& inputs,
                         StepState const& step = {}, std::string const& algorithm = "reference", Isa isa = Isa::plain) {
  auto const& table = algorithms_of(operation);
  auto const operands = table.operands(problem);
  std::vector<Buffer> memory;
  std::vector<View> views;
  std::size_t next = 0;
  for (auto const& o : operands) {
    memory.emplace_back(o.alias >= 0 ? 0 : o.type.bytes());
    views.push_back({o.alias >= 0 ? views[std::size_t(o.alias)].data : memory.back().data(), o.type});
    if (o.fill == Fill::step_state) {
      std::memcpy(memory.back().data(), &step, sizeof step);
    } else if (!o.written) {
      Numbers const& v = inputs.at(next++);
      EXPECT_EQ(std::int64_t(v.size()), o.type.shape.elements()) << o.name << " of " << problem;
      for (std::size_t i = 0; i < v.size(); ++i) store_element({memory.back().data(), o.type}, std::int64_t(i), v[i]);
    }
  }
  Choice const choice{algorithm, {}};
  Buffer scratch(table.scratch(problem, choice, DeviceKind::cpu));
  Stream stream(pool(1), isa);
  table.bind(problem, choice, DeviceKind::cpu, views, {scratch.data(), {DType::u8, Shape{std::int64_t(scratch.bytes())}}})(stream);
  std::vector<Numbers> outputs;
  for (std::size_t i = 0; i < operands.size(); ++i) {
    if (!operands[i].written) continue;
    outputs.emplace_back();
    for (std::int64_t e = 0; e < operands[i].type.shape.elements(); ++e)
      outputs.back().push_back(load_element(views[i], e));
  }
  return outputs;
}
Numbers normals(std::size_t count, std::uint64_t seed) {
  Numbers v;
  for (std::size_t i = 0; i < count; ++i) v.push_back(normal(seed, i));
  return v;
}
double dot(Numbers const& a, Numbers const& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}
// Central differences of a scalar function.
Numbers differences(std::function<double(Numbers const&)> const& f, Numbers at, double h = 1e-5) {
  Numbers d;
  for (double& v : at) {
    double const kept = v;
    v = kept + h;
    double const above = f(at);
    v = kept - h;
    double const below = f(at);
    v = kept;
    d.push_back((above - below) / (2 * h));
  }
  return d;
}
void expect_near(Numbers const& got, Numbers const& expected, double bound, std::string const& what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  for (std::size_t i = 0; i < got.size(); ++i)
    EXPECT_NEAR(got[i], expected[i], bound * (1 + std::abs(expected[i]))) << what << " [" << i << "]";
}

TEST(elementwise, derivatives_of_activations_are_those_of_finite_differences) {
  Numbers x;
  for (double v = -7.5; v <= 8; v += 0.37) x.push_back(v);
  std::string const size = " n=1 c=" + std::to_string(x.size()) + " hw=1 type=f64 layout=nchw act=";
  for (char const* act : {"relu", "leaky_relu alpha=0.01", "relu6", "gelu", "silu", "sigmoid", "tanh"}) {
    auto forward = [&](Numbers const& at) { return run("elementwise", "function=activation" + size + act, {at})[0]; };
    Numbers const dy = normals(x.size(), 5), y = forward(x);
    bool const from_output = derives_from_output(parse_activation(std::string(act).substr(0, std::string(act).find(' '))));
    auto const dx = run("elementwise", "function=activation_gradient" + size + act, {dy, from_output ? y : x})[0];
    expect_near(dx, differences([&](Numbers const& at) { return dot(forward(at), dy); }, x), 1e-8, act);
  }
}

TEST(elementwise, vectorised_activations_have_relative_errors_below_one_in_a_million) {
  Numbers x;
  for (int i = -50000; i <= 50000; ++i) x.push_back(double(float(std::pow(std::abs(i) / 50000.0, 3) * 12) * (i < 0 ? -1.0f : 1.0f)));
  std::string const size = " n=1 c=" + std::to_string(x.size()) + " hw=1 layout=nchw type=";
  for (int isa = 0; isa <= int(detected_isa()); ++isa)
    for (char const* act : {"gelu", "silu", "sigmoid", "tanh"}) {
      std::string const tail = std::string(" act=") + act;
      auto const got = run("elementwise", "function=activation" + size + "f32" + tail, {x}, {}, "simd", Isa(isa))[0];
      double worst = 0, at = 0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        // gelu by erfc: the definition x (1 + erf) / 2 itself loses its digits in the left tail.
        double const expected =
            act == std::string("gelu") ? x[i] * 0.5 * std::erfc(-x[i] * std::sqrt(0.5)) : activate(parse_activation(act), x[i]);
        double const error = expected == 0 ? std::abs(got[i]) : std::abs(got[i] / expected - 1);
        if (!(error <= worst)) worst = error, at = x[i];
      }
      EXPECT_LT(worst, 1e-6) << act << " on " << name(Isa(isa)) << " at " << at;
      RecordProperty(std::string(act) + "_" + std::string(name(Isa(isa))) + "_1e9", int(worst * 1e9));
      auto const ones = Numbers(x.size(), 1.0);
      bool const from_output = derives_from_output(parse_activation(act));
      auto const kept = from_output ? got : x;
      auto const slope = run("elementwise", "function=activation_gradient" + size + "f32" + tail, {ones, kept}, {}, "simd", Isa(isa))[0];
      auto const wanted = run("elementwise", "function=activation_gradient" + size + "f64" + tail, {ones, kept})[0];
      for (std::size_t i = 0; i < x.size(); ++i)
        ASSERT_NEAR(slope[i], wanted[i], 1e-6) << act << "' on " << name(Isa(isa)) << " at " << x[i];
    }
}

TEST(elementwise, a_nan_stays_a_nan) {
  double const nan = std::nan("");
  for (int isa = 0; isa <= int(detected_isa()); ++isa)
    for (char const* type : {"f32", "bf16"})
      for (char const* act : {"relu", "relu6", "leaky_relu alpha=0.01", "gelu", "silu", "sigmoid", "tanh"}) {
        auto const y = run("elementwise", std::string("function=activation n=1 c=3 hw=1 layout=nchw type=") + type + " act=" + act,
                           {{1, nan, -1}}, {}, "simd", Isa(isa))[0];
        EXPECT_TRUE(std::isnan(y[1])) << act << " " << type << " on " << name(Isa(isa));
        EXPECT_FALSE(std::isnan(y[0]) || std::isnan(y[2])) << act;
      }
}

// The whole layer from its parts, as the operations compose them: y, and the gradients by each part's own rule.
struct BatchNormParts {
  int n = 5, c = 3, hw = 4, valid = 4;
  double eps = 1e-3;
  StepState step = [] {
    StepState s;
    s.valid_count = 4;
    return s;
  }();
  std::string sizes(char const* op) const {
    bool const vectors = op == std::string("batch_norm");
    return vectors ? " c=3 per_sample=4 eps=0.001 momentum=0.1 type=f64" : " n=5 c=3 hw=4 type=f64 layout=nchw";
  }
  std::vector<Numbers> forward(Numbers const& x, Numbers const& gamma, Numbers const& beta, Numbers const& mean, Numbers const& var) const {
    auto const sums = run("reduce", "function=channel_sums" + sizes("reduce"), {x}, step)[0];
    auto const v = run("batch_norm", "function=coefficients" + sizes("batch_norm"), {sums, gamma, beta, mean, var}, step);
    return {run("elementwise", "function=affine" + sizes("elementwise"), {x, v[0]})[0], v[1], v[2], v[0], sums};
  }
};

TEST(batch_norm, its_output_is_normalised_and_its_running_values_are_pytorchs) {
  BatchNormParts const b;
  Numbers const x = normals(60, 1), gamma = normals(3, 2), beta = normals(3, 3), mean{0.5, -1, 2}, var{1, 2, 0.5};
  auto const out = b.forward(x, gamma, beta, mean, var);
  for (int c = 0; c < 3; ++c) {
    double m = 0, v = 0;
    for (int n = 0; n < b.valid; ++n)
      for (int i = 0; i < 4; ++i) m += x[std::size_t((n * 3 + c) * 4 + i)] / 16;
    for (int n = 0; n < b.valid; ++n)
      for (int i = 0; i < 4; ++i) v += std::pow(x[std::size_t((n * 3 + c) * 4 + i)] - m, 2);
    auto const k = std::size_t(c);
    EXPECT_NEAR(out[1][k], 0.9 * mean[k] + 0.1 * m, 1e-14);
    EXPECT_NEAR(out[2][k], 0.9 * var[k] + 0.1 * v / 15, 1e-14);
    for (std::size_t i = 0; i < 4; ++i)
      EXPECT_NEAR(out[0][k * 4 + i], gamma[k] * (x[k * 4 + i] - m) / std::sqrt(v / 16 + b.eps) + beta[k], 1e-12);
  }
}

TEST(batch_norm, gradients_of_the_composed_layer_are_those_of_finite_differences) {
  BatchNormParts const b;
  Numbers const x = normals(60, 1), gamma = normals(3, 2), beta = normals(3, 3), mean(3, 0.0), var(3, 1.0);
  Numbers dy = normals(60, 4);
  std::fill(dy.begin() + 48, dy.end(), 0.0);  // the padding's gradient is zero
  auto loss = [&](Numbers const& at, Numbers const& g, Numbers const& s) { return dot(b.forward(at, g, s, mean, var)[0], dy); };

  auto const out = b.forward(x, gamma, beta, mean, var);
  auto const& scale_shift = out[3];
  auto const dscale_shift = run("reduce", "function=channel_dot" + b.sizes("reduce"), {dy, x})[0];
  auto const d = run("batch_norm", "function=gradient" + b.sizes("batch_norm"), {dscale_shift, out[4], gamma}, b.step);
  auto dx = run("elementwise", "function=affine_scale" + b.sizes("elementwise"), {dy, scale_shift})[0];
  auto const from_sums = run("elementwise", "function=sums_gradient" + b.sizes("elementwise"), {x, d[0]}, b.step)[0];
  for (std::size_t i = 0; i < dx.size(); ++i) dx[i] += from_sums[i];

  expect_near(dx, differences([&](Numbers const& at) { return loss(at, gamma, beta); }, x), 1e-8, "dx");
  expect_near(d[1], differences([&](Numbers const& at) { return loss(x, at, beta); }, gamma), 1e-8, "dgamma");
  expect_near(d[2], differences([&](Numbers const& at) { return loss(x, gamma, at); }, beta), 1e-8, "dbeta");

  auto const abc = run("batch_norm", "function=two_operand" + b.sizes("batch_norm"), {scale_shift, d[0]})[0];
  auto const fused = run("elementwise", "function=two_operand" + b.sizes("elementwise"), {dy, x, abc}, b.step)[0];
  expect_near(fused, dx, 1e-13, "two_operand");
}

TEST(batch_norm, gradients_of_the_inference_form_are_those_of_finite_differences) {
  Numbers const gamma = normals(3, 2), beta = normals(3, 3), mean{0.5, -1, 2}, var{1, 2, 0.5}, d = normals(6, 7);
  std::string const sizes = " c=3 eps=0.001 type=f64";
  auto loss = [&](Numbers const& g, Numbers const& b) {
    return dot(run("batch_norm", "function=inference" + sizes, {g, b, mean, var})[0], d);
  };
  auto const got = run("batch_norm", "function=inference_gradient" + sizes, {d, mean, var});
  expect_near(got[0], differences([&](Numbers const& at) { return loss(at, beta); }, gamma), 1e-8, "dgamma");
  expect_near(got[1], differences([&](Numbers const& at) { return loss(gamma, at); }, beta), 1e-8, "dbeta");
}

TEST(reduce, long_sums_of_f32_keep_seven_digits) {
  Numbers x;
  for (std::size_t i = 0; i < 3000000; ++i) x.push_back(double(float(1 + 0.01 * (uniform(3, i) - 0.5))));
  double exact = 0;
  for (double v : x) exact += v;
  for (int isa = 0; isa <= int(detected_isa()); ++isa) {
    auto const y = run("reduce", "function=channel_sum n=3000000 c=1 hw=1 type=f32 layout=nchw", {x}, {}, "blocked", Isa(isa))[0];
    EXPECT_NEAR(y[0] / exact, 1, 1e-7) << name(Isa(isa));
  }
}

TEST(dropout, drops_the_asked_share_scales_the_rest_and_repeats_itself) {
  std::string const problem = "n=50 c=2000 hw=1 p=0.3 key=99 type=f32 layout=nchw";
  StepState step;
  step.seed = 4, step.sample = 1000, step.valid_count = 50;
  Numbers const ones(100000, 1.0);
  auto const y = run("dropout", problem, {ones}, step, "simd", detected_isa())[0];
  EXPECT_NEAR(double(std::count(y.begin(), y.end(), 0.0)) / 1e5, 0.3, 0.006);  // four standard deviations
  for (double v : y) EXPECT_TRUE(v == 0 || std::abs(v - 1 / 0.7) < 1e-6) << v;
  EXPECT_EQ(run("dropout", problem, {ones}, step, "simd", detected_isa())[0], y);
  step.sample = 1001;  // the same samples one row earlier: masks follow the sample, not the row
  auto const shifted = run("dropout", problem, {ones}, step, "simd", detected_isa())[0];
  EXPECT_TRUE(std::equal(y.begin() + 2000, y.end(), shifted.begin()));
  step.seed = 5;
  EXPECT_NE(run("dropout", problem, {ones}, step, "simd", detected_isa())[0], shifted);
}

TEST(dropout, drops_the_same_elements_in_either_layout) {
  StepState step;
  step.seed = 4, step.valid_count = 2;
  auto const nchw = run("dropout", "n=2 c=3 hw=5 p=0.5 key=1 type=f64 layout=nchw", {Numbers(30, 1.0)}, step)[0];
  auto const nhwc = run("dropout", "n=2 c=3 hw=5 p=0.5 key=1 type=f64 layout=nhwc", {Numbers(30, 1.0)}, step)[0];
  for (std::size_t n = 0; n < 2; ++n)
    for (std::size_t c = 0; c < 3; ++c)
      for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(nchw[(n * 3 + c) * 5 + i], nhwc[(n * 5 + i) * 3 + c]);
}

// Three steps from w with these gradients and lr 0.125 by torch.optim in float64 (torch 2.x: SGD, Adam, AdamW of the same options).
TEST(optimizer, three_steps_give_what_pytorch_gives) {
  struct Case {
    std::string problem;
    Numbers expected;
  };
  Case const cases[] = {
      {"kind=sgd", {0.44999999999999996, -1.13125, 2.0}},
      {"kind=sgd momentum=0.9", {0.473625, -1.094125, 1.868375}},
      {"kind=sgd momentum=0.9 nesterov=1 weight_decay=0.01", {0.42117788121191413, -0.9787064262622069, 1.8622791900625}},
      {"kind=adam", {0.4035519413087199, -0.9776767634288541, 1.762677130301001}},
      {"kind=adam weight_decay=0.01", {0.40105808854692127, -0.969068031209478, 1.7586249350718772}},
      {"kind=adamw weight_decay=0.01 beta1=0.8 beta2=0.99 eps=1e-06", {0.4010807902658817, -0.9732212034037554, 1.7631549074847532}},
  };
  Numbers const gradients[] = {{0.1, -0.2, 0.3}, {-0.4, 0.05, 0.6}, {0.7, -0.8, -0.9}};
  for (auto const& c : cases)
    for (bool f64 : {true, false}) {
      auto const states = optimizer_states(OptimizerProblem::parse(c.problem + " sizes=3").options).size();
      std::vector<Numbers> now(1 + states, Numbers(3, 0.0));
      now[0] = {0.5, -1.25, 2.0};
      StepState step;
      step.learning_rate = 0.125f;
      for (Numbers const& g : gradients) {
        auto inputs = now;
        inputs.insert(inputs.begin() + 1, g);
        now = run("optimizer", c.problem + (f64 ? " type=f64" : " type=f32") + " sizes=3", inputs, step, f64 ? "reference" : "simd",
                  detected_isa());
        ++step.step;
      }
      expect_near(now[0], c.expected, f64 ? 1e-14 : 1e-6, c.problem);
    }
}

// What a graph reports when operations do not fit; and what they become as nodes.
TensorType f32(Shape shape) { return {DType::f32, shape, Layout::nchw}; }

void expect_shape_error(std::function<void()> const& build, std::string const& part) {
  try {
    build();
    ADD_FAILURE() << "no error; expected '" << part << "'";
  } catch (Error const& e) {
    EXPECT_EQ(e.kind, ErrorKind::shape);
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("test_elementwise.cpp"), std::string::npos) << e.what();
  }
}
TEST(graph, shapes_that_do_not_fit_are_named) {
  Graph g;
  Var const a = g.input("a", f32({64, 16, 32, 32})), b = g.input("b", f32({64, 32, 16, 16})), small = g.input("s", f32({64, 16, 1, 1}));
  Var const vectors = g.input("v", f32({2, 15}));
  expect_shape_error([&] { add(a, b); }, "cannot add 64x16x32x32 and 64x32x16x16");
  expect_shape_error([&] { multiply(a, b); }, "cannot multiply 64x16x32x32 by 64x32x16x16");
  expect_shape_error([&] { affine(a, vectors); }, "2x16");
  expect_shape_error([&] { channel_dot(a, b); }, "needs equal shapes");
  EXPECT_EQ(multiply(small, a).shape(), (Shape{64, 16, 32, 32}));
}

TEST(graph, problems_are_written_from_types_and_read_back) {
  Graph g;
  Var const x = g.input("x", {DType::bf16, Shape{4, 16, 8, 8}, Layout::nhwc}),
            s = g.input("s", {DType::bf16, Shape{4, 16, 1, 1}, Layout::nhwc});
  Var const gamma = g.parameter("gamma", f32({16}), {}), beta = g.parameter("beta", f32({16}), {});
  Var const mean = g.state("mean", f32({16}), {}), var = g.state("var", f32({16}), {});
  Var const y =
      batch_norm(activation(Activation::leaky_relu, multiply(s, x), 0.2), gamma, beta, mean, var, g.step(), true, 1e-5, 0.1, "bn");
  dropout(y, g.step(), 0.25, hash("drop"), "drop");
  EXPECT_TRUE(y.type() == x.type());
  std::vector<std::string> problems;
  for (auto const& node : g.nodes) {
    std::vector<TensorType> in, out;
    for (ValueId v : node.in) in.push_back(g.values[std::size_t(v)].type);
    for (ValueId v : node.out) out.push_back(g.values[std::size_t(v)].type);
    problems.push_back(node.op->problem(in, out));
    auto const operands = algorithms_of(node.op->name()).operands(problems.back());
    ASSERT_EQ(operands.size(), in.size() + out.size());
    for (std::size_t i = 0; i < operands.size(); ++i) {
      auto const& type = i < in.size() ? in[i] : out[i - in.size()];
      EXPECT_EQ(operands[i].type.bytes(), type.bytes()) << problems.back() << " " << operands[i].name;
      EXPECT_EQ(operands[i].alias, i < in.size() ? -1 : node.op->alias(int(i - in.size()))) << problems.back();
    }
  }
  std::vector<std::string> const expected = {
      "function=multiply n=4 c=16 hw=64 type=bf16 layout=nhwc broadcast=1",
      "function=activation n=4 c=16 hw=64 type=bf16 layout=nhwc act=leaky_relu alpha=0.2",
      "function=channel_sums n=4 c=16 hw=64 type=bf16 layout=nhwc",
      "function=coefficients c=16 per_sample=64 eps=1e-05 momentum=0.1 type=f32",
      "function=affine n=4 c=16 hw=64 type=bf16 layout=nhwc",
      "n=4 c=16 hw=64 p=0.25 key=" + std::to_string(hash("drop")) + " type=bf16 layout=nhwc",
  };
  EXPECT_EQ(problems, expected);
}

TEST(graph, the_optimizer_updates_parameters_and_states_in_place) {
  Graph g;
  OptimizerOptions options;
  options.kind = OptimizerOptions::adam;
  std::vector<Var> parameters, gradients, states;
  for (int i = 0; i < 2; ++i) {
    auto const shape = Shape{std::int64_t(3 + i)};
    parameters.push_back(g.parameter("p" + std::to_string(i), f32(shape), {}));
    gradients.push_back(fill_like(parameters.back(), 0.5));
    for (auto const& s : optimizer_states(options)) states.push_back(g.state(s + std::to_string(i), f32(shape), {}));
  }
  auto const out = optimizer_update(options, g.step(), parameters, gradients, states);
  ASSERT_EQ(out.size(), 6u);
  EXPECT_EQ(g.values[std::size_t(out[0].id())].alias, parameters[0].id());
  EXPECT_EQ(g.values[std::size_t(out[2].id())].alias, states[1].id());
  EXPECT_EQ(g.values[std::size_t(out[3].id())].alias, parameters[1].id());
  EXPECT_EQ(g.values[std::size_t(out[5].id())].alias, states[3].id());
}

TEST(problems, that_make_no_sense_are_refused) {
  for (char const* text :
       {"function=nothing", "function=activation n=1 c=1 hw=1", "function=add n=0", "function=scale act=relu", "function=add type=u8",
        "function=multiply mask=1", "function=add residual=1", "function=activation act=swish", "function=add extra=1"})
    EXPECT_THROW(ElementwiseProblem::parse(text), Error) << text;
  for (char const* text : {"function=channel_sum mask=1", "function=mean n=-1", "function=max", "n=3"})
    EXPECT_THROW(ReduceProblem::parse(text), Error) << text;
  for (char const* text : {"p=1", "p=-0.1", "key=x", "n=0"}) EXPECT_THROW(DropoutProblem::parse(text), Error) << text;
  for (char const* text :
       {"kind=rmsprop sizes=1", "kind=sgd", "kind=sgd sizes=0", "kind=adam momentum=0.9 sizes=1", "kind=sgd nesterov=1 sizes=1"})
    EXPECT_THROW(OptimizerProblem::parse(text), Error) << text;
}

}  // namespace
