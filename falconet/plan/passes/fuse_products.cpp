// Fusion rules around convolutions and matrix products.
#include <algorithm>

#include "falconet/ops/batch_norm/op.h"
#include "falconet/ops/conv/op.h"
#include "falconet/ops/copy/op.h"
#include "falconet/ops/elementwise/op.h"
#include "falconet/ops/gemm/op.h"
#include "falconet/ops/pool/op.h"
#include "falconet/ops/reduce/op.h"
#include "falconet/plan/passes/fusion.h"

namespace falconet {
namespace {

using F = ElementwiseFunction;
ElementwiseOp const* is(Fusion const& f, NodeId n, F function) { return n < 0 ? nullptr : elementwise(f.node(n), function); }

// The node is a convolution or matrix product whose result passes no slot but the bias: it, with another store slot.
std::shared_ptr<Op const> with_store(Fusion const& f, NodeId n, OnStore const& store) {
  if (auto const* conv = f.op<ConvOp>(n)) return conv->with_store(store);
  return std::make_shared<GemmOp>(f.op<GemmOp>(n)->with_store(store));
}
OnStore const* store_of(Fusion const& f, NodeId n) {
  if (auto const* conv = f.op<ConvOp>(n)) return &conv->store();
  if (auto const* gemm = f.op<GemmOp>(n)) return &gemm->store();
  return nullptr;
}
bool only_bias(OnStore s) {
  s.bias = false;
  return s == OnStore{};
}
// The mask that stands for the gradient of an activation, given its result.
Mask mask_of(Activation act) { return act == Activation::relu ? Mask::relu : act == Activation::relu6 ? Mask::relu6 : Mask::none; }
bool data_gradient(Fusion const& f, NodeId n) {
  if (auto const* conv = f.op<ConvOp>(n)) return conv->direction() == Direction::bwd_data;
  return f.op<GemmOp>(n) && f.node(n).direction == "bwd_data";
}

// Which operand of the sum at n is made last, by a launch that adds the other: where both are data gradients, that of stride 1. A strided one writes
// sub-lattices, on which every tensor read beside costs more.
std::vector<int> last_of_a_sum(Fusion const& f, NodeId n) {
  auto const strided = [&](int operand) {
    auto const* conv = f.op<ConvOp>(f.maker(f.node(n).in[std::size_t(operand)]));
    return conv && conv->direction() == Direction::bwd_data && conv->options().stride != std::array<int, 2>{1, 1};
  };
  return strided(0) && !strided(1) ? std::vector<int>{1, 0} : std::vector<int>{0, 1};
}

}  // namespace

// y = pool(act(conv(x))), maxima of any size or averages of 2x2: the map before pooling is never written. Backwards, the filter and data
// gradients read the pooled gradient and the winners. All or nothing: every reader of the map must go. In inference, and where move_product_relu_gradient_before_pool has
// left the pool as its only reader, that is forward alone.
bool fuse_conv_activation_pool(Fusion& f, NodeId n) {
  auto const* conv = f.op<ConvOp>(n);
  if (!conv || conv->direction() != Direction::fwd || !only_bias(conv->store())) return false;
  ValueId const y = f.node(n).out[0];
  NodeId const act_node = f.only_user(y);
  auto const* act = is(f, act_node, F::activation);
  if (!act || act->form.act != Activation::relu) return false;

  ValueId const r = f.node(act_node).out[0];
  if (f.kept(r)) return false;
  NodeId pool_node = -1, act_gradient = -1;
  for (NodeId u : f.users(r)) {
    auto const* p = f.op<Pool>(u);
    if (p && pool_node < 0) pool_node = u;
    else if (is(f, u, F::activation_gradient) && f.node(u).in[1] == r && f.node(u).in[0] != r && act_gradient < 0) act_gradient = u;
    else return false;
  }
  auto const* pool = f.op<Pool>(pool_node);
  if (!pool) return false;
  bool const average = pool->kind == PoolKind::average;
  auto const& o = pool->options;
  int const size = o.window[0];
  auto const& map = f.value(r).type.shape;
  if (o.window[1] != size || o.stride[0] != size || o.stride[1] != size || o.padding != std::array<int, 4>{} || size > (average ? 2 : 15) || size < 2) return false;
  if (o.ceil_mode && (map[2] % size || map[3] % size)) return false;

  OnStore store = conv->store();
  store.act = Activation::relu;
  store.pool = {average ? PoolSlot::average : PoolSlot::max, std::uint8_t(size)};
  Fusion::Offer const forward = f.offer_as(n, conv->with_store(store), f.node(n).in);
  ValueId const pooled = f.node(pool_node).out[0];
  std::vector<NodeId> replaced = {n, act_node, pool_node};

  if (act_gradient < 0) {
    if (!f.pays({forward}, replaced)) return false;
    f.replace(pool_node, forward);
    return true;
  }

  // Backwards: pooled gradient -> PoolGradient -> ReLU's gradient -> filter, data and bias gradients.
  ValueId winner = f.node(pool_node).out.size() > 1 ? f.node(pool_node).out[1] : -1;
  NodeId const pool_gradient = f.maker(f.node(act_gradient).in[0]);
  auto const* of_pool = f.op<PoolGradient>(pool_gradient);
  if (!of_pool || of_pool->kind != pool->kind || of_pool->options.window != o.window || f.only_user(f.node(pool_gradient).out[0]) != act_gradient || f.kept(pooled)) return false;
  if (!average && (winner < 0 || f.only_user(winner) != pool_gradient)) return false;
  ValueId const dpooled = f.node(pool_gradient).in[0], dmap = f.node(act_gradient).out[0];
  OnLoad unpool;
  unpool.unpool = store.pool;
  // The forward node's types tell the winner's type, which the backward offers need: a max-pool's own winner has the same.
  if ((!average && f.value(winner).type.dtype != DType::u8) || f.kept(dmap)) return false;
  NodeId filter_node = -1, data_node = -1, bias_node = -1;
  for (NodeId u : f.users(dmap)) {
    auto const* c = f.op<ConvOp>(u);
    auto const* s = f.op<ReduceOp>(u);
    if (c && c->direction() == Direction::bwd_filter && c->store() == OnStore{} && c->load_dy() == OnLoad{}) filter_node = u;
    else if (c && c->direction() == Direction::bwd_data && c->store() == OnStore{} && c->load_dy() == OnLoad{}) data_node = u;
    else if (s && s->function == ReduceFunction::channel_sum) bias_node = u;
    else return false;
  }
  if (filter_node < 0) return false;
  if (average) {                                           // its winner is new
    Value fresh;
    fresh.type = f.value(pooled).type, fresh.type.dtype = DType::u8;
    fresh.role = Role::activation, fresh.from = pool_node, fresh.output = 1;
    winner = ValueId(f.graph.values.size());
    f.graph.values.push_back(fresh);
  }
  std::vector<Fusion::Offer> offers = {forward};
  auto filter = f.op<ConvOp>(filter_node)->with_load_dy(unpool);
  if (bias_node >= 0) {
    OnStore with_bias;
    with_bias.bias = true;
    filter = filter->with_store(with_bias);
  }
  Fusion::Offer const filter_offer = f.offer_as(filter_node, filter, {f.node(filter_node).in[0], dpooled, winner});
  offers.push_back(filter_offer);
  Fusion::Offer data_offer;
  if (data_node >= 0) {
    data_offer = f.offer_as(data_node, f.op<ConvOp>(data_node)->with_load_dy(unpool), {f.node(data_node).in[0], dpooled, winner});
    offers.push_back(data_offer);
  }
  for (NodeId gone : {act_gradient, pool_gradient, filter_node, data_node, bias_node})
    if (gone >= 0) replaced.push_back(gone);
  if (!f.pays(offers, replaced)) {
    if (average) f.graph.values.pop_back();
    return false;
  }
  if (average) f.graph.nodes[std::size_t(pool_node)].out.push_back(winner);

  std::vector<ValueId> more;
  if (bias_node >= 0) more.push_back(f.node(bias_node).out[0]);
  ValueId const dw = f.node(filter_node).out[0], dx = data_node >= 0 ? f.node(data_node).out[0] : -1;
  // Node numbers move as dead nodes go, values stay: find each node again by what it makes.
  f.replace(pool_node, forward);                           // outputs: pooled, winner
  f.replace(f.maker(dw), filter_offer, more);
  if (dx >= 0) f.replace(f.maker(dx), data_offer);
  return true;
}

// flatten(x), read by matrix products alone -> they read the images as they lie.
bool fuse_flatten(Fusion& f, NodeId n) {
  if (!f.op<Reshape>(n)) return false;
  ValueId const x = f.node(n).in[0], rows = f.node(n).out[0];
  auto const &from = f.value(x).type, &to = f.value(rows).type;
  if (from.shape.rank() != 4 || from.layout != Layout::nhwc || to.shape.rank() != 2 || from.shape[0] != to.shape[0] || f.kept(rows)) return false;
  std::vector<std::pair<ValueId, Fusion::Offer>> made;       // by what the product makes: node numbers move
  std::vector<Fusion::Offer> offers;
  std::vector<NodeId> replaced = {n};
  for (NodeId u : f.users(rows)) {
    auto const* gemm = f.op<GemmOp>(u);
    if (!gemm || gemm->image().which != GemmImage::none) return false;
    auto in = f.node(u).in;
    bool const left = in[0] == rows;
    if ((left ? gemm->trans_a() : gemm->trans_b()) || std::count(in.begin(), in.end(), rows) != 1 || in[left ? 0 : 1] != rows) return false;
    in[left ? 0 : 1] = x;
    GemmImage const image{left ? GemmImage::a : GemmImage::b, int(from.shape[1]), int(from.shape[2]), int(from.shape[3])};
    offers.push_back({std::make_shared<GemmOp>(gemm->with_image(image)), in});
    made.emplace_back(f.node(u).out[0], offers.back());
    replaced.push_back(u);
  }
  if (made.empty() || !f.pays(offers, replaced)) return false;
  for (auto const& [result, offer] : made) f.replace(f.maker(result), offer);
  return true;
}

// The gradient of flatten behind a data gradient -> that writes images.
bool fuse_flatten_gradient(Fusion& f, NodeId n) {
  if (!f.op<Reshape>(n)) return false;
  ValueId const rows = f.node(n).in[0];
  auto const &from = f.value(rows).type, &to = f.value(f.node(n).out[0]).type;
  if (to.shape.rank() != 4 || to.layout != Layout::nhwc || from.shape.rank() != 2 || from.shape[0] != to.shape[0] || f.only_user(rows) != n) return false;
  NodeId const product = f.maker(rows);
  auto const* gemm = f.op<GemmOp>(product);
  if (!gemm || gemm->store() != OnStore{} || gemm->image().which != GemmImage::none || gemm->parameter_gradient()) return false;
  GemmImage const image{GemmImage::y, int(to.shape[1]), int(to.shape[2]), int(to.shape[3])};
  Fusion::Offer const offer = f.offer_as(product, std::make_shared<GemmOp>(gemm->with_image(image)), f.node(product).in);
  if (!f.pays({offer}, {product, n})) return false;
  f.replace(n, offer);
  return true;
}

// conv(x) + skip or x W^T + b + skip -> a residual slot.
bool fuse_product_residual(Fusion& f, NodeId n) {
  auto const* add = is(f, n, F::add);
  if (!add || add->form.mask) return false;
  for (int swap = 0; swap < 2; ++swap) {
    ValueId const y = f.node(n).in[std::size_t(swap)], skip = f.node(n).in[std::size_t(1 - swap)];
    NodeId const product = f.maker(y);
    OnStore const* store = product < 0 ? nullptr : store_of(f, product);
    if (!store || f.node(product).direction != "fwd" || !only_bias(*store) || y == skip || f.only_user(y) != n) continue;
    if (add->form.act == Activation::leaky_relu) continue;
    OnStore with = *store;
    with.residual = true;
    with.act = add->form.act;
    Fusion::Offer offer = f.offer_as(product, with_store(f, product, with), f.node(product).in);
    offer.in.push_back(skip);
    if (!f.pays({offer}, {product, n})) continue;
    f.replace(n, offer);
    return true;
  }
  return false;
}

// act(conv(x)) or act(x W^T + b) -> the activation as a store slot.
bool fuse_product_activation(Fusion& f, NodeId n) {
  auto const* act = is(f, n, F::activation);
  if (!act || act->form.act == Activation::leaky_relu) return false;
  ValueId const y = f.node(n).in[0];
  NodeId const product = f.maker(y);
  OnStore const* store = product < 0 ? nullptr : store_of(f, product);
  if (!store || f.node(product).direction != "fwd" || !only_bias(*store) || f.only_user(y) != n) return false;
  OnStore with = *store;
  with.act = act->form.act;
  Fusion::Offer const offer = f.offer_as(product, with_store(f, product, with), f.node(product).in);
  if (!f.pays({offer}, {product, n})) return false;
  f.replace(n, offer);
  return true;
}

// y = conv(x), channel_sums(y, step) -> the convolution writes its own statistics.
bool fuse_conv_statistics(Fusion& f, NodeId n) {
  auto const* sums = f.op<ReduceOp>(n);
  if (!sums || sums->function != ReduceFunction::channel_sums) return false;
  ValueId const y = f.node(n).in[0], step = f.node(n).in[1];
  NodeId const product = f.maker(y);
  auto const* conv = f.op<ConvOp>(product);
  if (!conv || conv->direction() != Direction::fwd || !only_bias(conv->store())) return false;
  OnStore store = conv->store();
  store.stats = Stats::squares;
  Fusion::Offer offer{conv->with_store(store), f.node(product).in};
  offer.in.push_back(step);
  if (!f.pays({offer}, {product, n})) return false;
  f.replace(product, offer, {f.node(n).out[0]});
  return true;
}

// d = gradient of ReLU or ReLU6(data gradient [+ gradient of a skip], y), channel_dot(d, x) -> the data gradient masks its result and sums it.
bool fuse_data_gradient_statistics(Fusion& f, NodeId n) {
  auto const* gradient = is(f, n, F::activation_gradient);
  auto const* add = is(f, n, F::add);
  Mask const mask = gradient ? mask_of(gradient->form.act) : add && add->form.mask ? Mask::relu : Mask::none;
  if (mask == Mask::none) return false;
  ValueId const d = f.node(n).out[0];
  for (int swap : add ? last_of_a_sum(f, n) : std::vector<int>{0}) {
    ValueId const dx = f.node(n).in[std::size_t(swap)];
    NodeId const product = f.maker(dx);
    auto const* conv = f.op<ConvOp>(product);
    if (!conv || conv->direction() != Direction::bwd_data || conv->store() != OnStore{} || f.only_user(dx) != n) continue;
    OnStore store;
    store.residual = add != nullptr;
    store.mask = mask;
    store.stats = Stats::dot_other;
    // Where two batch norms read d, as at the end of a block that halves its image, the one behind the larger product has the longer way to go.
    std::vector<NodeId> dots;
    for (NodeId u : f.users(d))
      if (auto const* dot = f.op<ReduceOp>(u); dot && dot->function == ReduceFunction::channel_dot && !dot->mask && f.node(u).in[0] == d && f.node(u).in[1] != d) dots.push_back(u);
    auto const operations = [&](NodeId u) {
      NodeId const m = f.maker(f.node(u).in[1]);
      return f.op<ConvOp>(m) ? ConvProblem::parse(problem_of(f.graph, f.node(m))).operations() : 0.0;
    };
    std::stable_sort(dots.begin(), dots.end(), [&](NodeId a, NodeId b) { return operations(a) > operations(b); });
    for (NodeId u : dots) {
      Fusion::Offer offer = f.offer_as(product, conv->with_store(store), f.node(product).in);
      if (add) offer.in.push_back(f.node(n).in[std::size_t(1 - swap)]);
      offer.in.push_back(f.node(n).in[add ? 2 : 1]);
      offer.in.push_back(f.node(u).in[1]);
      offer.in.push_back(f.graph.step().id());
      if (!f.pays({offer}, {product, n, u})) break;
      f.replace(n, offer, {f.node(u).out[0]});
      return true;
    }
  }
  return false;
}

// r = act(scale x + shift), y = convolution of r; backwards dy = gradient of the batch norm behind y, the filter gradient of r and dy, and the data
// gradient of dy masked by r and summed with x -> the convolution scales x as it reads it, and both gradients are one launch that makes r and dy as it
// reads x, y and the gradient behind y. Neither r nor dy is ever written.
bool fuse_conv_between_norms(Fusion& f, NodeId n) {
  auto const* conv = f.op<ConvOp>(n);
  if (!conv || conv->direction() != Direction::fwd || conv->load_x() != OnLoad{}) return false;
  auto const in = f.node(n).in;
  ValueId const r = in[0], y = f.node(n).out[0];
  NodeId const a = f.maker(r);
  auto const* affine = is(f, a, F::affine);
  if (!affine || affine->form.residual || affine->form.mask || mask_of(affine->form.act) == Mask::none || f.kept(r)) return false;
  ValueId const x = f.node(a).in[0], vectors = f.node(a).in[1];
  NodeId filter = -1, data = -1;
  for (NodeId u : f.users(r)) {
    auto const* c = f.op<ConvOp>(u);
    if (u == n) continue;
    if (c && c->direction() == Direction::bwd_filter && c->store() == OnStore{} && c->load_dy() == OnLoad{}) filter = u;
    else if (c && c->direction() == Direction::bwd_data) data = u;
    else return false;
  }
  if (filter < 0 || data < 0 || f.users(r).size() != 3) return false;
  OnStore masked;
  masked.mask = mask_of(affine->form.act), masked.stats = Stats::dot_other;
  auto const of_filter = f.node(filter).in, of_data = f.node(data).in;   // x, dy; w, dy, mask, other, step
  ValueId const dy = of_data[1];
  if (f.op<ConvOp>(data)->store() != masked || f.op<ConvOp>(data)->load_dy() != OnLoad{} || of_data[0] != in[1] || of_data[2] != r || of_data[3] != x || of_filter[1] != dy ||
      f.users(dy).size() != 2 || f.kept(dy))
    return false;
  NodeId const gradient = f.maker(dy);                                  // g, y, coefficients, step
  auto const* two = is(f, gradient, F::two_operand);
  if (!two || two->form.act != Activation::none || two->form.mask || f.node(gradient).in[1] != y) return false;

  OnLoad load_x, load_dy;
  load_x.affine = Affine::scale_shift, load_x.act = affine->form.act, load_dy.affine = Affine::two_operand;
  Fusion::Offer forward = f.offer_as(n, conv->with_load_x(load_x), in);
  forward.in[0] = x;
  forward.in.insert(forward.in.begin() + 2, vectors);
  OnStore store;
  store.mask = Mask::of_x, store.stats = Stats::dot_x;
  auto const& of_gradient = f.node(gradient).in;
  Fusion::Offer both = f.offer_as(data, ConvOp(Direction::bwd, conv->options()).with_load_x(load_x)->with_load_dy(load_dy)->with_store(store),
                                  {x, in[1], of_gradient[0], vectors, of_gradient[2], y, of_data[4]});
  both.direction = falconet::name(Direction::bwd);
  if (!f.pays({forward, both}, {a, n, gradient, filter, data})) return false;
  f.replace(data, both, {f.node(filter).out[0]});
  f.replace(f.maker(y), forward);
  return true;
}

// r = act(scale x + shift); a data gradient masked by r and summed with x -> the mask is derived from x, so that r is not read here.
bool fuse_mask_of_norm_input(Fusion& f, NodeId n) {
  auto const* data = f.op<ConvOp>(n);
  if (!data || data->direction() != Direction::bwd_data || data->load_x() != OnLoad{}) return false;
  OnStore store = data->store();
  if ((store.mask != Mask::relu && store.mask != Mask::relu6) || store.stats != Stats::dot_other || store.residual) return false;
  auto const in = f.node(n).in;                                         // w, dy, mask, other, step
  NodeId const a = f.maker(in[2]);
  auto const* affine = is(f, a, F::affine);
  if (!affine || affine->form.residual || affine->form.mask || mask_of(affine->form.act) != store.mask || f.node(a).in[0] != in[3]) return false;
  OnLoad load_x;
  load_x.affine = Affine::scale_shift, load_x.act = affine->form.act;
  store.mask = Mask::of_x, store.stats = Stats::dot_x;
  Fusion::Offer const offer = f.offer_as(n, data->with_load_x(load_x)->with_store(store), {in[0], in[1], f.node(a).in[1], in[3], in[4]});
  if (!f.pays({offer}, {n})) return false;
  f.replace(n, offer);
  return true;
}

// m = relu(normalise(x) + residual); a data gradient masked by m and summed with another tensor -> normalise writes the mask as bits, too, and they are read.
bool fuse_mask_bits(Fusion& f, NodeId n) {
  auto const* data = f.op<ConvOp>(n);
  if (!data || data->direction() != Direction::bwd_data || data->store().mask != Mask::relu || data->store().stats != Stats::dot_other) return false;
  std::size_t const mask = data->store().residual ? 3 : 2;              // w, dy, residual, mask, other, step
  ValueId const m = f.node(n).in[mask];
  NodeId const b = f.maker(m);
  auto const* norm = f.op<BatchNormOp>(b);
  if (!norm || norm->function != BatchNormFunction::normalise || !norm->slots.residual || norm->slots.act != Activation::relu || f.node(b).out[0] != m ||
      f.value(m).type.dtype != DType::bf16 || f.value(m).type.layout != Layout::nhwc || f.value(m).type.shape[1] % 8)
    return false;
  auto slots = norm->slots;
  slots.bits = true;
  Fusion::Offer const with_bits = f.offer_as(b, std::make_shared<BatchNormOp>(norm->function, norm->per_sample, norm->eps, norm->momentum, slots), f.node(b).in);
  OnStore store = data->store();
  store.mask = Mask::bits;
  Fusion::Offer offer = f.offer_as(n, data->with_store(store), f.node(n).in);
  if (norm->slots.bits) {                                               // another data gradient reads them already
    offer.in[mask] = f.node(b).out.back();
    if (!f.pays({offer}, {n})) return false;
  } else {
    Value bits;                                                         // stands for what does not exist yet
    bits.type = {DType::u8, f.value(m).type.shape, Layout::nhwc};
    bits.type.shape[1] /= 8;
    f.graph.values.push_back(bits);
    offer.in[mask] = ValueId(f.graph.values.size() - 1);
    bool const pays = f.pays({with_bits, offer}, {b, n});
    f.graph.values.pop_back();
    if (!pays) return false;
    f.replace(b, with_bits);
    offer.in[mask] = f.node(b).out.back();
  }
  f.replace(n, offer);
  return true;
}

// dy = gradient of the batch norm behind y, read by the filter gradient and the data gradient [+ gradient of a skip] alone -> both gradients are one launch that
// makes dy as it reads the gradient behind y, and y. channel_dot(dx, o), batch norm's sums in front, joins them.
bool fuse_conv_before_norm(Fusion& f, NodeId n) {
  auto const* data = f.op<ConvOp>(n);
  if (!data || data->direction() != Direction::bwd_data || data->load_dy() != OnLoad{}) return false;
  OnStore store = data->store();
  store.residual = false;
  if (store != OnStore{}) return false;
  auto const in = f.node(n).in;                                         // w, dy, residual
  ValueId const dy = in[1], dx = f.node(n).out[0];
  NodeId const gradient = f.maker(dy);                                  // g, y, coefficients, step
  auto const* two = is(f, gradient, F::two_operand);
  if (!two || two->form.act != Activation::none || two->form.mask || f.users(dy).size() != 2 || f.kept(dy)) return false;
  NodeId const filter = f.users(dy)[0] == n ? f.users(dy)[1] : f.users(dy)[0];
  auto const* c = f.op<ConvOp>(filter);
  if (!c || c->direction() != Direction::bwd_filter || c->store() != OnStore{} || c->load_dy() != OnLoad{} || f.node(filter).in[1] != dy) return false;
  auto const& of_gradient = f.node(gradient).in;
  store = data->store();
  OnLoad load_dy;
  load_dy.affine = Affine::two_operand;
  NodeId sums = -1;
  for (NodeId u : f.users(dx))
    if (auto const* dot = f.op<ReduceOp>(u); dot && dot->function == ReduceFunction::channel_dot && !dot->mask && f.node(u).in[0] == dx && f.node(u).in[1] != dx) sums = u;
  for (bool with_sums : {true, false}) {
    if (with_sums && sums < 0) continue;
    store.stats = with_sums ? Stats::dot_other : Stats::none;
    Fusion::Offer both = f.offer_as(n, ConvOp(Direction::bwd, data->options()).with_load_dy(load_dy)->with_store(store),
                                    {f.node(filter).in[0], in[0], of_gradient[0], of_gradient[2], of_gradient[1]});
    if (store.residual) both.in.push_back(in[2]);
    if (with_sums) both.in.push_back(f.node(sums).in[1]);
    both.in.push_back(of_gradient[3]);
    both.direction = falconet::name(Direction::bwd);
    std::vector<NodeId> replaced = {n, filter, gradient};
    std::vector<ValueId> more;
    if (with_sums) replaced.push_back(sums), more.push_back(f.node(sums).out[0]);
    more.push_back(f.node(filter).out[0]);
    if (!f.pays({both}, replaced)) continue;
    f.replace(n, both, more);
    return true;
  }
  return false;
}

// dx = data gradient [+ gradient of a skip], channel_dot(dx, o), the sums of a batch norm without activation -> the data gradient sums its result.
bool fuse_data_gradient_sums(Fusion& f, NodeId n) {
  auto const* conv = f.op<ConvOp>(n);
  if (!conv || conv->direction() != Direction::bwd_data) return false;
  OnStore store = conv->store();
  store.residual = false;
  if (store != OnStore{}) return false;
  ValueId const dx = f.node(n).out[0];
  for (NodeId u : f.users(dx)) {
    auto const* dot = f.op<ReduceOp>(u);
    if (!dot || dot->function != ReduceFunction::channel_dot || dot->mask || f.node(u).in[0] != dx || f.node(u).in[1] == dx) continue;
    store = conv->store();
    store.stats = Stats::dot_other;
    Fusion::Offer offer = f.offer_as(n, conv->with_store(store), f.node(n).in);
    offer.in.push_back(f.node(u).in[1]);
    offer.in.push_back(f.graph.step().id());
    if (!f.pays({offer}, {n, u})) return false;
    f.replace(n, offer, {f.node(u).out[0]});
    return true;
  }
  return false;
}

// dx = data gradient; dx + gradient of a skip -> a residual slot.
bool fuse_data_gradient_residual(Fusion& f, NodeId n) {
  auto const* add = is(f, n, F::add);
  if (!add || add->form.act != Activation::none) return false;
  for (int swap : last_of_a_sum(f, n)) {
    ValueId const dx = f.node(n).in[std::size_t(swap)], skip = f.node(n).in[std::size_t(1 - swap)];
    NodeId const product = f.maker(dx);
    if (product < 0 || !data_gradient(f, product) || *store_of(f, product) != OnStore{} || dx == skip || f.only_user(dx) != n) continue;
    OnStore store;
    store.residual = true;
    Fusion::Offer offer = f.offer_as(product, nullptr, f.node(product).in);
    offer.in.push_back(skip);
    if (add->form.mask) {
      store.mask = Mask::relu;
      offer.in.push_back(f.node(n).in[2]);
    }
    offer.op = with_store(f, product, store);
    if (!f.pays({offer}, {product, n})) continue;
    f.replace(n, offer);
    return true;
  }
  return false;
}

// dx = data gradient; gradient of ReLU(dx, y), of a convolution also of ReLU6 -> a mask slot.
bool fuse_data_gradient_mask(Fusion& f, NodeId n) {
  auto const* gradient = is(f, n, F::activation_gradient);
  if (!gradient || mask_of(gradient->form.act) == Mask::none) return false;
  ValueId const dx = f.node(n).in[0], y = f.node(n).in[1];
  NodeId const product = f.maker(dx);
  if (product < 0 || !data_gradient(f, product) || f.only_user(dx) != n) return false;
  if (gradient->form.act == Activation::relu6 && !f.op<ConvOp>(product)) return false;
  OnStore store = *store_of(f, product);
  if (store.mask != Mask::none || store.act != Activation::none || store.stats != Stats::none) return false;
  store.mask = mask_of(gradient->form.act);
  Fusion::Offer offer = f.offer_as(product, with_store(f, product, store), f.node(product).in);
  offer.in.push_back(y);
  if (!f.pays({offer}, {product, n})) return false;
  f.replace(n, offer);
  return true;
}

// dw = filter gradient(x, dy), db = channel_sum(dy) -> one launch.
bool fuse_filter_gradient_bias(Fusion& f, NodeId n) {
  auto const* filter = f.op<ConvOp>(n);
  if (!filter || filter->direction() != Direction::bwd_filter || filter->store() != OnStore{}) return false;
  for (NodeId u : f.users(f.node(n).in[1])) {
    auto const* sum = f.op<ReduceOp>(u);
    if (!sum || sum->function != ReduceFunction::channel_sum) continue;
    OnStore store;
    store.bias = true;
    Fusion::Offer offer{filter->with_store(store), f.node(n).in};
    if (!f.pays({offer}, {n, u})) return false;
    f.replace(n, offer, {f.node(u).out[0]});
    return true;
  }
  return false;
}

// The first convert(w) of a weight and all later ones that change neither shape nor layout -> one launch before the first.
bool fuse_conversions(Fusion& f, NodeId n) {
  auto const weight = [&](NodeId m) {
    auto const* op = f.op<Convert>(m);
    if (!op || op->dtype != DType::bf16) return false;
    auto const &from = f.value(f.node(m).in[0]), &to = f.value(f.node(m).out[0]);
    return from.from < 0 && from.role == Role::parameter && from.type.dtype == DType::f32 && from.type.layout == to.type.layout;
  };
  if (!weight(n)) return false;
  Fusion::Offer offer{std::make_shared<ConvertEach>(DType::bf16), {}, "weights", "fwd", f.node(n).at};
  std::vector<NodeId> replaced;
  std::vector<ValueId> more;
  for (NodeId m = n; m < f.count(); ++m)
    if (weight(m)) {
      offer.in.push_back(f.node(m).in[0]);
      replaced.push_back(m);
      if (m != n) more.push_back(f.node(m).out[0]);
    }
  if (replaced.size() < 2 || !f.pays({offer}, replaced)) return false;
  f.replace(n, offer, more);
  return true;
}

// conv(x, convert(w)): an algorithm that reads the f32 filter and rounds it as it does so saves the launch.
bool fuse_filter_conversion(Fusion& f, NodeId n) {
  auto const* conv = f.op<ConvOp>(n);
  if (!conv || conv->direction() == Direction::bwd_filter) return false;
  std::size_t const filter = conv->direction() == Direction::bwd_data ? 0 : 1;
  NodeId const copy = f.maker(f.node(n).in[filter]);
  if (!f.op<Convert>(copy)) return false;
  ValueId const master = f.node(copy).in[0];
  if (f.inference() && f.maker(master) < 0) return false;      // converted once, not in each step
  auto const &from = f.value(master).type, &to = f.value(f.node(n).in[filter]).type;
  if (from.dtype != DType::f32 || to.dtype != DType::bf16 || from.layout != to.layout) return false;
  Fusion::Offer offer = f.offer_as(n, f.node(n).op, f.node(n).in);
  offer.in[filter] = master;
  if (!f.pays({offer}, {n, copy})) return false;
  f.replace(n, offer);
  return true;
}

}  // namespace falconet
