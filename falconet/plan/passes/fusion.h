// What the fusion rules share: looking at a graph, asking what a rewrite would cost, and carrying it out.
#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "falconet/graph/graph.h"
#include "falconet/plan/compile.h"

namespace falconet {

class Fusion {
 public:
  Fusion(Graph& graph, CompileContext& context) : graph(graph), context_(context) { refresh(); }

  Graph& graph;

  // A node that a rewrite would put in place of others. With a layer, it takes over layer, direction and line of the node that
  // gave the work its name; without, those of the node that it replaces.
  struct Offer {
    std::shared_ptr<Op const> op;
    std::vector<ValueId> in;
    std::string layer = {}, direction = {};
    std::source_location at = {};
  };
  Offer offer_as(NodeId like, std::shared_ptr<Op const> op, std::vector<ValueId> in) const {
    return {std::move(op), std::move(in), node(like).layer, node(like).direction, node(like).at};
  }
  // Whether algorithms that are no baselines accept every offer and together are estimated no slower than the nodes they replace.
  bool pays(std::vector<Offer> const& offers, std::vector<NodeId> const& replaced) const;

  // Puts the offer in the place of `node`: the node's outputs become the offer's first outputs, `more` names existing values that
  // become its further outputs; missing ones are made. The nodes that made them die of disuse.
  void replace(NodeId node, Offer const& offer, std::vector<ValueId> more = {});
  // Adds a node before `before` and returns its first output; numbers of later nodes grow by one.
  ValueId insert(NodeId before, Offer const& offer);
  // Puts node n ahead of node `to`, an earlier one; what n reads is made before that.
  void move_up(NodeId n, NodeId to);
  void refresh();                          // removes dead nodes and counts uses again

  Node const& node(NodeId n) const { return graph.nodes[std::size_t(n)]; }
  Value const& value(ValueId v) const { return graph.values[std::size_t(v)]; }
  std::vector<NodeId> const& users(ValueId v) const { return users_[std::size_t(v)]; }
  bool kept(ValueId v) const;              // an output of the plan
  // The one node that reads v, or -1: v is read more than once or kept.
  NodeId only_user(ValueId v) const;
  NodeId maker(ValueId v) const { return value(v).from; }
  bool inference() const { return !context_.loss; }
  NodeId count() const { return NodeId(graph.nodes.size()); }
  template <class O>
  O const* op(NodeId n) const { return n < 0 ? nullptr : dynamic_cast<O const*>(node(n).op.get()); }

 private:
  std::vector<Candidate> candidates(Op const& op, std::vector<TensorType> const& in) const;
  double seconds(Op const& op, std::vector<TensorType> const& in, bool baselines) const;
  // Whether a pin names an algorithm for node n that would refuse the offer.
  bool against_a_pin(Offer const&, NodeId n) const;
  std::vector<TensorType> types(std::vector<ValueId> const&) const;
  CompileContext& context_;
  std::vector<std::vector<NodeId>> users_;
};

// A rule looks at one node and rewrites around it, or leaves it. Each is one rewrite, named after what it makes.
using FusionRule = bool (*)(Fusion&, NodeId);

bool fuse_loss_with_gradient(Fusion&, NodeId);      // loss and its gradient in one launch
bool fuse_loss_product(Fusion&, NodeId);            // cross-entropy with the linear layer ahead of it, both ways
bool fuse_two_operand(Fusion&, NodeId);             // batch norm: scale * dy + gradient of the sums, one pass
bool move_relu_gradient_before_pool(Fusion&, NodeId);  // ReLU's gradient behind a max-pool's gradient: at the pooled size
bool fuse_affine_residual(Fusion&, NodeId);         // affine + skip, then the activation
bool fuse_elementwise_activation(Fusion&, NodeId);  // affine or add, then the activation
bool fuse_batch_norm_gradient(Fusion&, NodeId);     // the vectors of batch norm's gradient in one launch
bool fuse_data_gradient_statistics(Fusion&, NodeId);   // data gradient + skip, ReLU's gradient, and the channel sums of batch norm's gradient
bool fuse_relu_gradient_masks(Fusion&, NodeId);     // ReLU's gradient into all readers that take a mask
bool fuse_conv_activation_pool(Fusion&, NodeId);    // conv + activation + max- or average-pool, and all three backwards
bool move_product_relu_gradient_before_pool(Fusion&, NodeId);  // the same for a ReLU behind a product, which the rule before had first choice of
bool drop_unread_winner(Fusion&, NodeId);           // max-pool without the winner that nobody reads
bool fuse_flatten(Fusion&, NodeId);                 // flatten into the matrix products that read it
bool fuse_flatten_gradient(Fusion&, NodeId);        // and its gradient into the one that makes it
bool fuse_product_residual(Fusion&, NodeId);        // conv or matrix product, then + skip
bool fuse_product_activation(Fusion&, NodeId);      // conv or matrix product, then the activation
bool fuse_conv_statistics(Fusion&, NodeId);         // conv, and the channel sums of its result
bool fuse_conv_between_norms(Fusion&, NodeId);      // batch norm's application and gradient into the convolution between them
bool fuse_conv_before_norm(Fusion&, NodeId);        // batch norm's gradient into both gradients of the convolution before it
bool fuse_mask_of_norm_input(Fusion&, NodeId);      // the mask of a data gradient from the input of the batch norm before it
bool fuse_data_gradient_residual(Fusion&, NodeId);  // data gradient + gradient of a skip
bool fuse_data_gradient_sums(Fusion&, NodeId);      // data gradient, and the channel sums of the gradient of a batch norm without activation
bool fuse_data_gradient_mask(Fusion&, NodeId);      // data gradient, then ReLU's gradient
bool fuse_filter_gradient_bias(Fusion&, NodeId);    // filter gradient and bias gradient
bool fuse_conversions(Fusion&, NodeId);             // conversions of all weights in one launch
bool fuse_residual_norm(Fusion&, NodeId);           // two batch norms that are added, in one launch
bool fuse_conv_normalise(Fusion&, NodeId);          // a convolution and the batch norm of its result
bool fuse_data_gradient_normalise(Fusion&, NodeId); // a data gradient and the gradient of the batch norm ahead of its convolution
bool fuse_pool_of_norm(Fusion&, NodeId);            // batch norm and activation into the max-pool that alone reads them
bool fuse_pool_gradient_of_norm(Fusion&, NodeId);   // the same backwards
bool fuse_norm_gradient_pair(Fusion&, NodeId);      // the gradients of two batch norms that were added, in one launch
bool fuse_mask_bits(Fusion&, NodeId);               // the mask of a data gradient as bits, written where the ReLU is applied
bool fuse_normalise(Fusion&, NodeId);               // batch norm's vectors and their application, and the same backwards
bool fuse_filter_conversion(Fusion&, NodeId);       // a convolution that reads f32 filters and rounds them itself

}  // namespace falconet
