// The static graph: single-assignment values and nodes in program order. Built by tracing layers over Vars, rewritten by the
// compiler's passes, never executed itself.
#pragma once
#include <cstdint>
#include <memory>
#include <source_location>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "falconet/graph/op.h"
#include "falconet/tensor/tensor_type.h"

namespace falconet {

using ValueId = std::int32_t;
using NodeId = std::int32_t;

// input: written by the caller before each step. parameter: trained. state: kept between steps, not trained by gradients
// (running statistics, optimizer moments). activation, gradient: live within a step. scalar: one-element results.
enum class Role : std::uint8_t { input, parameter, state, activation, gradient, scalar };
std::string_view name(Role);

// How a parameter or state starts.
struct Init {
  enum Kind : std::uint8_t {
    constant,         // every element = value
    uniform,          // U(-value, value)
    normal,           // N(0, value^2)
    kaiming_uniform,  // U(-b, b), b = sqrt(6 / fan_in), He et al. 2015 eq. 10, gain for ReLU
    kaiming_normal,   // N(0, 2 / fan_in), He et al. 2015 eq. 10
    kaiming_normal_fan_out,  // N(0, 2 / fan_out), He et al. 2015 eq. 14: keeps the gradient's variance
    xavier_uniform,   // U(-b, b), b = sqrt(6 / (fan_in + fan_out)), Glorot & Bengio 2010 eq. 16
    xavier_normal,    // N(0, 2 / (fan_in + fan_out)), Glorot & Bengio 2010 eq. 12
    pytorch           // U(-b, b), b = 1 / sqrt(fan_in): PyTorch's default for convolution and linear, weights and biases
  } kind = constant;
  double value = 0;
  std::int64_t fan_in = 1, fan_out = 1;
  bool operator==(Init const&) const = default;
};

struct Value {
  TensorType type;
  Role role = Role::activation;
  std::string name;        // parameters, states and inputs: their key; others: empty or a hint
  NodeId from = -1;        // the node that makes it, -1 for inputs, parameters and states
  int output = 0;          // which of the node's outputs it is
  ValueId alias = -1;      // lies in this value's memory (an update in place)
  Init init;               // parameters and states
};

struct Node {
  std::shared_ptr<Op const> op;
  std::vector<ValueId> in, out;
  std::string layer;                       // path of the layer: "layer1.0.conv1"
  std::string direction = "fwd";           // "fwd", "bwd_data", "bwd_filter", "recompute", "update": for tables and pins
  std::source_location at;                 // the user's line
};

class Graph;

// A handle to a value while a network is traced.
class Var {
 public:
  Var() = default;
  Var(Graph* graph, ValueId id) : graph_(graph), id_(id) {}
  explicit operator bool() const { return graph_ != nullptr; }
  Graph& graph() const { return *graph_; }
  ValueId id() const { return id_; }
  TensorType const& type() const;
  Shape const& shape() const { return type().shape; }

 private:
  Graph* graph_ = nullptr;
  ValueId id_ = -1;
};

class Graph {
 public:
  std::vector<Value> values;
  std::vector<Node> nodes;                 // every input is made by an earlier node

  Var input(std::string name, TensorType type);
  // A trained parameter (or a state) under the current scope: key = scope + name. A second one of the same key is an error.
  Var parameter(std::string_view name, TensorType type, Init init, std::source_location at = std::source_location::current());
  Var state(std::string_view name, TensorType type, Init init, std::source_location at = std::source_location::current());
  // Like parameter/state, but under the absolute key, and returns the existing value if there is one (for passes).
  Var keyed(std::string key, Role role, TensorType type, Init init);
  Var find(std::string_view key) const;    // input, parameter or state of this key; empty if none
  Var step();                              // the StepState input, made on first use
  bool training = false;                   // whether batch norm and dropout behave as in training while layers are traced

  // Appends a node and returns its outputs. Shape errors get the layer's path and the user's line.
  std::vector<Var> add(std::shared_ptr<Op const> op, std::span<Var const> in, std::string_view layer = {},
                       std::source_location at = std::source_location::current());
  Var add1(std::shared_ptr<Op const> op, std::initializer_list<Var> in, std::string_view layer = {},
           std::source_location at = std::source_location::current());
  // The role of outputs of nodes added from now on, and their direction (set while gradients are built).
  Role result_role = Role::activation;
  std::string result_direction = "fwd";
  std::string result_layer;                // if set, overrides the layer path of added nodes (gradients keep their layer)

  // Scopes prefix keys and layer paths.
  void push_scope(std::string_view name);
  void pop_scope();
  std::string path(std::string_view name = {}) const;      // scope + name
  // "relu", "relu_1", ...: unique path for a layer without a key, counted within its scope.
  std::string numbered(std::string_view name);

  // Runs every node's shape rule again, after types of leaves have changed (element type, layout).
  void infer_again();
  void verify() const;                     // throws an internal error naming the broken invariant
  std::string text() const;                // one line per value and node
  std::vector<NodeId> users(ValueId) const;
  void remove_dead_nodes(std::span<ValueId const> wanted); // keeps what `wanted`, updates in place and states need

 private:
  Var make(std::string key, Role role, TensorType type, Init init);
  std::vector<std::string> scopes_;
  std::vector<std::string> numbered_;      // paths given out
};

}  // namespace falconet
