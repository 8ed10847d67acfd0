// update: one optimizer node for all parameters that have a gradient. Its states are keyed "optimizer.KIND.PARAMETER".
#include "falconet/plan/compile.h"

namespace falconet {

void pass_update(Graph& graph, CompileContext& context) {
  if (!context.optimizer) return;
  std::vector<Var> parameters, gradients, states;
  std::string const prefix = "gradient:";
  std::vector<std::pair<std::string, ValueId>> kept;
  for (auto const& [name, id] : context.outputs) {
    if (!name.starts_with(prefix)) {
      kept.emplace_back(name, id);
      continue;
    }
    parameters.push_back(graph.find(name.substr(prefix.size())));
    gradients.emplace_back(&graph, id);
  }
  context.outputs = std::move(kept);            // used up by the update, not kept for the caller
  for (auto const& p : parameters) {
    auto const key = graph.values[std::size_t(p.id())].name;
    for (auto const& state : optimizer_states(*context.optimizer))
      states.push_back(graph.keyed("optimizer." + state + "." + key, Role::state, p.type(), {Init::constant, 0.0}));
  }
  graph.result_direction = "update";
  graph.result_layer = "optimizer";
  optimizer_update(*context.optimizer, graph.step(), parameters, gradients, states);
  graph.result_direction = "fwd";
  graph.result_layer.clear();
}

}  // namespace falconet
