// emit: writes the launches, inputs and outputs of the plan. What runs once comes in the order in which memory was laid out for it: each filter
// is packed right after it is made.
#include <algorithm>

#include "falconet/plan/compile.h"

namespace falconet {

void pass_emit(Graph& graph, CompileContext& context) {
  Plan& plan = context.plan;
  plan.device = context.options.facts.device;
  auto slot = [&](ValueId id) {
    ValueId home = id;
    while (graph.values[std::size_t(home)].alias >= 0) home = graph.values[std::size_t(home)].alias;
    auto const& v = graph.values[std::size_t(home)];
    Slot s;
    s.type = graph.values[std::size_t(id)].type;
    if (v.from < 0 && (v.role == Role::parameter || v.role == Role::state)) {
      s.kind = Slot::parameter;
      s.name = v.name;
    } else {
      s.offset = context.offset[std::size_t(home)];
    }
    return s;
  };
  auto const launch = [&](std::size_t n) {
    auto const& node = graph.nodes[n];
    Launch l;
    l.layer = node.layer;
    l.direction = node.direction;
    l.op = node.op->name();
    l.problem = problem_of(graph, node);
    l.choice = context.choices[n];
    for (ValueId v : node.in) l.operands.push_back(slot(v));
    for (ValueId v : node.out) l.operands.push_back(slot(v));
    l.scratch_offset = context.scratch_offset[n];
    l.scratch_bytes = context.scratch[n];
    l.prepared_offset = context.prepared_offset[n];
    l.prepared_bytes = std::int64_t(context.prepared[n].bytes);
    return l;
  };
  auto const constant = std::size_t(context.constant_nodes);
  for (std::size_t m = 0; m < std::max<std::size_t>(constant, 1); ++m) {
    if (m < constant) plan.prepare.push_back(launch(m));
    for (std::size_t n = constant; n < graph.nodes.size(); ++n)
      if (context.prepared[n].bytes > 0 && packed_at(graph, context, NodeId(n)) == int(m)) {
        Launch l = launch(n);
        l.packs = true;
        l.scratch_offset = l.scratch_bytes = 0;
        plan.prepare.push_back(std::move(l));
      }
  }
  for (std::size_t n = constant; n < graph.nodes.size(); ++n)
    if (!is_view(graph, context, NodeId(n))) plan.step.push_back(launch(n));
  for (std::size_t i = 0; i < graph.values.size(); ++i)
    if (graph.values[i].role == Role::input && graph.values[i].from < 0) plan.inputs.push_back({graph.values[i].name, slot(ValueId(i))});
  for (auto const& [name, id] : context.outputs) plan.outputs.push_back({name, slot(id)});
}

}  // namespace falconet
