#include "falconet/plan/compile.h"

#include "falconet/base/error.h"
#include "falconet/ops/algorithms.h"

namespace falconet {

std::vector<Pass> const& passes() {
  static std::vector<Pass> const list = {
      {"gradients", pass_gradients}, {"update", pass_update}, {"precision", pass_precision}, {"layout", pass_layout},
      {"fold", pass_fold},           {"fuse", pass_fuse},     {"recompute", pass_recompute}, {"constants", pass_constants},
      {"choose", pass_choose},       {"place", pass_place},   {"emit", pass_emit},           {"lanes", pass_lanes},
  };
  return list;
}

Plan compile(Graph& graph, CompileContext& context) {
  for (auto const& pass : passes()) {
    pass.run(graph, context);
    graph.verify();
    if (context.options.stop_after == pass.name) break;
  }
  return context.plan;
}

std::string problem_of(Graph const& graph, Node const& node) {
  std::vector<TensorType> in, out;
  for (ValueId v : node.in) in.push_back(graph.values[std::size_t(v)].type);
  for (ValueId v : node.out) out.push_back(graph.values[std::size_t(v)].type);
  return node.op->problem(in, out);
}

}  // namespace falconet
