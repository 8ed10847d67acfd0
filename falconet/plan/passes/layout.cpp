// layout: images and filters (rank 4) become nhwc; operations carry it through. Leaves decide: inputs and parameters; so do the
// operations that state a layout: conversions, and reshapes of rows into images (the gradient of flatten).
#include "falconet/ops/copy/op.h"
#include "falconet/plan/compile.h"

namespace falconet {

void pass_layout(Graph& graph, CompileContext&) {
  for (auto& v : graph.values)
    if (v.from < 0 && v.type.shape.rank() == 4) v.type.layout = Layout::nhwc;
  for (auto& node : graph.nodes) {
    if (auto const* convert = dynamic_cast<Convert const*>(node.op.get()); convert && graph.values[std::size_t(node.in[0])].type.shape.rank() == 4)
      node.op = std::make_shared<Convert>(convert->dtype, Layout::nhwc);
    if (auto const* reshape = dynamic_cast<Reshape const*>(node.op.get()); reshape && reshape->shape.rank() == 4)
      node.op = std::make_shared<Reshape>(reshape->shape, Layout::nhwc);
  }
  graph.infer_again();
}

}  // namespace falconet
