// fuse: merges neighbours. A fusion is an offer: it is taken only if an algorithm (no baseline) accepts the fused problem and its
// estimate does not exceed that of the parts, and not where a pin names an algorithm that runs the part but not the fused problem.
// A missing kernel costs speed, never correctness.
#include <algorithm>

#include "falconet/ops/algorithms.h"
#include "falconet/plan/passes/fusion.h"

namespace falconet {

void Fusion::refresh() {
  std::vector<ValueId> wanted;
  for (auto const& [name, id] : context_.outputs) wanted.push_back(id);
  graph.remove_dead_nodes(wanted);
  users_.assign(graph.values.size(), {});
  for (NodeId n = 0; n < count(); ++n)
    for (ValueId v : node(n).in)
      if (auto& u = users_[std::size_t(v)]; u.empty() || u.back() != n) u.push_back(n);
}

bool Fusion::kept(ValueId v) const {
  return std::any_of(context_.outputs.begin(), context_.outputs.end(), [&](auto const& o) { return o.second == v; });
}
NodeId Fusion::only_user(ValueId v) const { return users(v).size() == 1 && !kept(v) ? users(v).front() : -1; }

std::vector<Candidate> Fusion::candidates(Op const& op, std::vector<TensorType> const& in) const {
  return algorithms_of(op.name()).candidates(op.problem(in, op.infer(in)), context_.options.facts);
}

double Fusion::seconds(Op const& op, std::vector<TensorType> const& in, bool baselines) const {
  double best = 1e31;
  for (auto const& c : candidates(op, in))
    if (c.refusal.empty() && c.unasked.empty() && !c.rival && (baselines || !c.baseline)) best = std::min(best, c.seconds);
  return best;
}

bool Fusion::against_a_pin(Offer const& offer, NodeId n) const {
  if (offer.op->name() != node(n).op->name()) return false;
  bool const both = offer.direction == "bwd" && node(n).direction.starts_with("bwd");   // both gradients in place of one
  if (!offer.layer.empty() && (offer.layer != node(n).layer || (offer.direction != node(n).direction && !both))) return false;
  auto const accepts = [&](Op const& op, std::vector<ValueId> const& values, std::string const& algorithm) {
    for (auto const& c : candidates(op, types(values)))
      if (c.algorithm == algorithm) return c.refusal.empty();
    return false;
  };
  for (auto const& key : {node(n).layer + ":" + node(n).direction, node(n).layer})
    if (auto const pin = context_.options.pins.find(key); pin != context_.options.pins.end()) {
      std::string const algorithm = Choice::parse(pin->second).algorithm;
      return accepts(*node(n).op, node(n).in, algorithm) && !accepts(*offer.op, offer.in, algorithm);
    }
  return false;
}

std::vector<TensorType> Fusion::types(std::vector<ValueId> const& values) const {
  std::vector<TensorType> out;
  for (ValueId v : values) out.push_back(value(v).type);
  return out;
}

bool Fusion::pays(std::vector<Offer> const& offers, std::vector<NodeId> const& replaced) const {
  if (!context_.options.pins.empty())
    for (auto const& o : offers)
      for (NodeId n : replaced)
        if (against_a_pin(o, n)) return false;
  for (NodeId n : replaced)                                 // a pinned product or pool does not vanish in a launch of another operation
    if ((node(n).op->name() == "gemm" || node(n).op->name() == "conv" || node(n).op->name() == "pool") && std::none_of(offers.begin(), offers.end(), [&](Offer const& o) { return o.op->name() == node(n).op->name(); }))
      for (auto const& key : {node(n).layer + ":" + node(n).direction, node(n).layer})
        if (auto const pin = context_.options.pins.find(key); pin != context_.options.pins.end())
          for (auto const& c : candidates(*node(n).op, types(node(n).in)))
            if (c.algorithm == Choice::parse(pin->second).algorithm) return false;
  double together = 0, parts = 0;
  for (auto const& o : offers) {
    double const s = seconds(*o.op, types(o.in), context_.options.fuse_baselines);
    if (s > 1e30) return false;
    together += s;
  }
  if (context_.options.fuse_baselines) return true;
  for (NodeId n : replaced) parts += seconds(*node(n).op, types(node(n).in), true);
  return together <= parts;
}

void Fusion::replace(NodeId n, Offer const& offer, std::vector<ValueId> more) {
  auto const made = offer.op->infer(types(offer.in));
  Node& target = graph.nodes[std::size_t(n)];
  target.op = offer.op;
  target.in = offer.in;
  if (!offer.layer.empty()) {
    target.layer = offer.layer;
    target.direction = offer.direction;
    target.at = offer.at;
  }
  for (ValueId v : more) {
    // The value moves here; its old maker gets an unused one instead.
    Value& moved = graph.values[std::size_t(v)];
    Value left = moved;
    left.name.clear();
    left.alias = -1;                                        // an update in place moves too: it must not happen twice
    if (moved.alias >= 0) left.role = Role::scalar;
    graph.nodes[std::size_t(moved.from)].out[std::size_t(moved.output)] = ValueId(graph.values.size());
    moved.from = n;
    moved.output = int(graph.nodes[std::size_t(n)].out.size());
    graph.nodes[std::size_t(n)].out.push_back(v);
    graph.values.push_back(left);
  }
  Node& done = graph.nodes[std::size_t(n)];
  for (std::size_t i = 0; i < made.size(); ++i) {
    if (i == done.out.size()) {
      Value fresh;
      fresh.role = done.direction == "fwd" ? Role::activation : Role::gradient;
      fresh.from = n;
      fresh.output = int(i);
      graph.values.push_back(fresh);
      done.out.push_back(ValueId(graph.values.size() - 1));
    }
    graph.values[std::size_t(done.out[i])].type = made[i];
  }
  for (std::size_t i = made.size(); i < done.out.size(); ++i) {   // as remove_dead_nodes leaves what nobody makes any more
    Value& v = graph.values[std::size_t(done.out[i])];
    v.from = -1, v.output = 0, v.alias = -1, v.role = Role::scalar, v.name = "(removed)";
  }
  done.out.resize(made.size());
  refresh();
}

ValueId Fusion::insert(NodeId before, Offer const& offer) {
  auto const made = offer.op->infer(types(offer.in));
  Node fresh;
  fresh.op = offer.op;
  fresh.in = offer.in;
  fresh.layer = node(before).layer;
  fresh.direction = node(before).direction;
  fresh.at = node(before).at;
  for (auto& v : graph.values)
    if (v.from >= before) ++v.from;
  for (std::size_t i = 0; i < made.size(); ++i) {
    Value v;
    v.type = made[i];
    v.role = fresh.direction == "fwd" ? Role::activation : Role::gradient;
    v.from = before;
    v.output = int(i);
    graph.values.push_back(v);
    fresh.out.push_back(ValueId(graph.values.size() - 1));
  }
  auto const first = fresh.out.front();
  graph.nodes.insert(graph.nodes.begin() + before, std::move(fresh));
  users_.resize(graph.values.size());
  return first;
}

void Fusion::move_up(NodeId n, NodeId to) {
  std::rotate(graph.nodes.begin() + to, graph.nodes.begin() + n, graph.nodes.begin() + n + 1);
  for (auto& v : graph.values)
    if (v.from == n) v.from = to;
    else if (v.from >= to && v.from < n) ++v.from;
  refresh();
}

void pass_fuse(Graph& graph, CompileContext& context) {
  Fusion fusion(graph, context);
  if (!context.options.fuse) return;
  static constexpr FusionRule rules[] = {
      fuse_loss_with_gradient,  fuse_two_operand,     move_relu_gradient_before_pool, fuse_affine_residual,        fuse_elementwise_activation,
      fuse_batch_norm_gradient, fuse_data_gradient_statistics,
      fuse_flatten, fuse_flatten_gradient, fuse_relu_gradient_masks, fuse_conv_activation_pool, move_product_relu_gradient_before_pool,
      fuse_conv_activation_pool, drop_unread_winner, fuse_product_residual, fuse_product_activation, fuse_conv_statistics,
      fuse_conv_between_norms, fuse_data_gradient_residual, fuse_conv_before_norm, fuse_mask_of_norm_input, fuse_data_gradient_sums,
      fuse_data_gradient_mask, fuse_filter_gradient_bias, fuse_filter_conversion,
      fuse_conversions, fuse_pool_of_norm, fuse_pool_gradient_of_norm, fuse_normalise, fuse_conv_normalise, fuse_data_gradient_normalise,
      fuse_residual_norm, fuse_norm_gradient_pair, fuse_mask_bits, fuse_loss_product,
  };
  for (FusionRule rule : rules)
    for (NodeId n = 0; n < fusion.count(); ++n)
      if (rule(fusion, n)) n = std::max(-1, n - 8);     // nodes around it have moved or died: look at them again
}

}  // namespace falconet
