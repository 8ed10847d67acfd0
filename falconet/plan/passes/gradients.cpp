// gradients: adds d loss / d parameter for every trained parameter, and remembers them by the parameter's key.
#include "falconet/ops/gradients.h"

#include "falconet/plan/compile.h"

namespace falconet {

void pass_gradients(Graph& graph, CompileContext& context) {
  if (!context.loss) return;
  std::vector<Var> parameters;
  for (std::size_t i = 0; i < graph.values.size(); ++i)
    if (graph.values[i].role == Role::parameter && graph.values[i].from < 0) parameters.emplace_back(&graph, ValueId(i));
  auto d = gradients(context.loss, parameters);
  for (std::size_t i = 0; i < d.size(); ++i)
    if (d[i]) context.outputs.emplace_back("gradient:" + graph.values[std::size_t(parameters[i].id())].name, d[i].id());
}

}  // namespace falconet
