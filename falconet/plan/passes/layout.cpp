// layout: images and filters (rank 4) become nhwc; operations carry it through. Leaves decide: inputs and parameters.
#include "falconet/plan/compile.h"

namespace falconet {

void pass_layout(Graph& graph, CompileContext&) {
  for (auto& v : graph.values)
    if (v.from < 0 && v.type.shape.rank() == 4) v.type.layout = Layout::nhwc;
  infer_again(graph);
}

}  // namespace falconet
