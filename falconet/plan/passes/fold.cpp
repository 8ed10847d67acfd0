// fold: batch norm of an inference plan goes into the product before it,
//   scale * (w x + b) + shift = (scale w) x + (scale b + shift),
// in a node that depends on parameters alone. constants: such nodes come first; they run once for each version of the parameters
// (Plan::prepare), and so do conversions of weights to bf16.
#include <algorithm>

#include "falconet/ops/batch_norm/op.h"
#include "falconet/ops/conv/op.h"
#include "falconet/ops/copy/op.h"
#include "falconet/ops/elementwise/op.h"
#include "falconet/ops/gemm/op.h"
#include "falconet/plan/passes/fusion.h"

namespace falconet {
namespace {

// affine(product(x, w, [b]), inference(gamma, beta, mean, var)) -> product(x, w', b') with w', b' = fold(w, gamma, beta, mean, var, [b]).
bool fold_batch_norm(Fusion& f, NodeId n) {
  auto const* affine = elementwise(f.node(n), ElementwiseFunction::affine);
  if (!affine || affine->form.act != Activation::none || affine->form.residual) return false;
  ValueId const y = f.node(n).in[0];
  NodeId const product = f.maker(y), vectors = f.maker(f.node(n).in[1]);
  auto const* norm = f.op<BatchNormOp>(vectors);
  if (!norm || norm->function != BatchNormFunction::inference || f.only_user(y) != n) return false;
  auto const *conv = f.op<ConvOp>(product);
  auto const *gemm = f.op<GemmOp>(product);
  if (!(conv && conv->direction() == Direction::fwd) && !(gemm && !gemm->trans_a() && gemm->trans_b())) return false;
  OnStore store = conv ? conv->store() : gemm->store();
  bool const bias = store.bias;
  store.bias = false;
  if (store != OnStore{}) return false;
  store.bias = true;

  // The filter's master copy: w' is rounded to bf16 once, after it is scaled.
  ValueId const filter = f.node(product).in[1];
  ValueId const master = f.op<Convert>(f.maker(filter)) ? f.node(f.maker(filter)).in[0] : filter;
  if (f.value(master).type.dtype != f.value(f.node(vectors).in[0]).type.dtype || f.value(master).type.layout != f.value(filter).type.layout) return false;
  BatchNormOp::Slots slots;
  slots.filter = f.value(filter).type.dtype;
  Fusion::Offer fold{std::make_shared<BatchNormOp>(BatchNormFunction::fold, 1, norm->eps, norm->momentum, slots), {master}};
  fold.in.insert(fold.in.end(), f.node(vectors).in.begin(), f.node(vectors).in.end());
  if (bias) fold.in.push_back(f.node(product).in[2]);
  f.insert(n, fold);
  NodeId const made = n, moved = n + 1;
  std::shared_ptr<Op const> op;
  if (conv) op = conv->with_store(store);
  else op = std::make_shared<GemmOp>(gemm->with_store(store));
  Fusion::Offer const offer = f.offer_as(product, op, {f.node(product).in[0], f.node(made).out[0], f.node(made).out[1]});
  if (!f.pays({offer}, {product, moved})) {
    f.refresh();                                            // the folded filter dies of disuse
    return false;
  }
  f.replace(moved, offer);
  return true;
}

}  // namespace

void pass_fold(Graph& graph, CompileContext& context) {
  if (!context.options.fuse || context.loss) return;
  Fusion fusion(graph, context);
  for (NodeId n = 0; n < fusion.count(); ++n)
    if (fold_batch_norm(fusion, n)) n = std::max(-1, n - 4);   // dead nodes before it are gone
}

void pass_constants(Graph& graph, CompileContext& context) {
  context.constant_nodes = 0;
  if (context.loss) return;
  std::vector<bool> constant(graph.values.size());
  for (std::size_t v = 0; v < constant.size(); ++v) {
    auto const& value = graph.values[v];
    if (value.alias >= 0) return;                              // a plan that writes states
    constant[v] = value.from < 0 && (value.role == Role::parameter || value.role == Role::state);
  }
  std::vector<Node> first, rest;
  for (auto& node : graph.nodes) {
    bool const alone = !node.in.empty() && std::all_of(node.in.begin(), node.in.end(), [&](ValueId v) { return constant[std::size_t(v)]; });
    for (ValueId v : node.out) constant[std::size_t(v)] = alone;
    (alone ? first : rest).push_back(std::move(node));
  }
  context.constant_nodes = int(first.size());
  graph.nodes = std::move(first);
  for (auto& node : rest) graph.nodes.push_back(std::move(node));
  for (std::size_t n = 0; n < graph.nodes.size(); ++n)
    for (ValueId v : graph.nodes[n].out) graph.values[std::size_t(v)].from = NodeId(n);
}

}  // namespace falconet
