// precision: f64 turns every leaf into f64. bf16 converts the images (not those that a loss compares with) and the weights that a
// convolution or matrix product reads;
// activations then follow by the shape rules, while masters, vectors, losses and the optimizer stay f32. tf32 changes no type: it allows the
// convolutions of a GPU to round their factors.
#include <map>

#include "falconet/base/error.h"
#include "falconet/ops/conv/op.h"
#include "falconet/ops/copy/op.h"
#include "falconet/plan/compile.h"

namespace falconet {
namespace {

// Values that must be in the compute type: the operands of convolutions and matrix products that are leaves.
bool computes(Node const& n) { return n.op->name() == "conv" || n.op->name() == "gemm"; }

void to_bf16(Graph& graph) {
  // Rebuild the node list with a conversion before the first use of each leaf.
  std::map<ValueId, ValueId> converted;
  std::vector<Node> old = std::move(graph.nodes);
  graph.nodes.clear();
  for (auto& node : old) {
    if (node.direction != "update" && node.op->name() != "loss")   // a loss reads its targets as they are
      for (std::size_t i = 0; i < node.in.size(); ++i) {
        ValueId id = node.in[i];
        auto const v = graph.values[std::size_t(id)];
        if (v.from >= 0 || v.type.dtype != DType::f32) continue;
        bool const image = v.role == Role::input && v.type.shape.rank() == 4;
        bool const weight = v.role == Role::parameter && computes(node) && v.type.shape.rank() >= 2;
        if (!image && !weight) continue;
        auto [at, fresh] = converted.try_emplace(id, -1);
        if (fresh) {
          graph.result_layer = node.layer;
          at->second = convert(Var(&graph, id), DType::bf16, v.type.layout).id();
          graph.result_layer.clear();
        }
        node.in[i] = at->second;
      }
    auto const number = NodeId(graph.nodes.size());
    for (ValueId out : node.out) graph.values[std::size_t(out)].from = number;
    graph.nodes.push_back(std::move(node));
  }
}

}  // namespace

void pass_precision(Graph& graph, CompileContext& context) {
  Precision const precision = context.options.precision;
  if (precision.math == Math::tf32) {
    if (precision.type != DType::f32) fail(ErrorKind::usage, "TF32 products are of f32 values, not of " + std::string(name(precision.type)));
    if (context.options.facts.device.kind != DeviceKind::cuda)
      fail(ErrorKind::usage, "precision=tf32 is arithmetic of NVIDIA GPUs, and this runs on the CPU: expected f32, bf16 or f64, or device=cuda");
    for (auto& node : graph.nodes)
      if (auto const* conv = dynamic_cast<ConvOp const*>(node.op.get())) node.op = conv->with_math(Math::tf32);
    return;
  }
  switch (precision.type) {
    case DType::f32: return;
    case DType::f64:
      for (auto& v : graph.values)
        if (v.from < 0 && v.type.dtype == DType::f32) v.type.dtype = DType::f64;
      break;
    case DType::bf16: to_bf16(graph); break;
    default: fail(ErrorKind::usage, "precision is f32, tf32, bf16 or f64, not " + std::string(name(precision.type)));
  }
  graph.infer_again();
}

}  // namespace falconet
