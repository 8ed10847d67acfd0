// layout: images and filters (rank 4) become nhwc; operations carry it through. Leaves decide: inputs and parameters, and images
// that a reshape makes of rows (the gradient of flatten).
#include "falconet/ops/copy/op.h"
#include "falconet/plan/compile.h"

namespace falconet {

void pass_layout(Graph& graph, CompileContext&) {
  for (auto& v : graph.values)
    if (v.from < 0 && v.type.shape.rank() == 4) v.type.layout = Layout::nhwc;
  for (auto& node : graph.nodes)
    if (auto const* reshape = dynamic_cast<Reshape const*>(node.op.get()); reshape && reshape->shape.rank() == 4)
      node.op = std::make_shared<Reshape>(reshape->shape, Layout::nhwc);
  infer_again(graph);
}

}  // namespace falconet
