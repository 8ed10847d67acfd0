// place: offsets in one arena. Two values may share memory when their lives, counted in nodes, do not overlap. The largest are
// placed first, each at the lowest offset that is free during its life (greedy by size: Pisarchyk & Lee 2020). On a GPU independent launches
// of small networks may run side by side (pass lanes): there, values that all fit a quarter of its second-level cache share nothing, and
// up to 1 GiB memory rests for a few nodes after its last use (fewer where a given memory has no room for that), so that filter gradients need not end before the next layer's work begins.
// What the step reads of the launches that run once (CompileContext::constant_nodes) lives to the end, so no step writes there; a filter that
// is only packed lives until it is, and shares memory with the step's values: it is made anew before it is packed anew.
#include <algorithm>
#include <limits>

#include "falconet/ops/copy/op.h"
#include "falconet/plan/compile.h"

namespace falconet {
namespace {

struct Block {
  std::int64_t bytes;
  int first, last;               // nodes during which it is alive
  std::int64_t* offset;          // where to write the answer
};

std::int64_t rounded(std::int64_t bytes) { return (std::max<std::int64_t>(bytes, 1) + 63) / 64 * 64; }

std::int64_t place_all(std::vector<Block>& blocks) {
  std::stable_sort(blocks.begin(), blocks.end(), [](Block const& a, Block const& b) { return a.bytes > b.bytes; });
  std::vector<Block const*> placed;    // by offset
  std::int64_t total = 0;
  for (auto& b : blocks) {
    std::int64_t at = 0;
    for (Block const* p : placed) {
      if (p->last < b.first || b.last < p->first) continue;
      if (*p->offset - at >= b.bytes) break;               // the gap before p is large enough
      at = std::max(at, *p->offset + p->bytes);
    }
    *b.offset = at;
    total = std::max(total, at + b.bytes);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), &b, [](Block const* a, Block const* c) { return *a->offset < *c->offset; }), &b);
  }
  return total;
}

}  // namespace

int packed_at(Graph const& graph, CompileContext const& context, NodeId n) {
  auto const maker = graph.values[std::size_t(graph.nodes[std::size_t(n)].in[std::size_t(context.prepared[std::size_t(n)].operand)])].from;
  return std::max<NodeId>(maker, 0);
}

bool is_view(Graph const& graph, CompileContext const& context, NodeId n) {
  auto const& node = graph.nodes[std::size_t(n)];
  if (n < context.constant_nodes || !dynamic_cast<Reshape const*>(node.op.get()) || graph.values[std::size_t(node.in[0])].from < context.constant_nodes) return false;
  auto const in_order = [&](ValueId v) {
    auto const& t = graph.values[std::size_t(v)].type;
    return t.shape.rank() != 4 || t.layout == Layout::nchw || t.shape[1] == 1 || t.shape[2] * t.shape[3] == 1;
  };
  return in_order(node.in[0]) && in_order(node.out[0]);
}

void pass_place(Graph& graph, CompileContext& context) {
  int const nodes = int(graph.nodes.size());
  auto const values = graph.values.size();
  for (int n = 0; n < nodes; ++n)
    if (is_view(graph, context, n)) graph.values[std::size_t(graph.nodes[std::size_t(n)].out[0])].alias = graph.nodes[std::size_t(n)].in[0];
  // The value whose memory each one lies in.
  std::vector<ValueId> home(values);
  for (std::size_t i = 0; i < values; ++i) {
    home[i] = ValueId(i);
    while (graph.values[std::size_t(home[i])].alias >= 0) home[i] = graph.values[std::size_t(home[i])].alias;
  }
  std::vector<int> first(values, nodes), last(values, -1);
  auto alive = [&](ValueId v, int n) {
    auto h = std::size_t(home[std::size_t(v)]);
    first[h] = std::min(first[h], n);
    last[h] = std::max(last[h], n);
  };
  for (int n = 0; n < nodes; ++n) {
    auto const& node = graph.nodes[std::size_t(n)];
    for (std::size_t i = 0; i < node.in.size(); ++i) {
      ValueId const v = node.in[i];
      bool const packed = context.prepared[std::size_t(n)].bytes > 0 && context.prepared[std::size_t(n)].operand == int(i);
      alive(v, packed ? packed_at(graph, context, n) : n);
      if (NodeId const maker = graph.values[std::size_t(v)].from; !packed && n >= context.constant_nodes && maker >= 0 && maker < context.constant_nodes) alive(v, nodes);
    }
    for (ValueId v : node.out) alive(v, n);
  }
  for (std::size_t i = 0; i < values; ++i)
    if (graph.values[i].role == Role::input) first[i] = 0, last[i] = nodes;      // written from outside, at any time between steps
  for (auto const& [name, id] : context.outputs) alive(id, nodes);

  context.offset.assign(values, -1);
  context.scratch_offset.assign(std::size_t(nodes), 0);
  std::vector<Block> blocks;
  for (std::size_t i = 0; i < values; ++i) {
    auto const& v = graph.values[i];
    bool const kept_elsewhere = v.from < 0 && (v.role == Role::parameter || v.role == Role::state);
    bool const used = last[i] >= 0 || v.role == Role::input;
    if (home[i] != ValueId(i) || kept_elsewhere || !used || v.name == "(removed)") continue;
    blocks.push_back({rounded(std::int64_t(v.type.bytes())), first[i], last[i], &context.offset[i]});
  }
  for (int n = 0; n < nodes; ++n)
    if (context.scratch[std::size_t(n)] > 0) blocks.push_back({rounded(context.scratch[std::size_t(n)]), n, n, &context.scratch_offset[std::size_t(n)]});
  context.prepared_offset.assign(std::size_t(nodes), 0);
  for (int n = 0; n < nodes; ++n)
    if (auto const bytes = context.prepared[std::size_t(n)].bytes; bytes > 0)
      blocks.push_back({rounded(std::int64_t(bytes)), packed_at(graph, context, n), nodes, &context.prepared_offset[std::size_t(n)]});
  std::int64_t together = 0;
  for (auto const& b : blocks) together += b.bytes;
  constexpr int rest = 6;                  // nodes: a layer's backward launches and a few of the next
  constexpr std::int64_t most_to_rest = std::int64_t(1) << 30;
  bool const cuda = context.options.facts.device.kind == DeviceKind::cuda, apart = cuda && together <= context.options.facts.l2_bytes / 4;
  if (apart)
    for (auto& b : blocks) b.first = 0, b.last = nodes;
  context.plan.memory_bytes = place_all(blocks);
  context.side_by_side = apart || (cuda && context.plan.memory_bytes <= most_to_rest);
  if (context.side_by_side && !apart) {
    std::int64_t kept = 0;                       // beside this memory: weights and optimizer states
    for (auto const& v : graph.values)
      if (v.from < 0 && (v.role == Role::parameter || v.role == Role::state) && v.name != "(removed)") kept += std::int64_t(v.type.bytes());
    std::int64_t const given = context.options.memory > 0 ? context.options.memory - kept : std::numeric_limits<std::int64_t>::max();
    auto const lives = blocks;
    for (int r : {rest, rest / 2, 1, 0}) {       // less rest where it does not fit the memory that is given
      blocks = lives;
      for (auto& b : blocks) b.last = std::min(nodes, b.last + r);
      context.plan.memory_bytes = place_all(blocks);
      if (context.plan.memory_bytes <= given) break;
    }
  }
  for (std::size_t i = 0; i < values; ++i)
    if (home[i] != ValueId(i)) context.offset[i] = context.offset[std::size_t(home[i])];
}

}  // namespace falconet
