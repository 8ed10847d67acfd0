// Fusion rules over elementwise neighbours: losses, batch norm, activations.
#include <algorithm>

#include "falconet/ops/batch_norm/op.h"
#include "falconet/ops/conv/op.h"
#include "falconet/ops/conv_norm/op.h"
#include "falconet/ops/elementwise/op.h"
#include "falconet/ops/gemm/op.h"
#include "falconet/ops/loss/op.h"
#include "falconet/ops/pool/op.h"
#include "falconet/ops/reduce/op.h"
#include "falconet/plan/passes/fusion.h"

namespace falconet {
namespace {

using F = ElementwiseFunction;

ElementwiseOp const* is(Fusion const& f, NodeId n, F function) { return n < 0 ? nullptr : elementwise(f.node(n), function); }
bool plain(ElementwiseOp const* op) { return op && op->form.act == Activation::none && !op->form.residual && !op->form.mask; }
std::shared_ptr<Op const> make(ElementwiseOp::Form form) { return std::make_shared<ElementwiseOp>(form); }

}  // namespace

// loss(x, target, step) ... gradient(x, target, step, fill 1) -> both at once.
bool fuse_loss_with_gradient(Fusion& f, NodeId n) {
  auto const* loss = f.op<LossOp>(n);
  if (!loss) return false;
  for (NodeId user : f.users(f.node(n).in[0])) {
    auto const* gradient = f.op<LossGradient>(user);
    if (!gradient || gradient->kind != loss->kind || !std::equal(f.node(n).in.begin(), f.node(n).in.end(), f.node(user).in.begin())) continue;
    auto const* one = is(f, f.maker(f.node(user).in.back()), F::fill);
    if (!one) continue;
    Fusion::Offer both{std::make_shared<LossWithGradient>(loss->kind, loss->label_smoothing, one->form.alpha), f.node(n).in};
    if (!f.pays({both}, {n, user})) return false;
    f.replace(n, both, {f.node(user).out[0]});
    return true;
  }
  return false;
}

// cross-entropy of x W^T + b with its gradient, and that one's way back through W -> one launch; the gradients of W and b read dx as before.
bool fuse_loss_product(Fusion& f, NodeId n) {
  auto const* loss = f.op<LossWithGradient>(n);
  if (!loss || loss->kind != LossKind::cross_entropy) return false;
  auto const in = f.node(n).in;
  NodeId const product = f.maker(in[0]);
  auto const* gemm = f.op<GemmOp>(product);
  OnStore only_bias;
  only_bias.bias = gemm && gemm->store().bias;
  if (!gemm || gemm->trans_a() || !gemm->trans_b() || gemm->store() != only_bias || gemm->image().which != GemmImage::none || f.only_user(in[0]) != n) return false;
  ValueId const features = f.node(product).in[0], weight = f.node(product).in[1], dx = f.node(n).out[2];
  for (NodeId u : f.users(dx)) {
    auto const* back = f.op<GemmOp>(u);
    if (!back || back->trans_a() || back->trans_b() || back->image().which != GemmImage::none || f.node(u).in[0] != dx || f.node(u).in[1] != weight) continue;
    OnStore masked;
    masked.mask = Mask::relu;
    bool const mask = back->store() == masked && f.node(u).in[2] == features;
    if (!mask && back->store() != OnStore{}) continue;
    Fusion::Offer offer{std::make_shared<LossOfProduct>(loss->label_smoothing, loss->dloss, only_bias.bias, mask), {features, weight}};
    if (only_bias.bias) offer.in.push_back(f.node(product).in[2]);
    offer.in.insert(offer.in.end(), {in[1], in[2]});
    if (!f.pays({offer}, {product, n, u})) return false;
    f.replace(n, offer, {f.node(u).out[0]});
    return true;
  }
  return false;
}

// add(affine_scale(dy, scale_shift), sums_gradient(x, dsums, step)) -> two_operand(dy, x, coefficients, step).
bool fuse_two_operand(Fusion& f, NodeId n) {
  if (!plain(is(f, n, F::add))) return false;
  for (int swap = 0; swap < 2; ++swap) {
    ValueId const scaled = f.node(n).in[std::size_t(swap)], sums = f.node(n).in[std::size_t(1 - swap)];
    NodeId const a = f.maker(scaled), b = f.maker(sums);
    if (!plain(is(f, a, F::affine_scale)) || !is(f, b, F::sums_gradient) || f.only_user(scaled) != n || f.only_user(sums) != n) continue;
    auto const dy = f.node(a).in[0], scale_shift = f.node(a).in[1], x = f.node(b).in[0], dsums = f.node(b).in[1], step = f.node(b).in[2];
    // The vector operation is built on a scratch graph, so that only its Op is taken.
    Graph scratch;
    Var ss = scratch.input("scale_shift", f.value(scale_shift).type), ds = scratch.input("dsums", f.value(dsums).type);
    two_operand_coefficients(ss, ds);
    ValueId const coefficients = f.insert(n, {scratch.nodes.front().op, {scale_shift, dsums}});
    ElementwiseOp::Form form;
    form.function = F::two_operand;
    f.replace(n + 1, {make(form), {dy, x, coefficients, step}});
    return true;
  }
  return false;
}

// gradient of the coefficients -> dsums, read only by two_operand coefficients -> both at once.
bool fuse_batch_norm_gradient(Fusion& f, NodeId n) {
  auto const* two = f.op<BatchNormOp>(n);
  if (!two || two->function != BatchNormFunction::two_operand) return false;
  ValueId const dsums = f.node(n).in[1];
  NodeId const g = f.maker(dsums);
  auto const* gradient = f.op<BatchNormOp>(g);
  if (!gradient || gradient->function != BatchNormFunction::gradient || f.only_user(dsums) != n || f.node(g).out[0] != dsums) return false;
  auto both = std::make_shared<BatchNormOp>(BatchNormFunction::gradient_two_operand, gradient->per_sample, gradient->eps, gradient->momentum);
  Fusion::Offer const offer = f.offer_as(g, std::move(both), f.node(g).in);
  if (!f.pays({offer}, {g, n})) return false;
  f.replace(n, offer, {f.node(g).out[1], f.node(g).out[2]});
  return true;
}

// affine(x, coefficients(..)) and two_operand(dy, x, gradient_two_operand(..)): the launch over the image computes its vectors itself. Who else reads
// affine's gets them from it; those of two_operand nobody else may read.
bool fuse_normalise(Fusion& f, NodeId n) {
  auto const *affine = is(f, n, F::affine), *two = is(f, n, F::two_operand);
  if (!affine && !two) return false;
  auto const in = f.node(n).in;
  ValueId const vectors = in[affine ? 1 : 2];
  NodeId const b = f.maker(vectors);
  auto const* norm = f.op<BatchNormOp>(b);
  if (!norm || norm->function != (affine ? BatchNormFunction::coefficients : BatchNormFunction::gradient_two_operand) ||
      f.kept(vectors) || f.users(vectors).front() != n || (f.users(vectors).size() > 1 && (!affine || affine->form.residual)))
    return false;
  BatchNormOp::Slots slots;
  slots.vectors = f.users(vectors).size() > 1;
  if (affine) {
    if (affine->form.act != Activation::none && affine->form.act != Activation::relu && affine->form.act != Activation::relu6) return false;
    slots.act = affine->form.act, slots.residual = affine->form.residual;
  } else {
    slots.mask = two->form.mask;
  }
  Fusion::Offer offer = f.offer_as(n, nullptr, {in[0]});
  if (two) offer.in.push_back(in[1]);
  offer.in.insert(offer.in.end(), f.node(b).in.begin(), f.node(b).in.end());
  if (slots.residual) offer.in.push_back(in[2]);
  if (slots.mask) offer.in.push_back(in[4]);
  offer.op = std::make_shared<BatchNormOp>(affine ? BatchNormFunction::normalise : BatchNormFunction::normalise_gradient, norm->per_sample,
                                           norm->eps, norm->momentum, slots);
  if (!f.pays({offer}, {b, n})) return false;
  std::vector<ValueId> more = {f.node(b).out[1], f.node(b).out[2]};
  if (slots.vectors) more.push_back(vectors);
  f.replace(n, offer, more);
  return true;
}

// Two normalise_gradients of one dy, as at the end of a residual block that halves its image -> one launch in the place of the first; the sums of the
// second, channel_dot(dy, its x), move before it.
bool fuse_norm_gradient_pair(Fusion& f, NodeId n) {
  auto const gradient = [&](NodeId m) {
    auto const* norm = f.op<BatchNormOp>(m);
    return norm && norm->function == BatchNormFunction::normalise_gradient && !norm->slots.mask && !norm->slots.pair ? norm : nullptr;
  };
  auto const* first = gradient(n);
  if (!first) return false;
  auto const in = f.node(n).in;                              // dy, x, dscale_shift, sums, gamma, step
  for (NodeId m : f.users(in[0])) {
    auto const* second = m > n ? gradient(m) : nullptr;
    if (!second || f.node(m).in[0] != in[0] || second->eps != first->eps || second->momentum != first->momentum || second->per_sample != first->per_sample) continue;
    auto const its = f.node(m).in;
    NodeId const dot = f.maker(its[2]);
    auto const* sums = f.op<ReduceOp>(dot);
    bool const moves = dot > n;
    if (moves && (!sums || sums->function != ReduceFunction::channel_dot || f.only_user(its[2]) != m || f.maker(f.node(dot).in[0]) >= n || f.maker(f.node(dot).in[1]) >= n)) continue;
    if (f.maker(its[1]) >= n || f.maker(its[3]) >= n) continue;
    auto slots = first->slots;
    slots.pair = true;
    Fusion::Offer offer = f.offer_as(n, std::make_shared<BatchNormOp>(first->function, first->per_sample, first->eps, first->momentum, slots), in);
    offer.in.insert(offer.in.end(), {its[1], its[2], its[3], its[4]});
    if (!f.pays({offer}, {n, m})) return false;
    std::vector<ValueId> const more = f.node(m).out;
    ValueId const dx = f.node(n).out[0];
    if (moves) offer.in[7] = f.insert(n, f.offer_as(dot, f.node(dot).op, f.node(dot).in));
    f.replace(f.maker(dx), offer, more);
    return true;
  }
  return false;
}

// max-pool of act(scale x + shift), which nobody else reads -> the pooling does that as it reads x: the map between the two is never written.
bool fuse_pool_of_norm(Fusion& f, NodeId n) {
  auto const* pool = f.op<Pool>(n);
  if (!pool || pool->kind != PoolKind::max || pool->load_x != OnLoad{}) return false;
  ValueId const map = f.node(n).in[0];
  NodeId const a = f.maker(map);
  auto const* affine = is(f, a, F::affine);
  if (!affine || affine->form.residual || affine->form.mask || (affine->form.act != Activation::none && affine->form.act != Activation::relu) || f.only_user(map) != n) return false;
  OnLoad load;
  load.affine = Affine::scale_shift, load.act = affine->form.act;
  Fusion::Offer const offer = f.offer_as(n, std::make_shared<Pool>(pool->kind, pool->options, pool->winner, load), f.node(a).in);
  if (!f.pays({offer}, {a, n})) return false;
  f.replace(n, offer);
  return true;
}

// d = max-pool's gradient, read by channel_dot(d, x) and two_operand(d, x, ..), batch norm's, alone -> both make it as they read dy and the winners: d is never
// written.
bool fuse_pool_gradient_of_norm(Fusion& f, NodeId n) {
  auto const* pool = f.op<PoolGradient>(n);
  if (!pool || pool->kind != PoolKind::max || pool->result != PoolResult::plain) return false;
  ValueId const d = f.node(n).out[0];
  auto const users = f.users(d);
  if (f.kept(d) || users.size() != 2) return false;
  NodeId dot = -1, apply = -1;
  for (NodeId u : users) {
    auto const* sums = f.op<ReduceOp>(u);
    if (sums && sums->function == ReduceFunction::channel_dot && !sums->mask) dot = u;
    else if (plain(is(f, u, F::two_operand))) apply = u;
  }
  if (dot < 0 || apply < 0 || f.node(dot).in[0] != d || f.node(apply).in[0] != d || f.node(dot).in[1] != f.node(apply).in[1] || f.node(dot).in[1] == d) return false;
  ValueId const x = f.node(dot).in[1], sums = f.node(dot).out[0], dx = f.node(apply).out[0];
  auto const with = [&](PoolResult result) { return std::make_shared<PoolGradient>(pool->kind, pool->options, pool->h, pool->w, result); };
  ValueId const dy = f.node(n).in[0], winner = f.node(n).in[1];
  Fusion::Offer const summed = f.offer_as(dot, with(PoolResult::sums), {dy, winner, x});
  Fusion::Offer const applied = f.offer_as(apply, with(PoolResult::two_operand), {dy, winner, x, f.node(apply).in[2], f.node(apply).in[3]});
  if (!f.pays({summed, applied}, {n, dot, apply})) return false;
  f.replace(f.maker(dx), applied);                           // node numbers move as dead nodes go, values stay
  f.replace(f.maker(sums), summed);
  return true;
}

// normalise(x) with a residual that is normalise(y) and is read by nobody else, as at the end of a residual block that halves its image: both in one
// launch, so that the residual is neither written nor read again.
bool fuse_residual_norm(Fusion& f, NodeId n) {
  auto const* outer = f.op<BatchNormOp>(n);
  if (!outer || outer->function != BatchNormFunction::normalise || !outer->slots.residual || outer->slots.residual_norm) return false;
  auto const& in = f.node(n).in;
  NodeId const m = f.maker(in[7]);
  auto const* inner = f.op<BatchNormOp>(m);
  if (!inner || inner->function != BatchNormFunction::normalise || inner->slots != BatchNormOp::Slots{} || f.only_user(in[7]) != n ||
      f.node(m).out[0] != in[7] || inner->eps != outer->eps || inner->momentum != outer->momentum || inner->per_sample != outer->per_sample)
    return false;
  auto slots = outer->slots;
  slots.residual_norm = true;
  auto const& its = f.node(m).in;
  Fusion::Offer offer = f.offer_as(n, std::make_shared<BatchNormOp>(BatchNormFunction::normalise, outer->per_sample, outer->eps, outer->momentum, slots), in);
  offer.in[7] = its[0];
  offer.in.insert(offer.in.end(), its.begin() + 1, its.begin() + 6);
  if (!f.pays({offer}, {m, n})) return false;
  f.replace(n, offer, {f.node(m).out[1], f.node(m).out[2]});
  return true;
}

// Whether the node at n reads v before all others do: what makes v may then be done there.
static bool first_reader(Fusion const& f, ValueId v, NodeId n) {
  return !f.kept(v) && std::all_of(f.users(v).begin(), f.users(v).end(), [n](NodeId u) { return u >= n; });
}

// normalise(y, sums) of a convolution that sums its result -> the convolution normalises, too. y and its sums are written for the backward pass.
bool fuse_conv_normalise(Fusion& f, NodeId n) {
  auto const* norm = f.op<BatchNormOp>(n);
  if (!norm || norm->function != BatchNormFunction::normalise) return false;
  BatchNormOp::Slots carried;                          // of its slots what a ConvNormProblem has words for
  carried.act = norm->slots.act, carried.residual = norm->slots.residual;
  if (norm->slots != carried) return false;
  auto const& in = f.node(n).in;
  NodeId const m = f.maker(in[0]);
  auto const* conv = f.op<ConvOp>(m);
  if (!conv || conv->direction() != Direction::fwd || conv->store().stats != Stats::squares || f.maker(in[1]) != m || f.node(m).in.back() != in[6] ||
      f.value(in[0]).output != 0 || f.value(in[1]).output != 1 || !first_reader(f, in[0], n) || !first_reader(f, in[1], n))
    return false;
  ConvNormProblem form;
  form.eps = norm->eps, form.momentum = norm->momentum, form.act = norm->slots.act, form.skip = norm->slots.residual;
  Fusion::Offer offer = f.offer_as(m, std::make_shared<ConvNormOp>(*conv, form), f.node(m).in);
  offer.in.insert(offer.in.end(), in.begin() + 2, in.begin() + 6);
  if (form.skip) offer.in.push_back(in[7]);
  if (!f.pays({offer}, {m, n})) return false;
  f.replace(n, offer, {in[0], in[1]});
  return true;
}

// normalise_gradient(d, x) of a data gradient that sums d with x -> the data gradient makes batch norm's, too, and writes d if others read it.
bool fuse_data_gradient_normalise(Fusion& f, NodeId n) {
  auto const* norm = f.op<BatchNormOp>(n);
  if (!norm || norm->function != BatchNormFunction::normalise_gradient || norm->slots != BatchNormOp::Slots{}) return false;
  auto const in = f.node(n).in;                        // d, x, dscale_shift, sums, gamma, step
  NodeId const m = f.maker(in[0]);
  auto const* conv = f.op<ConvOp>(m);
  if (!conv || conv->direction() != Direction::bwd_data || conv->store().stats != Stats::dot_other || f.maker(in[2]) != m || f.only_user(in[2]) != n) return false;
  auto const& of = f.node(m).in;
  if (of.back() != in[5] || of[of.size() - 2] != in[1] || f.value(in[0]).output != 0 || f.value(in[2]).output != 1) return false;
  if (std::any_of(in.begin(), in.end(), [&](ValueId v) { return f.maker(v) > m; })) return false;
  ConvNormProblem form;
  form.eps = norm->eps, form.momentum = norm->momentum, form.kept = f.only_user(in[0]) != n;
  Fusion::Offer offer = f.offer_as(m, std::make_shared<ConvNormOp>(*conv, form), of);
  offer.in.insert(offer.in.end(), {in[3], in[4]});
  if (!f.pays({offer}, {m, n})) return false;
  std::vector<ValueId> more;
  if (form.kept) more.push_back(in[0]);
  f.move_up(n, m + 1);                                 // ahead of all others that read d
  f.replace(m + 1, offer, more);
  return true;
}

// ReLU's gradient(max-pool's gradient(dy, winner), y), y the pool's input -> max-pool's gradient(ReLU's gradient(dy, pooled), winner): what
// reaches a pixel comes from windows that it won, and their results equal it. Smaller, and y need not be kept. Where the ReLU follows a
// product, fuse_conv_activation_pool does more, if its offer is taken.
static bool move_before_pool(Fusion& f, NodeId n, bool of_product) {
  auto const* gradient = is(f, n, F::activation_gradient);
  if (!gradient || gradient->form.act != Activation::relu) return false;
  ValueId const dmap = f.node(n).in[0], y = f.node(n).in[1];
  NodeId const pool_gradient = f.maker(dmap), act = f.maker(y);
  auto const* op = f.op<PoolGradient>(pool_gradient);
  if (!op || op->kind != PoolKind::max || f.only_user(dmap) != n || !is(f, act, F::activation)) return false;
  NodeId const source = f.maker(f.node(act).in[0]);
  if (bool(f.op<ConvOp>(source) || f.op<GemmOp>(source)) != of_product) return false;
  ValueId const dy = f.node(pool_gradient).in[0], winner = f.node(pool_gradient).in[1];
  NodeId const pool = f.maker(winner);
  if (!f.op<Pool>(pool) || f.node(pool).in[0] != y) return false;
  Fusion::Offer offer = f.offer_as(pool_gradient, f.node(pool_gradient).op, {});
  offer.in = {f.insert(n, f.offer_as(n, f.node(n).op, {dy, f.node(pool).out[0]})), winner};
  f.replace(n + 1, offer);
  return true;
}
bool move_relu_gradient_before_pool(Fusion& f, NodeId n) { return move_before_pool(f, n, false); }
bool move_product_relu_gradient_before_pool(Fusion& f, NodeId n) { return move_before_pool(f, n, true); }

// In inference nobody asks which element of a max-pool's window won.
bool drop_unread_winner(Fusion& f, NodeId n) {
  auto const* pool = f.op<Pool>(n);
  if (!pool || !pool->winner || pool->load_x != OnLoad{} || !f.users(f.node(n).out[1]).empty() || f.kept(f.node(n).out[1])) return false;
  Fusion::Offer const offer = f.offer_as(n, std::make_shared<Pool>(pool->kind, pool->options, false), f.node(n).in);
  if (!f.pays({offer}, {n})) return false;
  f.replace(n, offer);
  return true;
}

// add(affine(x), skip) -> affine with a residual.
bool fuse_affine_residual(Fusion& f, NodeId n) {
  auto const* add = is(f, n, F::add);
  if (!plain(add)) return false;
  for (int swap = 0; swap < 2; ++swap) {
    ValueId const y = f.node(n).in[std::size_t(swap)], skip = f.node(n).in[std::size_t(1 - swap)];
    NodeId const a = f.maker(y);
    auto const* affine = is(f, a, F::affine);
    if (!plain(affine) || y == skip || f.only_user(y) != n) continue;
    auto form = affine->form;
    form.residual = true;
    Fusion::Offer offer = f.offer_as(a, make(form), f.node(a).in);
    offer.in.push_back(skip);
    if (!f.pays({offer}, {a, n})) continue;
    f.replace(n, offer);
    return true;
  }
  return false;
}

// affine or add, then an activation (or, of add, the gradient of ReLU) -> one launch.
bool fuse_elementwise_activation(Fusion& f, NodeId n) {
  auto const* outer = is(f, n, F::activation);
  auto const* gradient = is(f, n, F::activation_gradient);
  if (!outer && !(gradient && gradient->form.act == Activation::relu)) return false;
  ValueId const y = f.node(n).in[0];
  NodeId const a = f.maker(y);
  auto const* affine = is(f, a, F::affine);
  auto const* add = is(f, a, F::add);
  auto const* inner = affine ? affine : add;
  if (!inner || inner->form.act != Activation::none || inner->form.mask || f.only_user(y) != n) return false;
  if (gradient && !add) return false;
  auto form = inner->form;
  Fusion::Offer offer = f.offer_as(a, nullptr, f.node(a).in);
  if (outer) {
    form.act = outer->form.act;
    form.alpha = outer->form.alpha;
  } else {
    form.mask = true;
    offer.in.push_back(f.node(n).in[1]);
  }
  offer.op = make(form);
  if (!f.pays({offer}, {a, n})) return false;
  f.replace(n, offer);
  return true;
}

// d = ReLU's gradient(dy, y), read only by channel_dot(d, x) and two_operand(d, x, ..): both take y as a mask instead.
bool fuse_relu_gradient_masks(Fusion& f, NodeId n) {
  auto const* gradient = is(f, n, F::activation_gradient);
  if (!gradient || gradient->form.act != Activation::relu) return false;
  ValueId const d = f.node(n).out[0], dy = f.node(n).in[0], y = f.node(n).in[1];
  if (f.kept(d) || f.users(d).empty()) return false;
  auto const users = f.users(d);
  std::vector<Fusion::Offer> offers;
  for (NodeId u : users) {
    auto in = f.node(u).in;
    if (in[0] != d || std::count(in.begin(), in.end(), d) != 1) return false;
    in[0] = dy;
    in.push_back(y);
    if (auto const* dot = f.op<ReduceOp>(u); dot && dot->function == ReduceFunction::channel_dot && !dot->mask) {
      offers.push_back({std::make_shared<ReduceOp>(ReduceFunction::channel_dot, true), in});
    } else if (auto const* two = is(f, u, F::two_operand); plain(two)) {
      auto form = two->form;
      form.mask = true;
      offers.push_back({make(form), in});
    } else {
      return false;
    }
  }
  std::vector<NodeId> replaced = users;
  replaced.push_back(n);
  if (!f.pays(offers, replaced)) return false;
  // Later nodes first: removing the dead gradient at the end moves only what comes after it.
  for (std::size_t i = users.size(); i-- > 0;) f.replace(users[i], offers[i]);
  return true;
}

}  // namespace falconet
