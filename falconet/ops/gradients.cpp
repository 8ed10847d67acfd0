// Reverse-mode differentiation: walks the nodes backwards and asks each operation for the gradient of its inputs, as nodes.
#include "falconet/ops/gradients.h"

#include "falconet/base/error.h"
#include "falconet/ops/elementwise/op.h"

namespace falconet {

std::vector<Var> gradients(Var loss, std::span<Var const> wrt) {
  Graph& g = loss.graph();
  if (loss.shape().elements() != 1) fail(ErrorKind::shape, "gradients start from a loss of one element, not " + loss.shape().text());

  // Which values depend on something in `wrt`: only those get a gradient.
  std::vector<char> needed(g.values.size());
  for (Var const& v : wrt) needed[std::size_t(v.id())] = 1;
  for (auto const& node : g.nodes) {
    bool any = false;
    for (ValueId in : node.in) any |= needed[std::size_t(in)] != 0;
    if (any)
      for (ValueId out : node.out) needed[std::size_t(out)] = 1;
  }

  auto const saved_role = g.result_role;
  auto const saved_direction = g.result_direction;
  auto const saved_layer = g.result_layer;
  g.result_role = Role::gradient;
  g.result_direction = "bwd";

  std::vector<Var> d(g.values.size());                    // gradient of the loss with respect to each value, so far
  std::size_t const forward_nodes = g.nodes.size();
  g.result_layer = g.nodes[std::size_t(g.values[std::size_t(loss.id())].from)].layer;
  d[std::size_t(loss.id())] = fill_like(loss, 1.0);
  for (std::size_t n = forward_nodes; n-- > 0;) {
    Node const node = g.nodes[n];                         // a copy: adding nodes moves the vector
    std::vector<Var> dy;
    bool any = false, wanted = false;
    for (ValueId out : node.out) {
      dy.push_back(d[std::size_t(out)]);
      any |= bool(dy.back());
    }
    for (ValueId in : node.in) wanted |= needed[std::size_t(in)] != 0;
    if (!any || !wanted) continue;
    g.result_layer = node.layer;
    auto dx = node.op->gradient(g, node, dy);
    for (std::size_t i = 0; i < node.in.size(); ++i) {
      if (!dx[i] || !needed[std::size_t(node.in[i])]) continue;
      Var& sum = d[std::size_t(node.in[i])];
      sum = sum ? add(sum, dx[i]) : dx[i];
    }
  }
  g.result_role = saved_role;
  g.result_direction = saved_direction;
  g.result_layer = saved_layer;

  std::vector<Var> out;
  for (Var const& v : wrt) out.push_back(d[std::size_t(v.id())]);
  return out;
}

}  // namespace falconet
