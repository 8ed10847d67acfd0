#include "falconet/graph/graph.h"

#include <algorithm>

#include "falconet/base/error.h"
#include "falconet/device/device.h"

namespace falconet {
namespace {
constexpr std::string_view role_names[] = {"input", "parameter", "state", "activation", "gradient", "scalar"};

// Thrown by fail_shape inside Op::infer; Graph::add turns it into an Error that names the layer and the user's line.
struct ShapeFailure {
  std::string message;
};
std::string image_shape(Shape const& s) {   // "16x32x32": without the batch
  if (s.rank() < 2) return s.text();
  return Shape(std::span(s.begin() + 1, std::size_t(s.rank() - 1))).text();
}
}  // namespace

std::string_view name(Role role) { return role_names[int(role)]; }
void fail_shape(std::string message) { throw ShapeFailure{std::move(message)}; }

std::vector<Var> Op::gradient(Graph&, Node const& node, std::span<Var const>) const {
  fail_in_layer(ErrorKind::model, node.layer, std::string(name()) + " has no gradient", node.at);
}

TensorType const& Var::type() const { return graph_->values[std::size_t(id_)].type; }

Var Graph::make(std::string key, Role role, TensorType type, Init init) {
  Value v;
  v.type = type;
  v.role = role;
  v.name = std::move(key);
  v.init = init;
  values.push_back(std::move(v));
  return {this, ValueId(values.size() - 1)};
}

Var Graph::find(std::string_view key) const {
  for (std::size_t i = 0; i < values.size(); ++i) {
    auto const& v = values[i];
    if (v.from == -1 && v.name == key && (v.role == Role::input || v.role == Role::parameter || v.role == Role::state))
      return {const_cast<Graph*>(this), ValueId(i)};
  }
  return {};
}

Var Graph::input(std::string name, TensorType type) {
  if (find(name)) fail(ErrorKind::model, "two inputs are named '" + name + "'");
  return make(std::move(name), Role::input, type, {});
}
Var Graph::step() {
  if (Var found = find("step")) return found;
  return input("step", {DType::u8, Shape{std::int64_t(sizeof(StepState))}, Layout::nchw});
}
Var Graph::keyed(std::string key, Role role, TensorType type, Init init) {
  if (Var found = find(key)) return found;
  return make(std::move(key), role, type, init);
}
Var Graph::parameter(std::string_view name, TensorType type, Init init, std::source_location at) {
  auto key = path(name);
  if (find(key)) fail_in_layer(ErrorKind::shape, key, "this key is already taken; give each layer its own name or scope", at);
  return make(std::move(key), Role::parameter, type, init);
}
Var Graph::state(std::string_view name, TensorType type, Init init, std::source_location at) {
  Var v = parameter(name, type, init, at);
  values[std::size_t(v.id())].role = Role::state;
  return v;
}

std::vector<Var> Graph::add(std::shared_ptr<Op const> op, std::span<Var const> in, std::string_view layer, std::source_location at) {
  std::vector<TensorType> types;
  Node node;
  for (Var const& v : in) {
    types.push_back(v.type());
    node.in.push_back(v.id());
  }
  node.layer = !result_layer.empty() ? result_layer : !layer.empty() ? std::string(layer) : numbered(op->name());
  node.at = at;
  node.direction = result_direction;
  std::vector<TensorType> results;
  try {
    results = op->infer(types);
  } catch (ShapeFailure const& failure) {
    std::string message = failure.message;
    if (!in.empty()) {
      auto const& x = values[std::size_t(in[0].id())];
      std::string made = x.from >= 0 ? ", made by " + nodes[std::size_t(x.from)].layer : x.role == Role::input ? ", the input" : "";
      message += "; x is " + image_shape(x.type.shape) + made;
    }
    fail_in_layer(ErrorKind::shape, node.layer, message, at);
  }
  auto const id = NodeId(nodes.size());
  std::vector<Var> out;
  for (std::size_t i = 0; i < results.size(); ++i) {
    Value v;
    v.type = results[i];
    v.role = results[i].shape.rank() == 0 ? Role::scalar : result_role;
    v.from = id;
    v.output = int(i);
    if (int a = op->alias(int(i)); a >= 0) {
      v.alias = node.in[std::size_t(a)];
      v.role = values[std::size_t(v.alias)].role;
      v.name = values[std::size_t(v.alias)].name;
    }
    values.push_back(std::move(v));
    node.out.push_back(ValueId(values.size() - 1));
    out.emplace_back(this, node.out.back());
  }
  node.op = std::move(op);
  nodes.push_back(std::move(node));
  return out;
}
Var Graph::add1(std::shared_ptr<Op const> op, std::initializer_list<Var> in, std::string_view layer, std::source_location at) {
  return add(std::move(op), std::span(in.begin(), in.size()), layer, at).front();
}

void Graph::infer_again() {
  for (auto& node : nodes) {
    std::vector<TensorType> in;
    for (ValueId v : node.in) in.push_back(values[std::size_t(v)].type);
    try {
      auto const out = node.op->infer(in);
      for (std::size_t i = 0; i < out.size(); ++i) values[std::size_t(node.out[i])].type = out[i];
    } catch (ShapeFailure const& failure) {
      std::string types;
      for (auto const& t : in) types += " " + t.text();
      fail_in_layer(ErrorKind::internal, node.layer, "compiled " + std::string(node.op->name()) + " (" + node.direction + ") does not fit" + types + ": " + failure.message, node.at);
    }
  }
}

void Graph::push_scope(std::string_view name) { scopes_.emplace_back(name); }
void Graph::pop_scope() { scopes_.pop_back(); }
std::string Graph::path(std::string_view name) const {
  std::string out;
  for (auto const& s : scopes_) (out += out.empty() ? "" : ".") += s;
  if (!name.empty()) (out += out.empty() ? "" : ".") += name;
  return out;
}
std::string Graph::numbered(std::string_view name) {
  auto base = path(name);
  auto candidate = base;
  for (int i = 1; std::find(numbered_.begin(), numbered_.end(), candidate) != numbered_.end(); ++i) candidate = base + "_" + std::to_string(i);
  numbered_.push_back(candidate);
  return candidate;
}

void Graph::verify() const {
  auto broken = [](std::string what) { fail(ErrorKind::internal, "graph: " + std::move(what)); };
  for (std::size_t i = 0; i < values.size(); ++i) {
    auto const& v = values[i];
    if (v.from >= NodeId(nodes.size())) broken("value " + std::to_string(i) + " comes from no node");
    if (v.from >= 0 && nodes[std::size_t(v.from)].out.at(std::size_t(v.output)) != ValueId(i))
      broken("value " + std::to_string(i) + " is not the output it says");
    if (v.type.layout == Layout::nhwc && v.type.shape.rank() != 4) broken("value " + std::to_string(i) + " is nhwc but not of rank 4");
  }
  for (std::size_t n = 0; n < nodes.size(); ++n) {
    for (ValueId in : nodes[n].in) {
      if (in < 0 || in >= ValueId(values.size())) broken("node " + std::to_string(n) + " reads no value");
      if (values[std::size_t(in)].from >= NodeId(n)) broken("node " + std::to_string(n) + " (" + nodes[n].layer + ") reads a later value");
    }
    for (ValueId out : nodes[n].out)
      if (values.at(std::size_t(out)).from != NodeId(n)) broken("node " + std::to_string(n) + " writes a value of another node");
  }
}

std::string Graph::text() const {
  std::string out;
  auto value = [&](ValueId id) {
    auto const& v = values[std::size_t(id)];
    return "%" + std::to_string(id) + (v.name.empty() ? "" : ":" + v.name);
  };
  for (auto const& v : values)
    if (v.from < 0) out += std::string(name(v.role)) + " " + value(ValueId(&v - values.data())) + " " + v.type.text() + "\n";
  for (auto const& n : nodes) {
    for (std::size_t i = 0; i < n.out.size(); ++i)
      out += (i ? ", " : "") + value(n.out[i]) + " " + values[std::size_t(n.out[i])].type.text();
    out += " = " + std::string(n.op->name());
    if (auto a = n.op->attributes(); !a.empty()) out += "{" + a + "}";
    out += "(";
    for (std::size_t i = 0; i < n.in.size(); ++i) out += (i ? ", " : "") + value(n.in[i]);
    out += ")  # " + n.layer + " " + n.direction + "\n";
  }
  return out;
}

std::vector<NodeId> Graph::users(ValueId id) const {
  std::vector<NodeId> out;
  for (std::size_t n = 0; n < nodes.size(); ++n)
    if (std::find(nodes[n].in.begin(), nodes[n].in.end(), id) != nodes[n].in.end()) out.push_back(NodeId(n));
  return out;
}

void Graph::remove_dead_nodes(std::span<ValueId const> wanted) {
  std::vector<char> live_value(values.size()), live_node(nodes.size());
  for (ValueId v : wanted) live_value[std::size_t(v)] = 1;
  for (std::size_t n = nodes.size(); n-- > 0;) {
    bool live = false;
    for (ValueId v : nodes[n].out) live |= live_value[std::size_t(v)] || values[std::size_t(v)].alias >= 0;
    if (!live) continue;
    live_node[n] = 1;
    for (ValueId v : nodes[n].in) live_value[std::size_t(v)] = 1;
  }
  std::vector<Node> kept;
  std::vector<NodeId> moved(nodes.size(), -1);
  for (std::size_t n = 0; n < nodes.size(); ++n)
    if (live_node[n]) {
      moved[n] = NodeId(kept.size());
      kept.push_back(std::move(nodes[n]));
    }
  // Values keep their numbers; those of removed nodes are turned into unused leaves.
  for (auto& v : values)
    if (v.from >= 0) {
      v.from = moved[std::size_t(v.from)];
      if (v.from < 0) v.role = Role::scalar, v.alias = -1, v.name = "(removed)", v.output = 0;
    }
  nodes = std::move(kept);
}

}  // namespace falconet
